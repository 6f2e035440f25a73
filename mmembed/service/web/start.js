// Before a search: what there is to search in, or how to begin where there is nothing yet.

import { postForm, ServiceSays } from "./api.js";
import { byId, counted, h } from "./dom.js";

const start = byId("start");
const FILES_AT_ONCE = 16;
const BYTES_AT_ONCE = 8 * 1024 * 1024;
const NOUN = { images: "picture", documents: "passage" };

export function hideStart() {
  start.hidden = true;
}

/** Tiles of the collections; a click on one searches there. */
export function showStart(collections, choose) {
  start.hidden = false;
  start.replaceChildren(h("ul", { class: "tiles", role: "list" }, ...collections.map((one) => tile(one, choose))));
}

function tile({ name, kind, points, vectors, searchable }, choose) {
  const encoders = [...new Set(Object.values(vectors).map(({ encoder }) => encoder.slice(encoder.indexOf(":") + 1)))].join(", ");
  return h("li", { class: "tile" },
    h("button", { type: "button", disabled: searchable !== true, onclick: () => choose(name) }, name),
    h("p", {}, counted(points, NOUN[kind] ?? "point")),
    h("p", { class: "quiet" }, searchable === true ? encoders : searchable));
}

/** Nothing is indexed: the command that changes that, and a place to drop pictures; `indexed()` when some are in. */
export function showFirstSteps(indexed) {
  start.hidden = false;
  const file = h("input", { type: "file", accept: "image/*", multiple: true, id: "first-files", class: "unseen" });
  const told = h("p", { class: "told", role: "status" });
  const progress = h("progress", { "aria-label": "Pictures sent", hidden: true });
  const failed = h("ul", { class: "failed", role: "list" });
  const drop = h("div", { class: "drop" },
    h("p", { class: "large" }, "Drop pictures here to index them"),
    h("p", {}, file, h("label", { for: "first-files", class: "go" }, "Choose pictures")), progress, told, failed);
  const send = (files) => upload([...files], { told, progress, failed, file, indexed });
  file.addEventListener("change", () => send(file.files));
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  for (const event of ["dragleave", "drop"]) drop.addEventListener(event, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => send(event.dataTransfer.files));
  start.replaceChildren(h("div", { class: "first" },
    h("h2", {}, "Nothing is indexed yet"), drop,
    h("p", {}, "Or index a whole folder in a terminal:"),
    h("pre", {}, h("code", {}, "mmembed index images ~/Pictures")),
    h("p", { class: "quiet" }, "An embedded store is open in one place at a time: stop the service for as long as that takes.")));
}

/** Files in portions that stay well below the largest request. */
function* portions(files) {
  let portion = [];
  let size = 0;
  for (const file of files) {
    if (portion.length && (portion.length === FILES_AT_ONCE || size + file.size > BYTES_AT_ONCE)) {
      yield portion;
      portion = [];
      size = 0;
    }
    portion.push(file);
    size += file.size;
  }
  if (portion.length) yield portion;
}

async function upload(files, { told, progress, failed, file, indexed }) {
  const pictures = files.filter((one) => one.type.startsWith("image/"));
  failed.replaceChildren();
  const fail = (name, sentence) => failed.append(h("li", {}, h("b", {}, name), ` ${sentence}`));
  for (const other of files) if (!pictures.includes(other)) fail(other.name, "is no picture");
  if (!pictures.length || file.disabled) return;
  file.disabled = true;
  progress.hidden = false;
  progress.max = pictures.length;
  let sent = 0;
  let stored = 0;
  for (const portion of portions(pictures)) {
    progress.value = sent;
    told.textContent = `Indexing ${counted(pictures.length, "picture")}: ${sent} done`;
    const form = new FormData();
    for (const picture of portion) form.append("file", picture, picture.name || "picture.png");
    try {
      const report = await postForm("/v1/index/images?kind=images", form);
      stored += report.embedded + report.unchanged + report.moved + report.copied;
      for (const failure of report.failures) fail(failure.uri, failure.error);
    } catch (error) {
      if (!(error instanceof ServiceSays)) throw error;
      fail(portion.map((one) => one.name).join(", "), error.message);
    }
    sent += portion.length;
  }
  file.disabled = false;
  progress.hidden = true;
  told.textContent = `${counted(stored, "picture")} indexed`;
  if (stored) indexed(told.textContent, [...failed.children].map((row) => row.textContent));
}
