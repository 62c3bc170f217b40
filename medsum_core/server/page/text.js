// Text by code points: the server counts as Python does, where an emoji is one character; in JavaScript it is two.

/** The characters [start, end) of a text, counted in code points. */
export function slice(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

/**
 * A text cut wherever one of the spans begins or ends: [{text, start, end, spans}], `spans` being those that cover it.
 * Spans may overlap; what lies outside of the text is left out.
 */
export function runs(text, spans) {
  const points = Array.from(text);
  const inside = spans.filter((span) => span.start < span.end && span.start < points.length);
  const cuts = new Set([0, points.length]);
  for (const span of inside) {
    cuts.add(span.start);
    cuts.add(Math.min(span.end, points.length));
  }
  const edges = [...cuts].sort((a, b) => a - b);
  return edges.slice(1).map((end, i) => ({
    text: points.slice(edges[i], end).join(""),
    start: edges[i],
    end,
    spans: inside.filter((span) => span.start < end && span.end > edges[i]),
  }));
}

/** The name of a prompt's part as a title: "context", "patient_history". */
export const titled = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Where two texts differ, as [start, end) in the second one, in code points. */
export function changedSpan(before, after) {
  const [a, b] = [Array.from(before), Array.from(after)];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let tail = 0;
  while (tail < Math.min(a.length, b.length) - start && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  return [start, b.length - tail];
}

// "Doctor:", "[doctor]", "**Doctor:**" at the beginning of a line, after a time if there is one.
const TIME = String.raw`(?:[[(]?\d{1,2}:\d\d(?::\d\d)?[\])]?[ \t]*)?`;
const NAME = String.raw`\p{L}[\p{L}\p{N} .'’_\-]{0,40}?`;
const TAG = new RegExp(String.raw`^([ \t]*${TIME}[[<*]*)(${NAME})(\**[\]>:：])`, "gmu");

/** The text with its two most frequent speakers exchanged, and their names; null where there are no two. */
export function swapSpeakers(dialogue) {
  const counts = new Map();
  for (const [, , name] of dialogue.matchAll(TAG)) counts.set(name, (counts.get(name) ?? 0) + 1);
  const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, 2);
  if (names.length < 2) return null;
  const other = new Map([names, [names[1], names[0]]]);
  const text = dialogue.replace(TAG, (tag, before, name, after) => before + (other.get(name) ?? name) + after);
  return { text, names };
}
