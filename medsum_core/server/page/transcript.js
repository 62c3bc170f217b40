// The source text as a list of turns, with what the notes leave out marked in it.

import { arrowKeys, byId, el, pressable } from "./dom.js";
import { runs } from "./text.js";
import { SIGNS } from "./visit.js";

/** Draws the turns of the visit; `onTurn(number)` is called when the reader chooses one. */
export function drawTranscript(visit, onTurn) {
  byId("turns").replaceChildren(...visit.turns.map((turn, number) => turnItem(visit, turn, number, onTurn)));
  arrowKeys(byId("turns"), ".turn");
}

function turnItem(visit, turn, number, onTurn) {
  const whole = visit.said(turn.start, turn.end);
  const left = visit.omitted.filter((one) => one.turn === number)
    .map(({ start, end }) => ({ start: start - turn.start, end: end - turn.start }));
  const tag = { start: 0, end: tagLength(whole, turn.speaker), isTag: true };
  const marked = runs(whole, [tag, ...left]).map(({ text, spans: [first] }) => {
    if (!first) return text;
    return first.isTag ? el("strong", {}, text) : mark("left-out", text);
  });
  const box = el("div", { class: "turn", "data-turn": String(number), "aria-pressed": "false" },
    el("span", { class: "number" }, String(number + 1)), el("span", { class: "words" }, ...marked));
  pressable(box, () => onTurn(number));
  return el("li", {}, box);
}

/** How many characters of a turn are its speaker's tag, the sign behind the name included. */
function tagLength(whole, speaker) {
  return speaker ? Array.from(whole.slice(0, whole.indexOf(speaker) + speaker.length + 1)).length : 0;
}

/** Marked text with its sign as a word beside it: colour is never the only sign. */
export function mark(sign, text, { withWord = true } = {}) {
  const word = withWord ? el("span", { class: "sign" }, SIGNS[sign].word) : null;
  return el("mark", { class: sign }, el("span", { class: "marked" }, text), word);
}

/** What a turn says, as "Turn 3, Patient: ..." without cutting anything. */
export function quoteTurn(visit, number) {
  const turn = visit.turns[number];
  return `Turn ${number + 1}, ${visit.said(turn.start, turn.end)}`;
}
