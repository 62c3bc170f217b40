// From a sentence to its turns, from a turn to its sentences: what is lit, quoted beside it and read out.

import { bringIntoView, byId, el } from "./dom.js";
import { titleOf } from "./form.js";
import { slice } from "./text.js";
import { quoteTurn } from "./transcript.js";
import { SIGNS } from "./visit.js";

const isWide = () => matchMedia("(min-width: 60rem)").matches; // as in style.css: both columns are visible

export class Links {
  /** `onSeen(keys)` is called with the flags that the reader has looked at. */
  constructor(visit, onSeen) {
    this.visit = visit;
    this.onSeen = onSeen;
  }

  /** Lights the turns of the sentence at `start` of a note; its flags count as seen. */
  showSentence(index, start) {
    const sentence = this.visit.notes[index].evidence.find((one) => one.start === start);
    const inside = this.visit.flags().filter((flag) =>
      flag.note === index && sentence.start <= flag.start && flag.start < sentence.end);
    const against = inside.flatMap((flag) => flag.against);
    this.light({ turns: sentence.turns, against, sentences: [[index, start]] });
    const place = byId("notes").querySelector(`[data-note="${index}"] .quote-place`);
    this.quote(place, this.turnLines(sentence.turns, against));
    this.scroll(isWide() ? [".turn.lit"] : [".quote"]);
    this.onSeen(inside.map((flag) => flag.key));
  }

  /** Lights the sentences that rest on a turn, or that it contradicts; what is left out of it counts as seen. */
  showTurn(number) {
    const sentences = this.visit.notes.flatMap((note, index) =>
      note.evidence.filter((one) => one.turns.includes(number) || this.contradicts(note, one, number))
        .map((one) => [index, one.start]));
    this.light({ turns: [number], against: [], sentences });
    const lines = sentences.map(([index, start]) => this.sentenceLine(index, start));
    const item = byId("turns").querySelector(`[data-turn="${number}"]`).parentElement;
    this.quote(item, lines.length ? lines : ["No sentence of the notes rests on this turn."]);
    this.scroll(isWide() ? [".sentence.lit"] : []);
    const left = this.visit.flags().filter((flag) => flag.note === null && flag.turns.includes(number));
    this.onSeen(left.map((flag) => flag.key));
  }

  /** Lights the place of one flag and the turns that it is about. */
  showFlag(flag) {
    const note = this.visit.notes[flag.note];
    const sentence = note?.evidence.find((one) => one.start <= flag.start && flag.start < one.end);
    const isLeftOut = flag.note === null;
    this.light({
      turns: isLeftOut ? flag.turns : [],
      against: flag.against,
      sentences: sentence ? [[flag.note, sentence.start]] : [],
    });
    const item = [...document.querySelectorAll(".flag")].find((button) => button.dataset.key === flag.key);
    const known = isLeftOut ? flag.turns : flag.against;
    const turns = (known.length ? known : flag.turns).map((number) => quoteTurn(this.visit, number));
    const near = !known.length && turns.length ? ["The turns that are nearest to its sentence:"] : [];
    this.quote(item.parentElement, [SIGNS[flag.sign].means, ...near, ...turns]);
    this.scroll(isWide() ? [".sentence.lit", ".turn.lit"] : [".quote"]);
    this.onSeen([flag.key]);
  }

  contradicts(note, sentence, number) {
    return note.contradictedBy.some((one) =>
      one.turn === number && sentence.start <= one.start && one.start < sentence.end);
  }

  turnLines(turns, against) {
    const lines = turns.filter((number) => !against.includes(number)).map((number) => quoteTurn(this.visit, number));
    const others = [...new Set(against)].map((number) => `Says otherwise: ${quoteTurn(this.visit, number)}`);
    if (lines.length || others.length) return [...lines, ...others];
    return ["No turn of the source text says this. Ask whether it was said at all."];
  }

  sentenceLine(index, start) {
    const note = this.visit.notes[index];
    const sentence = note.evidence.find((one) => one.start === start);
    return `${titleOf(note.section)}: ${slice(note.checkedText, sentence.start, sentence.end)}`;
  }

  light({ turns, against, sentences }) {
    for (const one of document.querySelectorAll(".lit")) {
      one.classList.remove("lit", "against");
      one.setAttribute("aria-pressed", "false");
    }
    const found = [...turns, ...against].map((number) => byId("turns").querySelector(`[data-turn="${number}"]`));
    const places = sentences.map(([index, start]) => // none while it is edited
      byId("notes").querySelector(`[data-note="${index}"] .sentence[data-start="${start}"]`));
    for (const one of [...found, ...places]) {
      one?.classList.add("lit");
      one?.setAttribute("aria-pressed", "true");
    }
    for (const number of against) byId("turns").querySelector(`[data-turn="${number}"]`).classList.add("against");
  }

  /** A box with the other side's words where the reader is, read out too; beside two columns it is not shown. */
  quote(place, lines) {
    document.querySelector(".quote")?.remove();
    place.append(el("div", { class: "quote" }, ...lines.map((line) => el("p", {}, line))));
    byId("announce").textContent = lines.join(" ");
  }

  scroll(selectors) {
    for (const selector of selectors) {
      const first = document.querySelector(selector);
      if (first) bringIntoView(first);
    }
  }
}
