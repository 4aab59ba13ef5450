// The live feed, read once for all pages: what came so far, and whoever wants to hear of more.

import { follow } from "./events.js";
import { isPopularity } from "./format.js";

const FIGURES_MAX = 1800; // half an hour
const ANSWERS_MAX = 40;
const SESSIONS_MAX = 30;

const listeners = new Set();

export const stream = {
  state: "connecting", // "connecting", "open", "lost"
  error: null,
  figures: [], // oldest first
  answers: [], // newest first
  sessions: new Map(), // id -> { clicks, hits, at_ms }, of the sample; the newest last
};

export const latest = () => stream.figures.at(-1) ?? null;
export const liveVersion = () => latest()?.live_version ?? null;

/** listener(kind) on "figures", "answer" or "state", until the signal says stop. */
export function onStream(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener), { once: true });
}

export function startStream() {
  follow("/v1/live", {
    onEvent: take,
    onState(state, error) {
      stream.state = state;
      stream.error = error ?? null;
      tell("state");
    },
    signal: new AbortController().signal,
  });
}

function take(name, data) {
  if (name === "history") {
    merge(data.figures);
    tell("figures");
  } else if (name === "figures") {
    merge([data]);
    tell("figures");
  } else if (name === "answer") {
    stream.answers.unshift(data);
    stream.answers.length = Math.min(stream.answers.length, ANSWERS_MAX);
    if (data.session_id) note(data);
    tell("answer");
  }
}

/** A restarted gateway counts from zero again: what came before has nothing to say of it. */
function merge(newer) {
  const last = latest();
  const news = newer.filter((figures) => !last || figures.at_ms > last.at_ms);
  if (last && news.length && news[0].clicks < last.clicks) stream.figures = [];
  stream.figures.push(...news);
  stream.figures.splice(0, stream.figures.length - FIGURES_MAX);
}

function note({ session_id, at_ms, judged }) {
  const known = stream.sessions.get(session_id) ?? { clicks: 0, hits: 0 };
  stream.sessions.delete(session_id);
  stream.sessions.set(session_id, {
    clicks: known.clicks + 1, hits: known.hits + (judged?.rank > 0 ? 1 : 0), at_ms,
  });
  if (stream.sessions.size > SESSIONS_MAX) stream.sessions.delete(stream.sessions.keys().next().value);
}

function tell(kind) {
  for (const listener of listeners) listener(kind);
}

// -- what the figures say of each model over time ------------------------------------------------------

export const WINDOW_MS = 60_000;
const PREDICTIONS_MIN = 40; // fewer judged answers than these in a window say nothing

/**
 * Hit rate@20 over the last minute, for every moment: a map of version -> [[at_ms, rate], ...].  The key
 * "none" is popularity throughout: its own answers while it gave them, and what it would have scored on
 * the model's clicks since.
 */
export function hitRates(figures) {
  const lines = new Map([["none", []]]);
  let begin = 0;
  for (const now of figures) {
    while (figures[begin].at_ms < now.at_ms - WINDOW_MS) begin += 1;
    const before = figures[begin];
    const crowd = { predictions: 0, hits: 0 };
    for (const model of now.models) {
      const old = before.models.find((other) => other.version === model.version);
      const since = (field) => model[field] - (old?.[field] ?? 0);
      crowd.predictions += since("predictions");
      crowd.hits += since("popularity_hits");
      // What judges a replaced model later are its last visitors: its line ends where it went.
      if (isPopularity(model.version) || model.version !== now.live_version || since("predictions") < PREDICTIONS_MIN) continue;
      if (!lines.has(model.version)) lines.set(model.version, []);
      lines.get(model.version).push([now.at_ms, since("hits") / since("predictions")]);
    }
    if (crowd.predictions >= PREDICTIONS_MIN) lines.get("none").push([now.at_ms, crowd.hits / crowd.predictions]);
  }
  return lines;
}

/** Swaps inside the span of the figures. */
export function swaps(figures) {
  const begin = figures[0]?.at_ms ?? Infinity;
  return (figures.at(-1)?.swaps ?? []).filter((swap) => swap.at_ms >= begin);
}
