// Filters made from what the payloads hold: for each key its most frequent values, with how many points have each.

import { getJson } from "./api.js";
import { byId, h, number } from "./dom.js";

const facets = byId("facets");
const panel = byId("filters");
const kept = new Map(); // collection -> its facets, until the collections change

export const forgetFacets = () => kept.clear();

async function facetsOf(name, signal) {
  if (!kept.has(name)) kept.set(name, (await getJson(`/v1/collections/${encodeURIComponent(name)}/facets?limit=10`, { signal })).facets);
  return kept.get(name);
}

/** The facets of several collections as one: key -> value -> count, the most frequent value first. */
async function together(names, signal) {
  const all = new Map();
  for (const found of await Promise.all(names.map((name) => facetsOf(name, signal)))) {
    for (const [key, values] of Object.entries(found)) {
      const counts = all.get(key) ?? new Map();
      for (const { value, count } of values) counts.set(value, (counts.get(value) ?? 0) + count);
      all.set(key, counts);
    }
  }
  return all;
}

/** Draw the filters of these collections; `changed(key, value, on)` hears of every box that is ticked. */
export async function showFilters(names, chosen, changed, signal) {
  const all = await together(names, signal);
  signal.throwIfAborted();
  for (const [key, values] of chosen) {
    const counts = all.get(key) ?? new Map();
    for (const value of values) if (!counts.has(value)) counts.set(value, null); // of a shared URL
    all.set(key, counts);
  }
  facets.replaceChildren(...[...all].filter(([, counts]) => counts.size).map(([key, counts]) => group(key, counts, chosen, changed)));
  panel.hidden = !facets.children.length;
  const ticked = [...chosen.values()].reduce((sum, values) => sum + values.size, 0);
  byId("filtered").textContent = ticked ? ` (${ticked})` : "";
}

function group(key, counts, chosen, changed) {
  const rows = [...counts].map(([value, count]) => {
    const box = h("input", { type: "checkbox", onchange: () => changed(key, value, box.checked) });
    box.checked = chosen.get(key)?.has(value) ?? false;
    return h("label", {}, box, h("span", { class: "value" }, String(value)), count === null ? null : h("span", { class: "n" }, number.format(count)));
  });
  return h("fieldset", {}, h("legend", {}, key.replaceAll("_", " ")), ...rows);
}

/** Open beside the results where there is room, closed above them where there is not. */
export function fitFilters() {
  const wide = matchMedia("(min-width: 60rem)");
  const fit = () => (panel.open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
}
