// What the page says to its reader: errors in a box of their own, everything else in a line that is read out.

import { askForToken } from "./access.js";
import { RequestError } from "./api.js";
import { byId } from "./dom.js";

/**
 * Shows an error in words, and where the server wants a token the field for it. A fault of the page itself is also
 * raised again: the browser's console has it then.
 */
export function showError(error) {
  if (error.status === 401) {
    askForToken(error.message);
    return;
  }
  const text = error instanceof RequestError ? error.message : `This page failed: ${error.name}. Reload it.`;
  byId("error").textContent = text;
  byId("error").hidden = false;
  byId("error").scrollIntoView({ block: "nearest" });
  if (!(error instanceof RequestError)) throw error;
}

export function clearError() {
  byId("error").hidden = true;
}

export function say(text) {
  byId("told").textContent = text;
}
