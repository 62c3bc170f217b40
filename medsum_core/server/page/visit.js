// One visit on the page: source text, notes, what the check found, what the reader has seen, the signature. No DOM.

import { slice } from "./text.js";

/** A flag's sign, as it is written beside the colour, and what it means. */
export const SIGNS = {
  "not-said": { word: "not said", means: "The source text does not say this." },
  contradicted: { word: "contradicted", means: "The source text says otherwise." },
  "left-out": { word: "left out", means: "In the source text, not found in the notes." },
  unfinished: { word: "unfinished", means: "The note stops before its end." },
  shortened: { word: "shortened", means: "The source text was too long: parts of it were not read for this note." },
};
const SIGN_OF_VERDICT = { not_found: "not-said", contradicted: "contradicted" };

export class Visit {
  /** `isChecked`: the server looks its facts up in the source text. `images`: of the request, as data URLs. */
  constructor(dialogue, sections, { isChecked, images = [] }) {
    this.isChecked = isChecked;
    this.images = images;
    this.dialogue = dialogue;
    this.points = Array.from(dialogue); // once: a visit of an hour has 60,000
    this.id = null;
    this.model = "";
    this.turns = [];
    this.notes = (sections.length ? sections : [""]).map(blankNote); // a task without sections writes one note
    this.omitted = [];
    this.checkedKinds = "";
    this.isWriting = true;
    this.isStale = false; // a note was changed after the last check
    this.open = new Set(); // the notes, by number, that are being edited
    this.seen = new Set(); // keys of flags
    this.signature = null; // {name, time}
    this.isExported = false;
  }

  /** Takes over what /notes or /check answered; a note's own text only where `withText`, else it is the reader's. */
  take(result, { withText }) {
    this.id = result.id;
    this.model = result.model;
    this.turns = result.turns;
    this.omitted = result.omitted;
    this.checkedKinds = result.checked_kinds;
    result.notes.forEach((note, index) => this.takeNote(index, note, { withText }));
  }

  takeNote(index, found, { withText }) {
    const note = this.notes[index];
    if (withText) {
      note.text = note.written = found.note;
      note.section = found.section; // of some tasks the model chooses it
      note.isUnfinished = found.hit_limit;
      note.isShortened = found.truncated;
      note.leftOut = found.left_out;
    }
    note.isDone = true;
    note.checkedText = found.note;
    note.checked = found.checked;
    note.unsupported = found.unsupported.map(([start, end, kind, verdict]) => ({ start, end, kind, verdict }));
    note.evidence = found.evidence;
    note.contradictedBy = found.contradicted_by;
  }

  /** The characters [start, end) of the source text, counted in code points. */
  said(start, end) {
    return this.points.slice(start, end).join("");
  }

  /**
   * All there is to look at, in the order of the page: {key, sign, kind, text, note, start, end, turns, against}.
   * `note` is null for what is left out; `turns` are those of its sentence, `against` those that say otherwise.
   */
  flags() {
    const flags = this.notes.flatMap((note, index) => this.flagsOfNote(index));
    const left = this.omitted.map(({ turn, start, end, kind }) => ({
      sign: "left-out", kind, text: this.said(start, end), note: null, start, end, turns: [turn], against: [],
      context: String(turn),
    }));
    return withKeys([...flags, ...left]);
  }

  flagsOfNote(index) {
    const note = this.notes[index];
    const flags = note.unsupported.map(({ start, end, kind, verdict }) => {
      const sentence = note.evidence.find((one) => one.start <= start && start < one.end);
      const against = note.contradictedBy.filter((one) => one.start < end && start < one.end)
        .map((one) => one.turn);
      const turns = sentence?.turns ?? [];
      const context = sentence ? slice(note.checkedText, sentence.start, sentence.end) : "";
      const text = slice(note.checkedText, start, end);
      return { sign: SIGN_OF_VERDICT[verdict], kind, text, turns, against, note: index, start, end, context };
    });
    const end = Array.from(note.text).length;
    const whole = { kind: "", text: "", turns: [], against: [], note: index, start: end, end, context: "" };
    if (note.isUnfinished) flags.push({ sign: "unfinished", ...whole });
    if (note.isShortened) flags.push({ sign: "shortened", ...whole });
    return flags;
  }

  unseen() {
    return this.flags().filter((flag) => !this.seen.has(flag.key));
  }

  /** Why the notes can't be signed yet, for the reader; "" where nothing is in the way. */
  obstacle(name) {
    if (this.isWriting) return "The notes are still being written.";
    if (this.open.size) return "A note is still being edited.";
    if (this.isStale) return "A note was changed: its check must run again first.";
    const count = this.unseen().length;
    if (count) return `${count} ${count === 1 ? "flag was" : "flags were"} not looked at yet.`;
    if (!this.notes.some((note) => note.text.trim())) return "There is no note to sign.";
    return name.trim() ? "" : "Type your name to sign.";
  }

  isEdited(note) {
    return note.text !== note.written;
  }
}

function blankNote(section) {
  return {
    section, text: "", written: "", checkedText: "", isDone: false, isUnfinished: false, isShortened: false, leftOut: 0,
    isLogged: true, checked: 0, unsupported: [], evidence: [], contradictedBy: [],
  };
}

/** A flag is the same after another check if its sentence still is: one that was seen stays seen. */
function withKeys(flags) {
  const counts = new Map();
  return flags.map((flag) => {
    const name = JSON.stringify([flag.sign, flag.kind, flag.text, flag.note, flag.context]);
    counts.set(name, (counts.get(name) ?? 0) + 1);
    return { ...flag, key: `${name}${counts.get(name)}` };
  });
}
