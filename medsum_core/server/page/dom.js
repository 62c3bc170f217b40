// Small helpers for the page's elements. Text becomes text nodes only: no string is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (a function is an event's listener; false and null are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Lets Enter and the space bar do what a click does, on an element that is no button. */
export function pressable(element, action) {
  element.setAttribute("role", "button");
  element.addEventListener("click", () => {
    // A reader who marks words with the mouse, to copy them, chooses nothing.
    if (getSelection().isCollapsed) action();
  });
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action();
  });
  return element;
}

/** One tab stop for a list: the arrow keys, Home and End move inside of it. */
export function arrowKeys(container, selector) {
  const items = () => [...container.querySelectorAll(selector)];
  const stop = (item) => {
    for (const other of items()) other.tabIndex = other === item ? 0 : -1;
  };
  if (items().length) stop(items()[0]);
  container.onfocusin = (event) => {
    const item = event.target.closest(selector);
    if (item) stop(item);
  };
  container.onkeydown = (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    if (at < 0) return;
    const last = all.length - 1;
    const places = {
      ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: last,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    all[Math.min(Math.max(places[event.key], 0), last)].focus();
  };
}

/** Scrolls only as far as is needed, and at once for those who asked for less motion. */
export function bringIntoView(element, block = "nearest") {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block, behavior: still ? "auto" : "smooth" });
}

/** Draws, and gives the focus back to what took the place of the element that had it. */
export function keepFocus(draw) {
  const { key, turn, start } = document.activeElement.dataset;
  const note = document.activeElement.closest("[data-note]")?.dataset.note;
  draw();
  const isSame = (one) => one.dataset.key === key && one.dataset.turn === turn && one.dataset.start === start
    && one.closest("[data-note]")?.dataset.note === note;
  if (key ?? turn ?? start) [...document.querySelectorAll(".flag, .turn, .sentence")].find(isSame)?.focus();
}
