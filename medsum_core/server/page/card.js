// One note of the visit on the page: its text with flags, its list of flags, editing in place.

import { arrowKeys, el, pressable } from "./dom.js";
import { titleOf } from "./form.js";
import { runs } from "./text.js";
import { mark } from "./transcript.js";
import { SIGNS } from "./visit.js";

const KINDS = { laterality: "side" }; // the check's other words are everybody's

export class Card {
  /** `actions`, of the reader: {onSentence(index, start), onFlag(flag), onEdit(index), onDone(index, isChanged)}. */
  constructor(visit, index, actions) {
    this.visit = visit;
    this.note = visit.notes[index];
    this.index = index;
    this.actions = actions;
    this.field = null; // the text area while the reader edits
    this.title = el("h3", { id: `note-${index}` });
    this.state = el("span", { class: "state" });
    this.button = el("button", { type: "button", click: () => this.edit(), "aria-describedby": this.title.id }, "Edit");
    this.text = el("div", { class: "text", role: "group", "aria-label": "Sentences" });
    this.place = el("div", { class: "quote-place" });
    this.list = el("ul", { class: "flags" });
    this.element = el("article", { class: "card", "data-note": String(index), "aria-labelledby": this.title.id },
      el("header", {}, this.title, this.state, this.button), this.text, this.place, this.list);
    this.update();
  }

  /** While the note is written: its text so far, without marks. */
  append(piece) {
    this.note.text = this.note.written += piece;
    this.text.textContent = this.note.text;
  }

  /** Draws the note as the visit has it now; a text that is being edited is left alone. */
  update() {
    const flags = this.visit.flags().filter((flag) => flag.note === this.index);
    this.title.textContent = titleOf(this.note.section);
    this.state.textContent = this.describe(flags);
    this.element.setAttribute("aria-busy", String(this.visit.isWriting && !this.note.isDone));
    this.element.classList.toggle("stale", this.isStale());
    this.button.hidden = this.visit.isWriting || this.field !== null;
    if (!this.field) this.drawText(flags);
    this.list.replaceChildren(...flags.map((flag) => flagItem(flag, this.visit.seen, this.actions.onFlag)));
  }

  isStale() {
    return !this.visit.isWriting && this.note.text !== this.note.checkedText;
  }

  describe(flags) {
    const { note, visit } = this;
    if (!note.isDone) return visit.isWriting ? "writing…" : "not finished";
    if (this.isStale()) return "changed: check out of date";
    if (!visit.isChecked) return visit.isEdited(note) ? "edited · not checked" : "not checked";
    const looked = note.checked === 1 ? "1 fact looked up" : `${note.checked} facts looked up`;
    const count = flags.length ? `${flags.length} ${flags.length === 1 ? "flag" : "flags"}` : "no flag";
    const kept = note.leftOut ? `${note.leftOut} not written: nobody said it` : null;
    return [visit.isEdited(note) ? "edited" : null, count, looked, kept].filter(Boolean).join(" · ");
  }

  drawText(flags) {
    if (this.isStale() || !this.note.isDone) { // offsets are of the text that was checked
      this.text.replaceChildren(this.note.text);
      return;
    }
    const spans = [...this.note.evidence.map((one) => ({ ...one, isSentence: true })), ...flags];
    let open = null;
    const parts = [];
    for (const run of runs(this.note.text, spans)) {
      const sentence = run.spans.find((span) => span.isSentence);
      const here = run.spans.filter((span) => !span.isSentence);
      const flag = here.find((span) => span.sign === "contradicted") ?? here[0];
      const piece = flag ? mark(flag.sign, run.text, { withWord: flag.end === run.end }) : run.text;
      if (sentence && open?.start !== sentence.start) {
        open = { start: sentence.start, element: this.sentence(sentence) };
        parts.push(open.element);
      }
      if (sentence) open.element.append(piece);
      else parts.push(piece);
      if (sentence?.verdict === "little_support" && sentence.end === run.end) open.element.append(littleSupport());
    }
    this.text.replaceChildren(...parts);
    if (!this.note.text.trim()) this.text.append(el("span", { class: "quiet" }, "Nothing was written."));
    arrowKeys(this.text, ".sentence");
  }

  sentence({ start, verdict }) {
    const style = verdict === "little_support" ? "sentence little" : "sentence";
    const place = el("span", { class: style, "data-start": String(start), "aria-pressed": "false", tabindex: "-1" });
    return pressable(place, () => this.actions.onSentence(this.index, start));
  }

  /** Puts a text area in the place of the text, until Done, Cancel or Escape. */
  edit() {
    const before = this.note.text;
    const cancel = () => {
      if (this.note.text !== before) {
        this.note.text = before;
        this.actions.onEdit(this.index);
      }
      this.close(false);
    };
    this.visit.open.add(this.index);
    this.field = el("textarea", {
      class: "edit", spellcheck: "false", autocomplete: "off", "aria-label": `${titleOf(this.note.section)}: text`,
      rows: String(Math.max(4, Math.ceil(before.length / 60))),
      input: () => {
        this.note.text = this.field.value;
        this.actions.onEdit(this.index);
      },
      keydown: (event) => {
        if (event.key === "Escape") cancel();
      },
    });
    this.field.value = before;
    const row = el("div", { class: "row" },
      el("button", { type: "button", class: "primary", click: () => this.close(this.note.text !== before) }, "Done"),
      el("button", { type: "button", click: cancel }, "Cancel"));
    this.text.replaceChildren(this.field, row);
    this.update();
    this.field.focus();
  }

  close(isChanged) {
    this.field = null;
    this.visit.open.delete(this.index);
    this.update();
    this.button.focus();
    this.actions.onDone(this.index, isChanged);
  }
}

/** No flag, since no fact is wrong: few of the sentence's words are found in the source text. */
const littleSupport = () => el("span", { class: "sign little-sign" }, "little support");

/** A line of a list of flags: its sign as a word, what kind of fact, its words, whether it was seen. */
export function flagItem(flag, seen, onFlag) {
  const words = flag.text ? `“${flag.text}”` : SIGNS[flag.sign].means;
  const button = el("button", { type: "button", class: "flag", "data-key": flag.key, click: () => onFlag(flag) },
    el("span", { class: `chip ${flag.sign}` }, SIGNS[flag.sign].word),
    el("span", { class: "kind" }, KINDS[flag.kind] ?? flag.kind), el("span", { class: "what" }, words),
    el("span", { class: "seen" }, seen.has(flag.key) ? "✓ seen" : ""));
  return el("li", {}, button);
}
