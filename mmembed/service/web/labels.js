// Labels tried on the picture in the lightbox: asked anew while they are typed, from its stored vector.

import { postJson, ServiceSays } from "./api.js";
import { h } from "./dom.js";
import { scoreOf } from "./results.js";

const KEPT = "mmembed-labels";
const WAIT = 250; // ms without a key before the service is asked
const SHOWN = 12; // labels that get a line
const BACKGROUND = ["something else", "an object", "a scene"]; // compete with the labels, and mean none of them

const field = h("input", { id: "labels", type: "text", maxlength: 4000, autocomplete: "off", spellcheck: "false", placeholder: "cat, dog, drawing" });
const open = h("input", { type: "checkbox" });
const answer = h("div", { class: "answer" });
const said = h("p", { class: "unseen", role: "status" });
const corner = h("div", { class: "labels" },
  h("label", { for: "labels" }, "Try labels, separated by commas"), field,
  h("label", { class: "open-set" }, open, "or none of these"), answer, said);
let hit = null; // whose picture is asked about
let waiting = 0;
let running = new AbortController(); // of the newest request: an older one is aborted and its answer is never shown

/** The corner, for the picture of this hit; asked at once where labels are left from another. */
export function labelsFor(shown) {
  hit = shown;
  answer.replaceChildren();
  ask();
  return corner;
}

/** Ask for nothing more: the lightbox is closed. */
export function forgetLabels() {
  clearTimeout(waiting);
  running.abort();
  hit = null;
}

/** "cat, dog,, Cat" -> what is written between the commas, each once. */
function labelsIn(text) {
  return [...new Set(text.normalize("NFC").split(",").map((part) => part.trim().replace(/\s+/g, " ")))].filter(Boolean);
}

function queryOf(labels) {
  const background = open.checked ? BACKGROUND.filter((text) => !labels.includes(text)) : [];
  return { collection: hit.collection, id: hit.id, labels, background };
}

async function ask() {
  clearTimeout(waiting);
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const labels = labelsIn(field.value);
  if (!labels.length) {
    show();
    return;
  }
  answer.setAttribute("aria-busy", "true");
  try {
    const found = await postJson("/v1/classify", queryOf(labels), signal);
    if (!signal.aborted) show(found);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ServiceSays)) throw error;
    show();
    answer.append(h("p", { class: "failed" }, error.message));
    said.textContent = error.message;
  }
}

function show(found) {
  answer.removeAttribute("aria-busy");
  answer.replaceChildren();
  said.textContent = "";
  if (!found) return;
  const { labels, none_of_these: none, calibrated } = found;
  const rows = labels.slice(0, SHOWN).map(line);
  if (none) rows.unshift(h("li", { class: "none" }, "none of these"));
  answer.append(h("ol", { role: "list", class: none ? "doubted" : null, "aria-label": "Labels, best first" }, ...rows));
  const rest = labels.length - SHOWN;
  const notes = [rest > 0 && `${rest} more`, calibrated && "calibrated for this collection"].filter(Boolean);
  if (notes.length) answer.append(h("p", { class: "quiet" }, notes.join(" · ")));
  said.textContent = none ? "none of these" : labels.length ? `best: ${labels[0].label}` : "";
}

function line(one) {
  const cosine = one.probability === null ? null : h("span", { class: "n", title: "Cosine of picture and label" }, one.score.toFixed(3));
  return h("li", {}, h("span", { class: "value", title: one.label }, one.label), scoreOf(one), cosine);
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ text: field.value, open: open.checked }));
  } catch (error) {
    if (error.name !== "SecurityError" && error.name !== "QuotaExceededError") throw error; // a browser that keeps nothing
  }
}

/** What was tried last: nothing where the browser keeps nothing, or something else lies there. */
function kept() {
  try {
    const { text, open: may } = JSON.parse(localStorage.getItem(KEPT)) ?? {};
    return { text: typeof text === "string" ? text : "", open: may !== false };
  } catch (error) {
    if (error.name !== "SecurityError" && !(error instanceof SyntaxError)) throw error;
    return { text: "", open: true };
  }
}

function changed() {
  keep();
  clearTimeout(waiting);
  waiting = setTimeout(ask, WAIT);
}

const last = kept();
field.value = last.text;
open.checked = last.open;
field.addEventListener("input", changed);
open.addEventListener("change", changed);
