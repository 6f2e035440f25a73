// The page: what is wanted (one object), the search for it, and what the person does next.

import { getJson, hasKey, onKeyNeeded, postForm, postJson, ServiceSays, useKey } from "./api.js";
import { inBox, onPicture, showCollections, showInBox } from "./box.js";
import { byId, counted, h } from "./dom.js";
import { fitFilters, forgetFacets, showFilters } from "./filters.js";
import { closeLightbox, openLightbox, startLightbox } from "./lightbox.js";
import { asks, fromUrl, nothing, toFilter, toUrl } from "./place.js";
import { addCards, clearCards, moveByArrows, showSkeleton, titleOf } from "./results.js";
import { hideStart, showFirstSteps, showStart } from "./start.js";
import { rootsOf } from "./words.js";

const PAGE = 24; // hits at a time
const pictures = []; // those searched with: the history names them by number, for a URL cannot hold them
let wanted = nothing();
let collections = null; // until they are read: they say whether one is searched or several
let hits = [];
const here = () => `${location.search}#${history.state?.picture ?? ""}`;
let place = here(); // what was searched for last
let running = new AbortController(); // of the newest search: an older one is aborted and its answer is never shown

// --- asking ---------------------------------------------------------------------------------------

function queryOf(offset) {
  const { words, less, like, filters } = wanted;
  const query = { limit: PAGE, offset };
  if (like) query.id = like.id;
  if (words) query.text = words;
  if (less) query.minus = [{ text: less }];
  const filter = toFilter(filters);
  if (filter) query.filter = filter;
  return query;
}

/** The collection to search alone, or "" for all: one of its own has better scores than a fusion of one. */
function whereToLook() {
  if (wanted.like) return wanted.like.collection;
  const open = collections.filter((one) => one.searchable === true);
  return wanted.collection || (open.length === 1 ? open[0].name : "");
}

async function ask(offset, signal) {
  const where = whereToLook();
  const path = where ? `/v1/search/${encodeURIComponent(where)}` : "/v1/search";
  if (!wanted.picture) return postJson(path, queryOf(offset), signal);
  const form = new FormData();
  form.append("query", JSON.stringify(queryOf(offset)));
  form.append("image", wanted.picture, wanted.picture.name || "picture.png");
  return postForm(path, form, signal);
}

// --- showing --------------------------------------------------------------------------------------

const does = { open: (n) => openLightbox(hits, n, does), like: moreLikeIt, roots: new Set() };

/** Run `work(signal)` as the newest search; what it raises is shown, unless a newer one took its place. Whether it ended well. */
async function newest(work) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  tell();
  byId("results").setAttribute("aria-busy", "true");
  try {
    await work(signal);
    return !signal.aborted;
  } catch (error) {
    if (signal.aborted) return false;
    if (!(error instanceof ServiceSays)) throw error;
    tell(error.message);
    return false;
  } finally {
    if (!signal.aborted) byId("results").removeAttribute("aria-busy");
  }
}

function tell(...sentences) {
  byId("alert").replaceChildren(...sentences.map((sentence) => h("p", {}, sentence)));
}

async function search() {
  document.title = wanted.words ? `${wanted.words} – mmembed` : wanted.like ? "More like this – mmembed" : "mmembed";
  if (!asks(wanted)) return newest(begin);
  document.body.classList.remove("start");
  hideStart();
  byId("found").hidden = false;
  return newest(async (signal) => {
    if (!hits.length) showSkeleton();
    byId("more").hidden = true;
    try {
      if (!collections) await readCollections(signal);
      const [answer] = await Promise.all([ask(0, signal), drawFilters(signal)]);
      signal.throwIfAborted();
      showAnswer(answer);
    } catch (error) {
      if (!signal.aborted) clear();
      throw error;
    }
  });
}

function clear() {
  hits = [];
  clearCards();
  byId("count").textContent = "";
  byId("skipped").hidden = true;
  byId("more").hidden = true;
}

function showAnswer(answer) {
  clear();
  does.roots = rootsOf(wanted.words);
  hits = answer.hits;
  addCards(hits, 0, does);
  scrollTo({ top: 0 });
  showSkipped(answer.skipped ?? {});
  showCount(answer, hits.length);
}

function showCount(answer, added) {
  byId("more").hidden = added < PAGE;
  const time = `${Math.max(1, Math.round(1000 * answer.seconds))} ms`;
  byId("count").textContent = hits.length
    ? `${counted(hits.length, "result")}${added < PAGE ? "" : ", and more"} · ${time}`
    : `Nothing found${wanted.filters.size ? ": try with fewer filters" : ": try other words, or another collection"}.`;
}

function showSkipped(skipped) {
  const rows = Object.entries(skipped);
  const panel = byId("skipped");
  panel.hidden = !rows.length;
  panel.open = false;
  panel.querySelector("summary").textContent = `${counted(rows.length, "collection")} left out`;
  panel.querySelector("ul").replaceChildren(...rows.map(([name, why]) => h("li", {}, h("b", {}, name), ` ${why}`)));
}

async function drawFilters(signal) {
  const where = whereToLook();
  const names = where ? [where] : collections.filter((one) => one.searchable === true).map((one) => one.name);
  const known = names.filter((name) => collections.some((one) => one.name === name));
  await showFilters(known, wanted.filters, filterBy, signal);
}

