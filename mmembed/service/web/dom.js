// Elements made of text: whatever comes from a payload becomes a text node or an attribute, never HTML.

/** `h("a", {class: "x", href: "/"}, "text", child)`: an element; `on...` are listeners, null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line drawing of 24 x 24, hidden from screen readers: the button around it has the name. */
export function drawing(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const CROSS = "m6 6 12 12M18 6 6 18";
export const BEFORE = "m14.5 5-7 7 7 7";
export const AFTER = "m9.5 5 7 7-7 7";

export const byId = (id) => document.getElementById(id);

/** 1234 -> "1,234". */
export const number = new Intl.NumberFormat("en");

/** (1, "picture") -> "1 picture", (2, "picture") -> "2 pictures". */
export const counted = (n, noun) => `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;
