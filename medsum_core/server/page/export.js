// What leaves the page, built from what is on the screen: text, Markdown, JSON, a FHIR document.

import { fhirDocument } from "./fhir.js";
import { titleOf } from "./form.js";
import { SIGNS } from "./visit.js";

const DRAFT = "DRAFT, not signed: to be checked";

/** {content, type, name}: what the format makes of the visit, its media type and the file's name. */
export function exportVisit(visit, format) {
  const { make, type, ending } = FORMATS[format];
  return { content: make(visit), type, name: `visit-notes${visit.signature ? "" : "-draft"}.${ending}` };
}

const FORMATS = {
  text: { make: toText, type: "text/plain", ending: "txt" },
  markdown: { make: toMarkdown, type: "text/markdown", ending: "md" },
  json: { make: (visit) => indented(toRecord(visit)), type: "application/json", ending: "json" },
  fhir: { make: (visit) => indented(fhirDocument(visit)), type: "application/fhir+json", ending: "fhir.json" },
};

const indented = (value) => `${JSON.stringify(value, null, 2)}\n`;

function state(visit) {
  if (!visit.signature) return DRAFT + (visit.isChecked ? " against the source text" : ", as nothing of it was");
  return `Signed by ${visit.signature.name}, ${visit.signature.time.toISOString()}`;
}

function toText(visit) {
  const notes = visit.notes.map((note) => `${titleOf(note.section)}\n${note.text.trim()}\n`);
  return `${[`${state(visit)}\n`, ...notes].join("\n")}`;
}

/** Signs that Markdown or HTML would take for their own are escaped: the text reads as it stands on the page. */
function toMarkdown(visit) {
  const plain = (text) => text.replace(/[\\`*_[\]<>#|~&]/g, "\\$&").replace(/^\s*(\d*)([-+=.)])/gm, "$1\\$2")
    .replace(/\n+/g, "\n\n");
  const notes = visit.notes.map((note) => `## ${plain(titleOf(note.section))}\n\n${plain(note.text.trim())}\n`);
  return [`# Visit notes\n\n*${plain(state(visit))}*\n`, ...notes].join("\n");
}

/** The notes with their flags, offsets in code points into each note; `seen` by the reader or not. */
function toRecord(visit) {
  const flags = visit.flags().map((flag) => ({
    flag: SIGNS[flag.sign].word, kind: flag.kind, note: flag.note, start: flag.start, end: flag.end, text: flag.text,
    seen: visit.seen.has(flag.key),
  }));
  return {
    status: visit.signature ? "signed" : "draft",
    signed_by: visit.signature?.name ?? null,
    signed_at: visit.signature?.time.toISOString() ?? null,
    id: visit.id,
    model: visit.model,
    check_is_current: visit.isChecked && !visit.isStale,
    notes: visit.notes.map((note, index) => ({
      section: note.section, note: note.text, edited: visit.isEdited(note),
      flags: flags.filter((flag) => flag.note === index).map(({ note: _, ...rest }) => rest),
    })),
    left_out: flags.filter((flag) => flag.note === null).map(({ note: _, ...rest }) => rest),
  };
}

/** Hands the browser a file to save. */
export function saveFile({ content, type, name }) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000); // not before the browser has read it
}

/** Puts text on the clipboard, also where the page comes over plain http and navigator.clipboard is missing. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("the browser does not let this page copy");
}
