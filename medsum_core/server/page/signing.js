// Sign-off and export, the last two steps: blocked until each flag was seen, and logged by the server.

import { postJson, RequestError } from "./api.js";
import { byId } from "./dom.js";
import { copyText, exportVisit, saveFile } from "./export.js";
import { clearError, say, showError } from "./messages.js";
import { changedSpan } from "./text.js";

let isSigning = false; // a signature is on its way to the log

/** Draws what stands in the way of a signature, or the signature. */
export function drawSigning(visit) {
  const why = visit.obstacle(byId("signer").value);
  byId("finish").hidden = visit.isWriting;
  byId("sign").setAttribute("aria-disabled", String(why !== ""));
  byId("blocked").textContent = visit.signature ? "" : why;
  byId("signing").hidden = visit.signature !== null;
  byId("seal").hidden = visit.signature === null;
  if (visit.signature === null) return;
  const { name, time } = visit.signature;
  byId("seal").textContent = `Signed by ${name}, ${time.toLocaleString()}. An edit withdraws the signature.`;
}

/**
 * Signs the notes if nothing stands in the way; a signature that is not in the server's log is none. `isOnPage`:
 * whether the visit still is, once the log has it.
 */
export async function sign(visit, isOnPage) {
  const name = byId("signer").value.trim();
  const why = visit.obstacle(name);
  if (why) {
    say(why);
    return;
  }
  if (isSigning) return; // a second click is no second signature
  clearError();
  isSigning = true;
  const isSigned = await logSignature(visit).finally(() => (isSigning = false));
  if (!isSigned || !isOnPage()) return;
  visit.signature = { name, time: new Date() };
  drawSigning(visit);
  byId("seal").focus(); // the button is hidden now
  say(`Signed by ${name}.`);
}

/** Whether the log has the signature of the notes as they are now, after their edits. */
async function logSignature(visit) {
  const texts = JSON.stringify(visit.notes.map((note) => note.text));
  for (const note of visit.notes) {
    if (!note.isLogged && !(await logEdit(visit, note))) return false; // it was not reached when it was edited
  }
  if (!(await audit(visit, { action: "signed" }))) return false;
  return JSON.stringify(visit.notes.map((note) => note.text)) === texts; // else edited while the log was written
}

/**
 * Tells the server's log that a note was edited: where it differs from what was written and a hash, never its text.
 * Whether the log has it now.
 */
export async function logEdit(visit, note) {
  const entry = { action: "edited", section: note.section, spans: [changedSpan(note.written, note.text)] };
  if (crypto.subtle) { // missing where the page comes over plain http from another host
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(note.text)));
    entry.note_sha256 = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  note.isLogged = await audit(visit, entry);
  return note.isLogged;
}

export const copy = (visit) => handOut(visit, ({ content }) => copyText(content), "Copied");
export const save = (visit) => handOut(visit, saveFile, "Saved");

async function handOut(visit, out, done) {
  const format = byId("format").value;
  try {
    await out(exportVisit(visit, format));
  } catch (error) {
    showError(new RequestError(`Nothing was exported: ${error.message}.`, 0));
    return;
  }
  visit.isExported = true;
  say(`${done}${visit.signature ? "" : " as a draft"}.`);
  await audit(visit, { action: "exported", format });
}

/** Whether the server's log has the entry; if not, the reader is told why. */
async function audit(visit, entry) {
  try {
    await postJson("audit", { id: visit.id, ...entry });
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}