async function begin(signal) {
  clear();
  byId("found").hidden = true;
  document.body.classList.add("start");
  await readCollections(signal);
  if (collections.length) showStart(collections, (name) => go({ ...nothing(), collection: name }, true));
  else showFirstSteps(uploaded);
}

async function readCollections(signal) {
  const answer = await getJson("/v1/collections", { signal });
  signal.throwIfAborted();
  collections = answer.collections;
  forgetFacets();
  showCollections(collections);
}

async function uploaded(told, failures) {
  await newest(begin);
  tell(`${told}: now search for what they show.`, ...failures);
  byId("words").focus();
}

// --- what the person does -------------------------------------------------------------------------

/** Look for `next`, and put it into the history. */
function go(next, focusBox = false) {
  const number = next.picture ? pictures.push(next.picture) - 1 : null;
  wanted = next;
  const url = toUrl(wanted);
  const state = { picture: number, name: next.like?.name };
  if (history.state?.lightbox) history.replaceState(state, "", url); // "more like this" of a hit that is open
  else if (url !== location.pathname + location.search || number !== (history.state?.picture ?? null)) {
    history.pushState(state, "", url);
  }
  place = here();
  showInBox(wanted, withoutPicture);
  if (focusBox) byId("words").focus();
  return search();
}

function fromHistory() {
  closeLightbox();
  if (place === here()) return undefined; // only the lightbox was closed
  place = here();
  wanted = fromUrl(location.search);
  wanted.picture = pictures[history.state?.picture] ?? null;
  if (wanted.like) wanted.like.name = history.state?.name;
  showInBox(wanted, withoutPicture);
  return search();
}

function moreLikeIt(hit) {
  byId("results").focus();
  const like = { id: hit.id, collection: hit.collection, name: titleOf(hit) };
  return go({ ...nothing(), like, filters: like.collection === whereToLook() ? wanted.filters : new Map() });
}

function withoutPicture() {
  return go({ ...wanted, picture: null, like: null });
}

function filterBy(key, value, on) {
  const filters = new Map([...wanted.filters].map(([name, values]) => [name, new Set(values)]));
  const values = filters.get(key) ?? new Set();
  if (on) values.add(value);
  else values.delete(value);
  if (values.size) filters.set(key, values);
  else filters.delete(key);
  return go({ ...wanted, filters });
}

async function loadMore() {
  byId("more").disabled = true;
  await newest(async (signal) => {
    const answer = await ask(hits.length, signal);
    signal.throwIfAborted();
    const shown = hits.length;
    hits = [...hits, ...answer.hits];
    addCards(answer.hits, shown, does)?.focus({ preventScroll: true });
    showCount(answer, answer.hits.length);
  });
  byId("more").disabled = false;
}

function submitted(event) {
  event.preventDefault();
  const box = inBox();
  const like = box.words || box.less || box.collection !== wanted.like?.collection ? null : wanted.like;
  const sameCollection = box.collection === (wanted.like?.collection ?? wanted.collection);
  return go({ ...wanted, ...box, like, filters: sameCollection ? wanted.filters : new Map() });
}

function typed(event) {
  if (document.querySelector("dialog[open]")) return;
  const inField = event.target.closest?.("input:not([type=checkbox]), textarea, select");
  if (event.key === "/" && !inField && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("words").select();
  } else if (event.key === "ArrowDown" && event.target === byId("words")) {
    document.querySelector("#lists .open")?.focus();
  } else moveByArrows(event);
}

/** Ask for the key in the dialog -> the key, or null where the person does not give one. */
function askForKey(refused) {
  const dialog = byId("ask");
  byId("key").hidden = false;
  byId("secret").value = "";
  byId("ask-why").textContent = refused
    ? "The key that was used is not known here: give another one."
    : "It is kept in this tab only, until you close it.";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? byId("secret").value.trim() : null), { once: true });
  });
}

function startTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("mmembed-theme", document.documentElement.dataset.theme);
    show();
  });
  show();
}

function listen() {
  byId("search").addEventListener("submit", submitted);
  byId("collection").addEventListener("change", () => byId("search").requestSubmit());
  byId("more").addEventListener("click", loadMore);
  byId("key").addEventListener("click", async () => {
    const secret = await askForKey(false);
    if (secret === null) return;
    useKey(secret);
    collections = null;
    await search();
  });
  byId("key").hidden = !hasKey();
  byId("cancel").addEventListener("click", () => byId("ask").close());
  document.querySelector(".brand").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(nothing(), true);
  });
  document.addEventListener("keydown", typed);
  addEventListener("popstate", fromHistory);
  onPicture((picture) => go({ ...wanted, ...inBox(), like: null, picture }), tell);
  onKeyNeeded(askForKey);
  startLightbox((n) => document.querySelector(`#lists .open[data-n="${n}"]`)?.focus());
}

listen();
startTheme();
fitFilters();
wanted = fromUrl(location.search);
showInBox(wanted, withoutPicture); // at once and not again, so that nothing is taken from who types already
search();
if (!asks(wanted)) byId("words").focus();
