// Empty, loading and error states: what is the matter, and what to do about it.

import { h } from "./dom.js";

/** what: one line; todo: what to do next, text or elements; action: { label, run } or nothing. */
export function notice(kind, what, todo, action) {
  return h(
    `div.notice.is-${kind}`,
    { role: kind === "error" ? "alert" : null },
    h("p.notice-what", {}, what),
    todo && h("p.notice-todo", {}, todo),
    action && h("button.button", { type: "button", onclick: action.run }, action.label),
  );
}

const TODO = {
  Unreachable: ["Start it with ", h("code", {}, "nextclick gateway"), ", then try again."],
  TooManyRequests: "Wait a second, then go on: the gateway takes only so many requests from one address.",
  TokenMissing: "Reload the page to be asked for the token again.",
  TokenWrong: "Reload the page to be asked for the token again.",
  NoModel: ["The first one comes from ", h("code", {}, "nextclick retrain"), " once there are clicks enough to learn from."],
};

export function failure(error, retry) {
  const todo = TODO[error.kind] ?? null;
  const copy = Array.isArray(todo) ? todo.map((part) => (typeof part === "string" ? part : part.cloneNode(true))) : todo;
  return notice("error", error.message, copy, retry && { label: "Try again", run: retry });
}

/** Grey shapes of what is to come; said in words to those who do not see them. */
export function loading(what, rows = 3) {
  return h("div.loading", { role: "status" }, h("span.visually-hidden", {}, `Loading ${what}`),
    Array.from({ length: rows }, () => h("span.loading-row", { "aria-hidden": "true" })));
}
