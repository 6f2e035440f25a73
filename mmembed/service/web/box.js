// The box: words, a picture that is picked, dropped or pasted, what to leave out, and where to look.

import { showThumbnail } from "./api.js";
import { byId, CROSS, drawing, h } from "./dom.js";

const words = byId("words");
const less = byId("less");
const collection = byId("collection");
const chip = byId("chip");
const file = byId("file");

export const thumbnailOf = ({ id, collection: name }) =>
  `/v1/points/${encodeURIComponent(name)}/${encodeURIComponent(id)}/thumbnail`;

/** Show `wanted` in the box; `removed` is called when its picture or point is taken out. */
export function showInBox(wanted, removed) {
  words.value = wanted.words;
  less.value = wanted.less;
  choose(wanted.like?.collection ?? wanted.collection);
  const { picture, like } = wanted;
  chip.hidden = !picture && !like;
  chip.replaceChildren();
  if (chip.hidden) return;
  const image = h("img", { alt: picture ? "The picture to search with" : "", width: 32, height: 32 });
  image.addEventListener("error", () => image.remove(), { once: true }); // a format that this browser cannot show
  const cross = h("button", { type: "button", "aria-label": picture ? "Remove the picture" : "Remove “more like this”" });
  cross.append(drawing(CROSS));
  cross.addEventListener("click", () => {
    removed();
    words.focus();
  });
  chip.append(image, h("span", {}, picture ? picture.name || "picture" : like.name ? `like ${like.name}` : "like this"), cross);
  if (like) showThumbnail(image, thumbnailOf(like));
  else {
    image.src = URL.createObjectURL(picture);
    for (const event of ["load", "error"]) image.addEventListener(event, () => URL.revokeObjectURL(image.src), { once: true });
  }
}

function choose(name) {
  if (name && ![...collection.options].some((option) => option.value === name)) {
    collection.append(h("option", { value: name }, name)); // of a shared URL: the service says what became of it
  }
  collection.value = name;
}

/** Fill the choice of collections; one alone needs no "everything". */
export function showCollections(collections) {
  const chosen = collection.value;
  const options = collections.map(({ name, searchable }) =>
    h("option", { value: name, disabled: searchable !== true }, searchable === true ? name : `${name} (not searchable)`),
  );
  collection.replaceChildren(h("option", { value: "" }, "everything"), ...options);
  choose(chosen);
}

export const inBox = () => ({ words: words.value.trim(), less: less.value.trim(), collection: collection.value });

const isPicture = (entry) => entry.type.startsWith("image/");

/** Tell `took(file)` of every picture that is picked, pasted or dropped, and `refused(sentence)` of what is none. */
export function onPicture(took, refused) {
  byId("pick").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) took(file.files[0]);
    file.value = ""; // so that the same picture can be picked again
  });
  document.addEventListener("paste", (event) => {
    const picture = [...(event.clipboardData?.files ?? [])].find(isPicture);
    if (!picture || byId("ask").open) return;
    event.preventDefault();
    took(picture);
  });
  onDrop(took, refused);
}

function onDrop(took, refused) {
  const veil = byId("veil");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let hiding = 0;
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    veil.hidden = Boolean(event.target.closest?.(".drop")); // a place of its own, which takes pictures to index
    clearTimeout(hiding); // "dragover" comes again and again while the pointer is here, and "dragleave" at each element
    hiding = setTimeout(() => (veil.hidden = true), 300);
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (event.target.closest?.(".drop")) return;
    const pictures = [...event.dataTransfer.files].filter(isPicture);
    if (pictures.length) took(pictures[0]);
    if (pictures.length > 1) refused(`${pictures.length} pictures were dropped: this is the search with the first, ${pictures[0].name}.`);
    if (!pictures.length) refused("What was dropped is no picture: drop a PNG, JPEG, WebP or GIF file.");
  });
}
