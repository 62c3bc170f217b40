// For researchers: two notes of one source text, blinded and shuffled by the server, and a vote.

import { startAccess } from "./access.js";
import { getJson, postJson } from "./api.js";
import { byId, el } from "./dom.js";
import { clearError, say, showError } from "./messages.js";
import { titled } from "./text.js";

let pairId = null; // of the pair that waits for a vote
let isWriting = false;

/** Shows the refusal of a request instead of its answer; true where it was answered. */
async function trying(request) {
  try {
    await request();
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

const loadOptions = () => trying(async () => {
  const options = await getJson("options");
  clearError();
  const divisions = options.visit_divisions.map((code) => ({ code, name: code.replaceAll("_", " ") }));
  const sections = [...options.sections, ...divisions];
  const chosen = byId("section").value; // before the server wanted a token
  byId("section").replaceChildren(
    ...sections.map(({ code, name }) => el("option", { value: code, selected: code === chosen }, name)));
  byId("dialogue-title").textContent = titled(options.source);
  byId("section-choice").hidden = sections.length === 0;
});

function showPair(pair) {
  pairId = pair?.pair_id ?? null;
  byId("a").textContent = pair?.a ?? "";
  byId("b").textContent = pair?.b ?? "";
  byId("pair").hidden = pair === null;
}

async function write(event) {
  event.preventDefault();
  if (isWriting) return; // the button is not disabled: the focus would be lost
  clearError();
  showPair(null);
  say("Writing two notes…");
  isWriting = true;
  const isDone = await trying(async () => {
    const section = byId("section").value;
    const body = { dialogue: byId("dialogue").value, ...(section ? { section } : {}) }; // some tasks have no sections
    showPair(await postJson("compare/pair", body));
  });
  isWriting = false;
  say(isDone ? "Both are written: which one would you rather correct and sign?" : "");
  if (isDone) byId("pair").querySelector("button").focus();
}

async function vote(choice) {
  const voted = pairId;
  pairId = null; // a second click is no second vote
  if (voted === null) return;
  const isDone = await trying(() => postJson("compare/vote", { pair_id: voted, vote: choice }));
  if (!isDone) {
    pairId = voted;
    return;
  }
  showPair(null);
  say("Your vote is saved. Go on with the next text or section.");
  byId("dialogue").focus();
  if (byId("results").open) await showSummary();
}

/** The share of the tuned model among the votes that prefer one, with its interval. */
const showSummary = () => trying(async () => {
  const { votes, tuned, base, tie, tuned_share: share, interval } = await getJson("compare/summary");
  const percent = (value) => `${Math.round(100 * value)} %`;
  const lines = [
    `${votes} ${votes === 1 ? "vote" : "votes"}: ${tuned} for the tuned model, ${base} for the base, ${tie} equal.`,
  ];
  if (share !== null) {
    const [low, high] = interval.map(percent);
    lines.push(`Of those that prefer one, ${percent(share)} prefer the tuned (95 % interval ${low} to ${high}).`);
  }
  byId("summary").textContent = lines.join(" ");
});

byId("input").addEventListener("submit", write);
startAccess(loadOptions);
for (const button of document.querySelectorAll("[data-vote]")) {
  button.addEventListener("click", () => vote(button.dataset.vote));
}
byId("results").addEventListener("toggle", () => {
  if (byId("results").open) showSummary();
});
loadOptions();
