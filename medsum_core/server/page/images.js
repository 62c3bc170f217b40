// The images that a question is about: chosen from this machine, shown, sent with the form, forgotten with the visit.

import { RequestError } from "./api.js";
import { byId, el } from "./dom.js";
import { clearError, showError } from "./messages.js";

const KINDS = ["image/jpeg", "image/png"]; // as the server takes them

let attached = []; // data URLs, in the order of their choice
let most = 0;

/** `number`: how many images a request may have; 0 for a run that reads text alone, which shows nothing of this. */
export function startImages(number) {
  most = number;
  byId("images").hidden = most === 0;
  byId("image").onchange = attach;
}

/** The images as data URLs. */
export const attachedImages = () => [...attached];

export function forgetImages() {
  attached = [];
  draw();
}

/** Large ones beside what was asked about them. */
export function showImages(urls) {
  byId("shown").hidden = urls.length === 0;
  byId("shown").replaceChildren(...urls.map((url, index) => imgElement(url, index, urls.length)));
}

async function attach() {
  const files = [...byId("image").files];
  byId("image").value = ""; // the same file can be chosen again
  clearError();
  if (files.some((file) => !KINDS.includes(file.type))) {
    showError(new RequestError("An image must be a JPEG or a PNG. Save it as one of these.", 0));
  } else if (attached.length + files.length > most) {
    showError(new RequestError(`At most ${most} images can be asked about at a time.`, 0));
  } else {
    await add(files);
  }
}

async function add(files) {
  try {
    attached.push(...await Promise.all(files.map(read)));
    draw();
  } catch {
    showError(new RequestError("That file can't be read.", 0));
  }
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function draw() {
  byId("attached").replaceChildren(...attached.map(thumbnail));
  byId("attached").hidden = attached.length === 0;
}

function thumbnail(url, index) {
  const label = `Remove image ${index + 1}`;
  return el("li", {}, imgElement(url, index, attached.length),
    el("button", { type: "button", click: () => remove(index), "aria-label": label }, "Remove"));
}

function remove(index) {
  attached.splice(index, 1);
  draw();
  byId("image").focus();
}

const imgElement = (url, index, count) => el("img", { src: url, alt: `Image ${index + 1} of ${count}` });
