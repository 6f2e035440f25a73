// Requests to the service: its key, its error sentences, and thumbnails where a key is needed.

const KEY = "mmembed-key";
let key = kept();
let asks = async () => null; // how a key is asked for: () -> the key, or null
let asking = null; // one question for all the requests that need its answer

/** A sentence that can be shown to a person, with the status of the answer (0: there was none). */
export class ServiceSays extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

export const hasKey = () => key !== null;

export function onKeyNeeded(ask) {
  asks = ask;
}

export function useKey(secret) {
  key = secret;
  try {
    sessionStorage.setItem(KEY, secret);
  } catch (error) {
    if (error.name !== "SecurityError") throw error; // a browser that keeps nothing: asked for again after a reload
  }
}

/** The key of this tab's session, null if there is none or the browser keeps nothing. */
function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
    return null;
  }
}

/** Ask for a key once, however many requests wait for it; whether there is a new one. */
async function newKey(refused) {
  asking ??= asks(refused).finally(() => {
    asking = null;
  });
  const secret = await asking;
  if (secret === null) return false;
  useKey(secret);
  return true;
}

async function sentenceOf(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string") return error;
  } catch (error) {
    if (error.name === "AbortError") throw error; // else it is no JSON, of a proxy in between
  }
  return `The service answered ${response.status} ${response.statusText}`.trim();
}

/** The answer to a request; raises ServiceSays, or AbortError where `signal` was aborted. */
async function ask(path, options = {}) {
  for (;;) {
    const sent = key;
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceSays("The service cannot be reached: is it still running?", 0);
    }
    if (response.ok) return response;
    const again = response.status === 401 && (key !== sent || (await newKey(sent !== null)));
    options.signal?.throwIfAborted();
    if (!again) throw new ServiceSays(await sentenceOf(response), response.status);
  }
}

const authorization = () => (key === null ? {} : { Authorization: `Bearer ${key}` });

export const getJson = async (path, options) => (await ask(path, options)).json();

export const postForm = async (path, body, signal) => (await ask(path, { method: "POST", body, signal })).json();

export async function postJson(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

/** Show a thumbnail in `img`. An <img> sends no header, so with a key its bytes are fetched and shown as a blob. */
export async function showThumbnail(img, path) {
  if (key === null) {
    img.src = path;
    return;
  }
  try {
    const url = URL.createObjectURL(await (await ask(path)).blob());
    for (const event of ["load", "error"]) img.addEventListener(event, () => URL.revokeObjectURL(url), { once: true });
    img.src = url;
  } catch (error) {
    if (!(error instanceof ServiceSays)) throw error;
    img.dispatchEvent(new Event("error"));
  }
}
