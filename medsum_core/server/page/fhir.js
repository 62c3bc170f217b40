// A FHIR R4 document: a Bundle whose first entry is the Composition (https://hl7.org/fhir/R4/documents.html).

import { titleOf } from "./form.js";

const LOINC = "http://loinc.org";

/** Text that XML can hold: `&`, `<`, `>`, `"` as entities, characters that XML forbids left out. */
export function escapeXml(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  // Surrogates without their other half, then control characters: XML 1.0, production 2.
  return text.replace(/[\u{D800}-\u{DFFF}\u0000-\u0008\u000B\u000C\u000E-\u001F\uFFFE\uFFFF]/gu, "")
    .replace(/[&<>"]/g, (sign) => entities[sign]);
}

const div = (text) => {
  const paragraphs = text.split(/\n+/).filter((line) => line.trim());
  const inside = paragraphs.map((line) => `<p>${escapeXml(line)}</p>`).join("");
  return `<div xmlns="http://www.w3.org/1999/xhtml">${inside}</div>`;
};

/** The narrative is the content, not made from coded data: of FHIR's words for it that is "additional". */
const narrative = (text) => ({ status: "additional", div: div(text) });

/**
 * The visit as a document: "preliminary" and by the model alone until it is signed, then "final" and by the signer.
 * An empty note has no section, since FHIR wants text in each. Who the patient is isn't known here, and is said so.
 */
export function fhirDocument(visit, now = new Date()) {
  const [patient, device, signer] = Array.from({ length: 3 }, () => `urn:uuid:${uuid()}`);
  const signed = visit.signature;
  const when = (signed?.time ?? now).toISOString();
  const composition = {
    resourceType: "Composition",
    status: signed ? "final" : "preliminary",
    type: { coding: [{ system: LOINC, code: "11506-3", display: "Progress note" }], text: "Progress note" },
    subject: { reference: patient },
    date: when,
    author: [...(signed ? [{ reference: signer, display: signed.name }] : []), { reference: device }],
    title: signed ? "Visit notes" : "Visit notes (draft, not signed)",
    section: visit.notes.filter((note) => note.text.trim()).map((note) => ({
      title: titleOf(note.section),
      text: narrative(note.text),
    })),
  };
  if (signed) composition.attester = [{ mode: "professional", time: when, party: { reference: signer } }];
  const entries = [
    [`urn:uuid:${uuid()}`, composition],
    [patient, { resourceType: "Patient", text: narrative("The patient is not known to the program that wrote this.") }],
    [device, { resourceType: "Device", deviceName: [{ name: visit.model || "unknown", type: "model-name" }] }],
  ];
  if (signed) entries.push([signer, { resourceType: "Practitioner", name: [{ text: signed.name }] }]);
  return {
    resourceType: "Bundle",
    identifier: { system: "urn:ietf:rfc:3986", value: `urn:uuid:${uuid()}` },
    type: "document",
    timestamp: now.toISOString(),
    entry: entries.map(([fullUrl, resource]) => ({ fullUrl, resource })),
  };
}

/** A random UUID; crypto.randomUUID is missing where a page comes over plain http from another host. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
