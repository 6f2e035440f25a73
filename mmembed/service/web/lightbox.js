// One hit, large: a modal dialog, so that focus stays in it, Escape closes it, and the page behind is inert.

import { AFTER, BEFORE, byId, CROSS, drawing, h } from "./dom.js";
import { forgetLabels, labelsFor } from "./labels.js";
import { marks, moreLike, pictureOf, placeOf, scoreOf, titleOf } from "./results.js";

const dialog = byId("lightbox");
const TECHNICAL = new Set(["content_hash", "mtime_ns", "vectors", "source", "inherited", "text", "title", "headings", "document", "images"]);
const bytes = new Intl.NumberFormat("en", { style: "unit", unit: "kilobyte", maximumFractionDigits: 1 });
let shown = null; // {hits, at, does}
let giveBack = () => {}; // focus, to the card of the hit that was shown last

export function openLightbox(hits, at, does) {
  shown = { hits, at, does };
  draw();
  if (!dialog.open) {
    dialog.showModal();
    history.pushState({ ...history.state, lightbox: true }, ""); // so that Back closes it and leaves the results there
  }
  dialog.querySelector(".close").focus();
}

export function closeLightbox() {
  if (!dialog.open) return;
  dialog.close();
  forgetLabels();
  giveBack(shown.at);
}

/** Close it and take its step out of the history. */
function leave() {
  closeLightbox();
  history.back();
}

function step(by) {
  const at = shown.at + by;
  if (!shown.hits[at]) return;
  const back = document.activeElement?.dataset.step;
  shown.at = at;
  draw();
  const same = dialog.querySelector(`[data-step="${back}"]:not(:disabled)`);
  (same ?? dialog.querySelector(".close")).focus();
}

function arrow(by, path, label) {
  const button = h("button", { type: "button", class: "icon", "aria-label": label, "data-step": by, disabled: !shown.hits[shown.at + by], onclick: () => step(by) });
  button.append(drawing(path));
  return button;
}

function valueOf(key, value) {
  if (key === "size" && Number.isFinite(value)) return bytes.format(value / 1000);
  if (Array.isArray(value)) return value.map((part) => valueOf("", part)).join(", ");
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

function facts(hit) {
  const rows = Object.entries(hit.payload ?? {}).filter(([key, value]) => !TECHNICAL.has(key) && value !== null);
  return h("dl", {}, ...rows.flatMap(([key, value]) => [h("dt", {}, key.replaceAll("_", " ")), h("dd", {}, valueOf(key, value))]),
    h("dt", {}, "collection"), h("dd", {}, hit.collection));
}

function original(hit) {
  if (!/^https?:\/\//i.test(hit.uri ?? "")) return null;
  return h("a", { href: hit.uri, target: "_blank", rel: "noopener noreferrer" }, "Open the original");
}

function draw() {
  const { hits, at, does } = shown;
  const hit = hits[at];
  const close = h("button", { type: "button", class: "icon close", "aria-label": "Close", onclick: leave });
  close.append(drawing(CROSS));
  const place = placeOf(hit);
  const body = hit.kind === "image"
    ? h("figure", {}, pictureOf(hit, titleOf(hit)))
    : h("div", { class: "reading" }, place && h("p", { class: "place" }, place), h("p", { class: "text" }, ...marks(hit.text ?? "", does.roots)));
  const like = moreLike(hit, (one) => {
    closeLightbox();
    does.like(one);
  });
  dialog.className = `lightbox ${hit.kind}`;
  dialog.replaceChildren(...[
    h("header", {}, h("span", { class: "at", "aria-live": "polite" }, `${at + 1} of ${hits.length}`), arrow(-1, BEFORE, "Previous"), arrow(1, AFTER, "Next"), close),
    hit.kind === "image" && body,
    h("div", { class: "named" }, h("h2", { id: "lightbox-title" }, titleOf(hit)), scoreOf(hit)),
    hit.kind === "text" && body,
    h("div", { class: "about" }, facts(hit), hit.kind === "image" && labelsFor(hit), h("div", { class: "row" }, like, original(hit))),
  ].filter(Boolean));
}

/** Listen once: arrow keys, a click beside the dialog, and focus given back to the card that was last shown. */
export function startLightbox(focusCard) {
  giveBack = focusCard;
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input[type=text]")) return; // arrows move within what is typed
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) leave();
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault(); // Escape: closed here, so that focus is where it belongs before the next key
    leave();
  });
}
