// The review page: a source text becomes notes; they are checked, edited, signed and exported.

import { postJson, postStream, RequestError } from "./api.js";
import { Card, flagItem } from "./card.js";
import { byId, keepFocus } from "./dom.js";
import { emptyForm, isChecked, readForm, startForm, titleOf } from "./form.js";
import { Links } from "./links.js";
import { clearError, say, showError } from "./messages.js";
import { showImages } from "./images.js";
import { copy, drawSigning, logEdit, save, sign } from "./signing.js";
import { drawTranscript } from "./transcript.js";
import { Visit } from "./visit.js";

const PAUSE = 800; // ms without a key before an edited note is checked again

let visit = null;
let cards = [];
let links = null;
let writing = null; // an AbortController while notes are written
let timer = 0;
let lastCheck = 0;

// ---- the two states of the page: the form, or the notes

function showForm() {
  byId("review").hidden = true;
  byId("flag-bar").hidden = true;
  byId("input").hidden = false;
  byId("back").hidden = visit === null;
}

function showNotes() {
  byId("input").hidden = true;
  byId("review").hidden = false;
}

const isUnsaved = () => visit !== null && !visit.isExported && visit.notes.some((note) => note.text);
const mayDrop = () => !isUnsaved() || confirm("The notes were not exported. Go on without them?");

function change() {
  writing?.abort();
  showForm();
  byId("dialogue").focus();
}

function startAnew() {
  if (!mayDrop()) return;
  visit = null;
  emptyForm();
  showImages([]);
  clearError();
  change();
}

function back() {
  showNotes();
  drawFinish();
  byId("written-title").focus();
}

// ---- writing

async function write(event) {
  event.preventDefault();
  const request = await readForm();
  if (request === null || !mayDrop()) return;
  const before = visit;
  const current = new Visit(request.dialogue, request.sections, { isChecked: isChecked(), images: request.images });
  begin(current);
  writing = new AbortController();
  const failure = await follow(postStream("notes", { ...request, stream: true }, writing.signal));
  writing = null;
  if (visit === current) await finish(failure, before);
}

function begin(fresh) {
  say("");
  showNotes();
  putOnPage(fresh);
  drawProgress();
  byId("stop").focus();
}

function putOnPage(other) {
  visit = other;
  visit.open.clear(); // of notes that were being edited, the text so far counts
  links = new Links(visit, markSeen);
  cards = visit.notes.map((_, index) => new Card(visit, index, {
    onSentence: (at, start) => links.showSentence(at, start),
    onFlag: (flag) => links.showFlag(flag),
    onEdit: edited,
    onDone: editDone,
  }));
  byId("notes").replaceChildren(...cards.map((card) => card.element));
  showImages(visit.images);
  refresh();
}

/** Draws the events of an answer as they come; null where the answer was whole, else what ended it. */
async function follow(events) {
  try {
    for await (const { event, data } of events) {
      if (event === "error") throw new RequestError(data.message, 500);
      if (event === "done") {
        visit.take(data, { withText: true });
        return null;
      }
      receive(event, data);
    }
    return new RequestError("The server ended its answer early.", 0);
  } catch (error) {
    return error;
  }
}

function receive(event, data) {
  if (event === "turns") {
    visit.id = data.id;
    visit.turns = data.turns;
    drawTranscript(visit, (number) => links.showTurn(number));
  } else if (event === "text") {
    cards[data.index].append(data.text);
  } else if (event === "note") {
    visit.takeNote(data.index, data, { withText: true });
    cards[data.index].update();
    say(`${titleOf(data.section)} is written.`);
  }
  drawProgress();
}

function drawProgress() {
  const done = visit.notes.filter((note) => note.isDone).length;
  const words = visit.notes.flatMap((note) => note.text.split(/\s+/).filter(Boolean)).length;
  byId("writing").hidden = !visit.isWriting;
  byId("progress").max = visit.notes.length;
  byId("progress").value = done;
  byId("progress-text").textContent = `${done} of ${visit.notes.length} sections, ${words} words`;
}

/** After an answer, whole or ended by `failure`; `before`: the visit whose place it took. */
async function finish(failure, before) {
  const isStopped = failure?.name === "AbortError"; // by the reader
  visit.isWriting = false;
  if (failure && !visit.turns.length) { // nothing came: the reader's text is still in the form
    if (before) putOnPage(before);
    else visit = null;
    showForm();
    byId(isStopped ? "dialogue" : "write").focus({ preventScroll: true }); // the error above it stays in sight
    if (!isStopped) showError(failure);
    return;
  }
  for (const note of visit.notes.filter((one) => !one.isDone)) note.isUnfinished = true;
  visit.isStale = failure !== null;
  drawProgress();
  refresh();
  byId("written-title").focus();
  say(failure ? "Stopped: the notes are not complete." : summary("Written"));
  if (isStopped) await check();
  else if (failure) showError(failure);
}

