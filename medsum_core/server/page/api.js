// Requests to this server. The token lives in this module's memory and in the Authorization header, nowhere else.

let token = "";

export function setToken(value) {
  token = value.trim();
}

/** A refusal in words for the reader; `status` is HTTP's, 0 where the server was not reached. */
export class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const KEPT = "Your text is still on this page.";
const ASKED = "The server wants an access token. Type it, then do again what was refused.";
const REFUSED = "The server does not know this access token. Type another, then do again what was refused.";
const OUR_WORDS = { // where the server's are for programs
  401: () => (token ? REFUSED : ASKED),
  403: () => "The server refuses requests from this address: open the page under the address that the server printed.",
};

async function refusal(response) {
  const body = await response.json().catch(() => null); // a proxy's error page
  const seconds = response.headers.get("Retry-After");
  const said = OUR_WORDS[response.status]?.() ?? body?.error?.message ?? "no reason given";
  const later = seconds ? ` Try again in ${seconds} seconds.` : "";
  return new RequestError(`${said.replace(/[^.!?]$/, "$&.")}${later} ${KEPT}`, response.status);
}

async function send(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, signal, credentials: "omit", cache: "no-store", redirect: "error" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(`The server can't be reached. Is it still running? ${KEPT}`, 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const getJson = async (path) => (await send(path)).json();

export async function postJson(path, body) {
  const response = await send(path, body);
  return response.status === 204 ? null : response.json();
}

/** Posts, and yields the events of the answer, {event, data}, as they come. Raises RequestError if it breaks off. */
export async function* postStream(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new RequestError("The connection to the server broke off. What was written so far is below.", 0);
    }
    if (part.done) return;
    const blocks = (waiting + part.value).replace(/\r\n/g, "\n").split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) yield event;
    }
  }
}

function parseEvent(block) {
  const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}:`))
    .map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\n");
  const data = field("data");
  return data ? { event: field("event"), data: JSON.parse(data) } : null; // a comment keeps the connection open
}
