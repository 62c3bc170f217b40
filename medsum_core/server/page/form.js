// The form: source text, sections, images. What the server offers decides what can be chosen.

import { startAccess } from "./access.js";
import { getJson, RequestError } from "./api.js";
import { byId, el } from "./dom.js";
import { clearError, showError } from "./messages.js";
import { attachedImages, forgetImages, startImages } from "./images.js";
import { swapSpeakers, titled } from "./text.js";

let options = null; // what the server offers; null until it answered

/**
 * Asks the server what it offers; false, with the error shown, where it does not answer. What was ticked stays where it
 * offers the same as before.
 */
async function loadOptions() {
  const known = JSON.stringify(options);
  try {
    options = await getJson("options");
  } catch (error) {
    showError(error);
    return false;
  }
  clearError();
  if (JSON.stringify(options) !== known) drawOptions();
  return true;
}

function drawOptions() {
  byId("model").textContent = `Written by ${options.model}`;
  byId("notice-text").textContent = options.notice.replace(/^(a )?draft /i, ""); // "Draft" stands before it
  byId("sections").replaceChildren(...choices().map(tickBox));
  byId("whole-line").hidden = choices().length === 0;
  tickAll(options.visit_divisions.length > 0);
  byId("grounded-line").hidden = !options.grounded_available;
  byId("grounded").checked = byId("grounded").disabled = options.grounded; // so asked for when the server was started
  byId("choices").hidden = choices().length === 0 && !options.grounded_available;
  startImages(options.max_images);
  byId("dialogue-title").textContent = byId("said-title").textContent = titled(options.source);
  byId("change").textContent = `Change ${titled(options.source).toLowerCase()}`;
  if (options.max_images) drawQuestion();
}

/** The form's words for a task about images, whose text is a question or an indication. */
function drawQuestion() {
  byId("dialogue-help").textContent = "What is asked about the images below. It stays on this page and on this "
    + "server; nothing is stored.";
  byId("dialogue").rows = 3;
  byId("swap").hidden = true;
}

export const isChecked = () => options.checks;

export function emptyForm() {
  byId("dialogue").value = "";
  forgetImages();
}

/** The words for a section as the server names it: "GENHX", "objective_exam", "" where a task has none. */
export function titleOf(section) {
  const known = options.sections.find(({ code }) => code === section);
  return known?.name ?? (section.replaceAll("_", " ") || "Note");
}

/** The sections of a run, or the divisions of one that writes whole visits; none where its task has neither. */
const choices = () => [...options.sections.map(({ code }) => code), ...options.visit_divisions];

const tickBox = (code) => el("label", { class: "tick" },
  el("input", { type: "checkbox", name: "section", value: code, change: drawWhole }), el("span", {}, titleOf(code)));

const boxes = () => [...document.querySelectorAll("[name=section]")];

function tickAll(isTicked) {
  for (const box of boxes()) box.checked = isTicked;
  drawWhole();
}

function drawWhole() {
  byId("whole").checked = boxes().every((box) => box.checked);
  byId("whole").indeterminate = !byId("whole").checked && boxes().some((box) => box.checked);
}

/**
 * What is to be written, {dialogue, sections, grounded} and, of a task about images, {images}; null, with the reason
 * shown, where that can't be said.
 */
export async function readForm() {
  if (options === null) await loadOptions();
  if (options === null) return null;
  clearError();
  const sections = boxes().filter((box) => box.checked).map((box) => box.value);
  if (!sections.length && choices().length) {
    showError(new RequestError("Tick at least one section.", 0));
    return null;
  }
  if (options.max_images && !attachedImages().length) {
    showError(new RequestError("Attach the image that is asked about.", 0));
    return null;
  }
  const images = options.max_images ? { images: attachedImages() } : {};
  return { dialogue: byId("dialogue").value, sections, grounded: byId("grounded").checked, ...images };
}

function swap() {
  const swapped = swapSpeakers(byId("dialogue").value);
  if (swapped) byId("dialogue").value = swapped.text;
  byId("swapped").textContent = swapped ? `${swapped.names.join(" and ")} exchanged.` : "No two speakers found.";
}

async function openFile() {
  const [file] = byId("file").files;
  if (!file) return;
  try {
    byId("dialogue").value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    clearError();
  } catch {
    showError(new RequestError("That file is no text in UTF-8. Save it as plain text, or paste the text.", 0));
  }
  byId("file").value = ""; // the same file can be opened again
}

/** Connects the form's controls and asks the server what it offers. */
export function startForm() {
  byId("swap").addEventListener("click", swap);
  byId("file").addEventListener("change", openFile);
  byId("whole").addEventListener("change", () => tickAll(byId("whole").checked));
  startAccess(loadOptions);
  loadOptions();
}