function summary(what) {
  if (!visit.isChecked) return `${what}: not checked, compare it yourself.`;
  const count = visit.flags().length;
  return `${what}: ${count === 0 ? "no flag" : count === 1 ? "1 flag to look at" : `${count} flags to look at`}.`;
}

// ---- edits, the check, and what the reader has seen

function edited(index) {
  visit.isStale = true;
  visit.signature = null;
  visit.isExported = false;
  cards[index].update();
  drawFinish();
  clearTimeout(timer);
  const current = visit;
  timer = setTimeout(() => {
    if (visit === current) check(); // not of a visit that was begun meanwhile, or of none
  }, PAUSE);
}

async function editDone(index, isChanged) {
  const current = visit;
  clearTimeout(timer);
  drawFinish();
  if (current.isStale) await check();
  if (isChanged) await logEdit(current, current.notes[index]);
}

/** Checks the notes as they stand; an answer that a later check has overtaken is dropped. */
async function check() {
  const [current, number] = [visit, lastCheck + 1];
  lastCheck = number;
  const notes = visit.notes.map(({ section, text }) => ({ section, note: text }));
  let found;
  try {
    found = await postJson("check", { dialogue: visit.dialogue, notes });
  } catch (error) {
    showError(error);
    return;
  }
  if (visit !== current || lastCheck !== number) return;
  clearError();
  visit.take({ ...found, id: visit.id, model: visit.model }, { withText: false });
  visit.isStale = visit.notes.some((note) => note.text !== note.checkedText);
  refresh();
  say(summary(visit.isChecked ? "Checked again" : "Changed"));
}

function markSeen(keys) {
  for (const key of keys) visit.seen.add(key);
  for (const button of document.querySelectorAll(".flag")) {
    if (visit.seen.has(button.dataset.key)) button.querySelector(".seen").textContent = "✓ seen";
  }
  drawFinish();
}

/** The next flag that was not seen; after the last one the way to the signature. */
function nextFlag() {
  const [flag] = visit.unseen();
  if (flag) {
    links.showFlag(flag);
    return;
  }
  byId("finish").scrollIntoView({ block: "center" });
  byId("signer").focus();
}

// ---- drawing

function refresh() {
  keepFocus(() => {
    drawTranscript(visit, (number) => links.showTurn(number));
    for (const card of cards) card.update();
    drawLeftOut();
  });
  for (const help of document.querySelectorAll(".of-checks")) help.hidden = !visit.isChecked;
  byId("unchecked").hidden = visit.isWriting || visit.isChecked;
  byId("sees").hidden = visit.isWriting || !visit.isChecked || !visit.checkedKinds;
  byId("sees-text").textContent = `Looked up: ${visit.checkedKinds}. Everything else is not: a sentence without a flag `
    + "can still be wrong.";
  drawFinish();
}

function drawLeftOut() {
  const left = visit.flags().filter((flag) => flag.note === null);
  byId("omissions").hidden = visit.isWriting || !visit.isChecked;
  byId("omissions-help").textContent = left.length
    ? "Not all of this belongs in a note: that is yours to judge." : "The check found nothing that is left out.";
  byId("left-out").replaceChildren(...left.map((flag) => flagItem(flag, visit.seen, (one) => links.showFlag(one))));
}

function drawFinish() {
  const [all, unseen] = [visit.flags().length, visit.unseen().length];
  byId("flag-bar").hidden = visit.isWriting || byId("review").hidden || (!all && !visit.isChecked);
  byId("flag-count").textContent = visit.isStale ? "Check out of date" : `${all - unseen} of ${all} flags seen`;
  byId("next-flag").textContent = unseen ? "Next flag" : "Go to sign-off";
  if (!visit.isStale && document.activeElement === byId("recheck")) byId("signer").focus();
  byId("recheck").hidden = !visit.isStale;
  drawSigning(visit);
}

// ---- start

byId("input").addEventListener("submit", write);
byId("stop").addEventListener("click", () => writing?.abort());
byId("change").addEventListener("click", change);
byId("back").addEventListener("click", back);
byId("new").addEventListener("click", startAnew);
byId("recheck").addEventListener("click", check);
byId("next-flag").addEventListener("click", nextFlag);
byId("signer").addEventListener("input", drawFinish);
byId("sign").addEventListener("click", () => {
  const signed = visit;
  sign(signed, () => visit === signed);
});
byId("copy").addEventListener("click", () => copy(visit));
byId("save").addEventListener("click", () => save(visit));
addEventListener("beforeunload", (event) => {
  if (isUnsaved()) event.preventDefault();
});
startForm();
