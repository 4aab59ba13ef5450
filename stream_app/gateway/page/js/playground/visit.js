// The visitor that you are: your session, what you clicked, and the list you are shown now.

import { click, session } from "../api.js";
import { learn, learnMissing, named } from "../names.js";

const KEY = "nextclick-visit";
const WAIT_MS = 2000;

/** { session_id, trail: [{ item_id, judged: null | { rank }, latency_ms, version }], list, before } */
export const visit = { session_id: null, trail: [], list: null, before: [], waiting: 0 };

let sent = 0;
let answered = 0;

export function newVisitor() {
  const id = randomHex(8);
  Object.assign(visit, { session_id: `visitor-${id}`, trail: [], list: null, before: [], waiting: 0 });
  sent = answered = 0;
  sessionStorage.removeItem(KEY); // kept from the first click on: before it nobody knows of the visit
}

/** After a reload: the same visitor, with what the gateway remembers of the visit. */
export async function resume(options) {
  if (visit.session_id) return;
  const kept = sessionStorage.getItem(KEY);
  newVisitor();
  if (!kept) return;
  sessionStorage.setItem(KEY, kept);
  const told = await session(kept, options).catch(() => null); // forgotten: begin anew
  if (!told || sent) return;
  visit.session_id = kept;
  for (const clicked of told.clicks) {
    learn([clicked, ...(clicked.answer?.items ?? [])]);
    visit.trail.push({ item_id: clicked.item_id, judged: clicked.judged, latency_ms: clicked.answer?.latency_ms ?? null });
  }
  const answer = told.clicks.at(-1)?.answer;
  if (answer) {
    visit.list = {
      recommendation_id: told.clicks.at(-1).recommendation_id, model_version: answer.model_version, fallback: answer.fallback,
      latency_ms: answer.latency_ms, ids: answer.items.map((item) => item.item_id), browser_ms: null,
    };
  }
}

/** From 1, in the list that is shown now; 0 if it is not in it. */
export const rankOf = (id) => (visit.list ? visit.list.ids.indexOf(id) + 1 : 0);

/**
 * Click an item: stored in Kafka, answered by the worker.  Returns "answered", "overtaken" (a later
 * click was answered first), or why there is no answer; throws ApiError.  `again`: a click that may have
 * been stored, sent once more under its name, so that it counts once.
 */
export async function clickItem(item_id, { again = null } = {}) {
  const number = (sent += 1);
  const mine = visit.session_id;
  const began = performance.now();
  const rank = rankOf(item_id);
  const entry = again ?? {
    item_id, judged: visit.list ? { rank } : null, latency_ms: null, event_id: randomHex(16),
    recommendation_id: rank ? visit.list.recommendation_id : undefined,
  };
  if (!again) visit.trail.push(entry);
  sessionStorage.setItem(KEY, mine);
  visit.waiting += 1;
  try {
    const { title, category } = named(item_id);
    const told = await click({
      session_id: mine, item_id, event_time: Date.now(), event_id: entry.event_id, recommendation_id: entry.recommendation_id,
      properties: title ? { title, category: category ?? undefined } : undefined,
    }, WAIT_MS);
    if (visit.session_id !== mine || number < answered) return "overtaken";
    if (!told.recommendation) return told.reason;
    answered = number;
    take(told.recommendation, entry, performance.now() - began);
    return "answered";
  } catch (error) {
    error.entry = entry;
    throw error;
  } finally {
    if (visit.session_id === mine) visit.waiting -= 1;
  }
}

function take(recommendation, entry, browser_ms) {
  learn(recommendation.items.filter((item) => item.title));
  entry.latency_ms = recommendation.latency_ms;
  visit.before = visit.list?.ids ?? [];
  visit.list = {
    recommendation_id: recommendation.recommendation_id, model_version: recommendation.model_version,
    fallback: recommendation.fallback, latency_ms: recommendation.latency_ms, browser_ms,
    ids: recommendation.items.map((item) => item.item_id),
  };
}

export const learnList = (options) => (visit.list ? learnMissing(visit.list.ids, options) : Promise.resolve(false));

/** Not crypto.randomUUID: that exists on secure origins only, and a phone on the same network is none. */
function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
