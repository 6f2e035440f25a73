// Hits as cards: pictures in a grid of even rows, passages of documents in a list, each in the order of rank.

import { showThumbnail } from "./api.js";
import { byId, h } from "./dom.js";
import { excerpt, marked } from "./words.js";

const lists = byId("lists");

/** What a hit is called: the caption of a picture, the title of a document, else the name of the file. */
export function titleOf(hit) {
  const { title, caption } = hit.payload ?? {};
  if (hit.kind === "image") return text(caption) || hit.text || hit.name || hit.id;
  return text(title) || hit.name || hit.id;
}

const text = (value) => (typeof value === "string" ? value.trim() : "");

/** Where a passage stands in its document: "Birds › In winter · page 3". */
export function placeOf({ payload = {} }) {
  const headings = (Array.isArray(payload.headings) ? payload.headings : []).filter((part) => part !== payload.title);
  const page = Number.isFinite(payload.page) ? `page ${payload.page}` : "";
  return [headings.join(" › "), page].filter(Boolean).join(" · ");
}

const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });

/** A probability as a bar and a percentage; where there is none, the score, which means little by itself. */
export function scoreOf(hit) {
  if (hit.probability === null || hit.probability === undefined) {
    return h("span", { class: "score plain", title: "Score, comparable within this search only" }, `score ${hit.score.toPrecision(3)}`);
  }
  const share = hit.probability;
  const bar = h("i");
  bar.style.inlineSize = `${(100 * share).toFixed(1)}%`;
  const words = share < 0.001 ? "<0.1%" : share > 0.99 && share < 1 ? ">99%" : percent.format(share);
  return h("span", { class: "score", title: "Probability of a match" }, h("span", { class: "bar", "aria-hidden": "true" }, bar), h("span", { class: "unseen" }, "probability "), words);
}

export const marks = (passage, roots) =>
  marked(passage, roots).map((part) => (part.marked ? h("mark", {}, part.text) : part.text));

export function moreLike(hit, like) {
  const label = `More like ${titleOf(hit)}`;
  return h("button", { type: "button", class: "like", "aria-label": label, onclick: () => like(hit) }, "More like this");
}

/** A picture in a tile, or a sign where its thumbnail is gone. */
export function pictureOf(hit, alt) {
  const image = h("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "nothing" }, "no thumbnail")), { once: true });
  if (hit.thumbnail) showThumbnail(image, hit.thumbnail);
  return hit.thumbnail ? image : h("span", { class: "nothing" }, "no thumbnail");
}

function pictureCard(hit, n, { open, like }) {
  const title = titleOf(hit);
  return h("li", { class: "card picture" },
    h("button", { type: "button", class: "open", "aria-label": `Open ${title}`, "data-n": n, onclick: () => open(n) },
      pictureOf(hit, title)),
    h("p", { class: "title", title }, title),
    h("div", { class: "foot" }, scoreOf(hit), moreLike(hit, like)));
}

function passageCard(hit, n, { open, like, roots }) {
  const place = placeOf(hit);
  return h("li", { class: "card passage" },
    h("h3", {}, h("button", { type: "button", class: "open", "data-n": n, onclick: () => open(n) }, titleOf(hit))),
    place && h("p", { class: "place" }, place),
    h("p", { class: "text" }, ...marks(excerpt((hit.text ?? "").replace(/\n\s*/g, "\n"), roots), roots)),
    h("div", { class: "foot" }, scoreOf(hit), moreLike(hit, like)));
}

const KINDS = [
  ["image", "Pictures", "grid", pictureCard],
  ["text", "Passages", "passages", passageCard],
];

/** Add hits after the `shown` that are there already; gives the first new card's button, or null. */
export function addCards(hits, shown, does) {
  let first = null;
  for (const [kind, heading, name, card] of KINDS) {
    const cards = hits.flatMap((hit, at) => (hit.kind === kind ? [card(hit, shown + at, does)] : []));
    if (!cards.length) continue;
    listOf(name, heading).append(...cards);
    first ??= cards[0].querySelector(".open");
  }
  lists.classList.toggle("mixed", lists.children.length > 1);
  return first;
}

function listOf(name, heading) {
  const there = lists.querySelector(`ul.${name}`);
  if (there) return there;
  const list = h("ul", { class: name, role: "list", "aria-label": heading });
  const section = h("section", { class: `part ${name}-part` }, h("h2", {}, heading), list);
  if (name === "grid") lists.prepend(section);
  else lists.append(section);
  return list;
}

export const clearCards = () => lists.replaceChildren();

/** Grey tiles of the size of cards, while the first hits are on the way. */
export function showSkeleton() {
  lists.replaceChildren(h("ul", { class: "grid", "aria-hidden": "true" }, ...Array.from({ length: 12 }, () => h("li", { class: "card ghost" }))));
}

/** Arrow keys go from card to card as they lie on the screen; Home and End to the first and the last. */
export function moveByArrows(event) {
  const here = event.target.closest?.(".open");
  if (!here || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const all = [...lists.querySelectorAll(".open")];
  const at = all.indexOf(here);
  const to = { ArrowRight: all[at + 1], ArrowLeft: all[at - 1], Home: all[0], End: all.at(-1) }[event.key]
    ?? (event.key === "ArrowDown" || event.key === "ArrowUp" ? beside(all, here, event.key === "ArrowDown") : null);
  if (!to) return;
  event.preventDefault();
  to.focus();
}

/** The card of the next row below, or above, that is nearest to the column of `here`. */
function beside(all, here, below) {
  const from = here.getBoundingClientRect();
  const places = all.map((open) => ({ open, box: open.getBoundingClientRect() }));
  const further = places.filter(({ box }) => (below ? box.top > from.top + 1 : box.top < from.top - 1));
  if (!further.length) return null;
  const row = further.reduce((edge, { box }) => (below ? Math.min(edge, box.top) : Math.max(edge, box.top)), below ? Infinity : -Infinity);
  const off = ({ box }) => Math.abs(box.left - from.left);
  return further.filter(({ box }) => Math.abs(box.top - row) < 2).reduce((best, one) => (off(one) < off(best) ? one : best)).open;
}
