// What is asked for, as a URL that can be shared, and back. A picture cannot be in a URL, so it is left out.

/** A query of nothing. `filters` maps a payload key to its values; `like` is {id, collection}; `picture` a File. */
export const nothing = () => ({ words: "", less: "", collection: "", like: null, picture: null, filters: new Map() });

/** Whether there is anything to search for. */
export const asks = (wanted) => Boolean(wanted.words || wanted.like || wanted.picture || wanted.less);

const PREFIX = "f.";

const isPlain = (value) => ["string", "number", "boolean"].includes(typeof value);

function decoded(text) {
  try {
    const value = JSON.parse(text);
    return isPlain(value) ? value : text;
  } catch {
    return text; // a bare word
  }
}

/** "red" -> red, 3 -> 3, but the text "3" -> "3" in quotes: a filter for a number finds no texts. */
const encoded = (value) => (typeof value === "string" && decoded(value) === value ? value : JSON.stringify(value));

export function toUrl(wanted) {
  const query = new URLSearchParams();
  if (wanted.words) query.set("q", wanted.words);
  if (wanted.like) query.set("like", wanted.like.id);
  if (wanted.less) query.set("less", wanted.less);
  const collection = wanted.like?.collection ?? wanted.collection;
  if (collection) query.set("c", collection);
  for (const [key, values] of wanted.filters) for (const value of values) query.append(PREFIX + key, encoded(value));
  const text = query.toString();
  return text ? `/?${text}` : "/";
}

export function fromUrl(search) {
  const query = new URLSearchParams(search);
  const wanted = nothing();
  wanted.words = (query.get("q") ?? "").trim();
  wanted.less = (query.get("less") ?? "").trim();
  wanted.collection = query.get("c") ?? "";
  if (query.get("like") && wanted.collection) {
    wanted.like = { id: query.get("like"), collection: wanted.collection };
    wanted.words = wanted.less = "";
  }
  for (const [name, text] of query) {
    if (!name.startsWith(PREFIX)) continue;
    const key = name.slice(PREFIX.length);
    wanted.filters.set(key, (wanted.filters.get(key) ?? new Set()).add(decoded(text)));
  }
  return wanted;
}

/** The filters as Qdrant has them: any of the values of a key, and every key. */
export function toFilter(filters) {
  const must = [];
  for (const [key, values] of filters) {
    if (values.size) must.push({ should: [...values].map((value) => ({ key, match: { value } })) });
  }
  return must.length ? { must } : null;
}
