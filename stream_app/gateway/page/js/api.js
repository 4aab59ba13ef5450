// Talking to the gateway: JSON over fetch, errors that say what to do, the token if there is one.

const TOKEN = "nextclick-token";
let askForToken = null;

export class ApiError extends Error {
  /** status 0: no answer at all. */
  constructor(status, kind, message) {
    super(message);
    this.status = status;
    this.kind = kind;
  }
}

/** ask(wasWrong) -> Promise of a token, or of null where the visitor has none: then never again. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** One request; asks for a token once where that is what is missing.  Returns the Response, which is ok. */
export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "Unreachable", "The gateway does not answer. Is `nextclick gateway` still running?");
  }
  if (response.ok) return response;
  const told = await response.json().then((answer) => answer.error, () => null);
  if (response.status === 401 && askForToken) {
    const given = await askForToken(told?.kind === "TokenWrong");
    if (given !== null) {
      sessionStorage.setItem(TOKEN, given);
      return request(path, { method, body, signal });
    }
    askForToken = null;
  }
  throw new ApiError(response.status, told?.kind ?? "Failed", told?.message ?? `The gateway answered ${response.status}.`);
}

export const get = async (path, options) => (await request(path, options)).json();

const at = encodeURIComponent;
const ITEMS_AT_ONCE = 100;

export const items = (limit, options) => get(`/v1/items?limit=${limit}`, options);
export const models = (options) => get("/v1/models", options);
/** changelog: also as the worker stores it; slow on a large topic. */
export const session = (id, { changelog = false, ...options } = {}) =>
  get(`/v1/sessions/${at(id)}${changelog ? "?changelog=true" : ""}`, options);
export const neighbours = (version, id, options) =>
  get(`/v1/models/${at(version)}/neighbours/${at(id)}?limit=12`, options);
export const map = (version, limit, options) => get(`/v1/models/${at(version)}/map?limit=${limit}`, options);

/** Titles and categories of named items, in any order. */
export async function itemsNamed(ids, options) {
  const found = [];
  for (let begin = 0; begin < ids.length; begin += ITEMS_AT_ONCE) {
    const some = ids.slice(begin, begin + ITEMS_AT_ONCE).map(at).join(",");
    found.push(...(await get(`/v1/items?ids=${some}`, options)).items);
  }
  return found;
}

/** Store a click and wait for the answer to it; `recommendation` is null where none came in time. */
export async function click(body, waitMs, options) {
  const response = await request(`/v1/clicks?wait=${waitMs}`, { ...options, method: "POST", body });
  return response.json();
}
