// Which words of a passage the query asked for, and where to begin to show it.

const COMMON = new Set(
  "a an and are as at be but by for from has have how in is it its of on or that the their this to was what when where which who why will with you your".split(" "),
);
const LEAD = 60; // characters of a passage before its first marked word
const segments = new Intl.Segmenter("en", { granularity: "word" });

/** "Kittens" -> "kitten", "dozing" and "doze" -> "doz": enough to see that two words are one, no more. */
function root(word) {
  const plain = word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  if (plain.length < 4 || !/^[a-z]+$/.test(plain)) return plain;
  const cut = plain.replace(/(?:(?<=.{3})(?:ing|ed)|(?<!s)s)$/, "");
  return cut.length > 3 ? cut.replace(/e$/, "") : cut;
}

const wordsIn = (text) => [...segments.segment(text)].filter((part) => part.isWordLike);

/** The roots of the words that a query is about; all of them where it has only common ones. */
export function rootsOf(query) {
  const all = wordsIn(query).map((part) => part.segment);
  const rare = all.filter((word) => !COMMON.has(word.toLowerCase()));
  return new Set((rare.length ? rare : all).map(root));
}

/** A passage -> [{text, marked}], in order; together they are the passage. */
export function marked(text, roots) {
  const parts = [];
  for (const { segment, isWordLike } of segments.segment(text)) {
    const mark = Boolean(isWordLike) && roots.has(root(segment));
    const last = parts.at(-1);
    if (last && last.marked === mark && !mark) last.text += segment;
    else parts.push({ text: segment, marked: mark });
  }
  return parts;
}

/** The passage from a little before its first word that the query has, for a card that shows few lines. */
export function excerpt(text, roots) {
  const first = wordsIn(text).find((part) => roots.has(root(part.segment)));
  if (!first || first.index <= 2 * LEAD) return text;
  const from = first.index - LEAD;
  const begin = text.slice(from).search(/\s/) + from + 1;
  return `… ${text.slice(begin > from ? begin : from)}`;
}
