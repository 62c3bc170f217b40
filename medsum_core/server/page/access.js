// The field for the server's token: it shows where the reader is once a request is refused, and nothing else changes.

import { setToken } from "./api.js";
import { byId } from "./dom.js";

let before = null; // what had the focus: it gets it back, for the request to be repeated

/** Shows the field and why; the focus moves there, but not from a text that is being typed. */
export function askForToken(why) {
  byId("wanted").textContent = why;
  byId("access").hidden = false;
  if (!document.activeElement.matches("textarea, [type=text]")) byId("token").focus();
}

/** Connects the field; `isTaken` asks the server whether it takes the token that is in use now. */
export function startAccess(isTaken) {
  const form = byId("access");
  form.addEventListener("focusin", ({ relatedTarget }) => {
    if (!form.contains(relatedTarget)) before = relatedTarget;
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setToken(byId("token").value);
    byId("token").value = "";
    if (!(await isTaken())) return;
    form.hidden = true;
    (before ?? byId("dialogue")).focus();
  });
}
