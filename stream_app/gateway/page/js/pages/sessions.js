// Sessions: what one visitor clicked, was shown and hit.

import { session } from "../api.js";
import { fill, h } from "../dom.js";
import { clock, count, itemName, milliseconds, percent, versionName } from "../format.js";
import { learn, learnMissing, named } from "../names.js";
import { failure, loading, notice } from "../notices.js";
import { picture } from "../pictures/picture.js";
import { resume, visit } from "../playground/visit.js";
import { onStream, stream } from "../stream.js";

export const title = "Sessions";

const AGAIN_MS = 4000;
const AT_MOST_EVERY_MS = 2000;

export function mount(root, { path: [id], signal }) {
  const place = h("div");
  const others = h("div");
  const field = h("input.field", { name: "id", placeholder: "Session id", "aria-label": "Session id", required: true, value: id ?? "", autocomplete: "off", spellcheck: "false" });
  const form = h("form.lookup", {
    onsubmit: (event) => {
      event.preventDefault();
      location.hash = `#/sessions/${encodeURIComponent(field.value.trim())}`;
    },
  }, field, h("button.button.is-main", {}, "Look up"));
  fill(root,
    h("header.page-head", {}, h("div", {}, h("h1", {}, "Sessions"),
      h("p.lead", {}, "What one visitor clicked and was shown, click by click; a ring marks what was clicked next.")), form),
    h("div.sessions-columns", {}, place, others));

  const drawOthers = () => fill(others, drawList(id));
  resume({ signal }).then(() => signal.aborted || drawOthers());
  drawOthers();
  let drawn = Date.now();
  let waiting = false;
  onStream((kind) => {
    if (kind !== "answer" || waiting) return;
    waiting = true;
    // The last answer of a burst is drawn as well, a moment later.
    setTimeout(() => {
      waiting = false;
      if (signal.aborted || others.contains(document.activeElement)) return;
      drawn = Date.now();
      drawOthers();
    }, Math.max(0, drawn + AT_MOST_EVERY_MS - Date.now()));
  }, signal);

  if (!id) {
    fill(place, notice("empty", "Pick a session.",
      ["Yours begins in the ", h("a", { href: "#/playground" }, "playground"), "; others appear in the list as they click, where this gateway may name them (", h("code", {}, "gateway.live_session_ids"), ")."]));
    return;
  }
  fill(place, loading("the session"));
  follow(id, place, signal);
}

/** Drawn when it has changed, until the page is left. */
async function follow(id, place, signal) {
  let seen = null;
  while (!signal.aborted) {
    try {
      const told = await session(id, { signal }).catch((error) => (error.status === 404 && seen === null ? session(id, { signal, changelog: true }) : Promise.reject(error)));
      const now = JSON.stringify(told.clicks);
      if (now !== seen) {
        seen = now;
        for (const clicked of told.clicks) learn([clicked, ...(clicked.answer?.items ?? [])]);
        draw(told, place, signal);
        if (await learnMissing(told.clicks.map((clicked) => clicked.item_id), { signal }).catch(() => false)) draw(told, place, signal);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) {
        fill(place, notice("error", `No session is called “${id}”.`, "This gateway has seen no click of it, and the changelog does not know it: it never clicked, or was idle for so long that it was forgotten."));
        return;
      }
      fill(place, failure(error, () => { fill(place, loading("the session")); follow(id, place, signal); }));
      return;
    }
    await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
  }
}

function draw(told, place, signal) {
  const judged = told.clicks.filter((clicked) => clicked.judged);
  const hits = judged.filter((clicked) => clicked.judged.rank > 0);
  const mrr = judged.length ? hits.reduce((sum, clicked) => sum + 1 / clicked.judged.rank, 0) / judged.length : null;
  const latencies = told.clicks.map((clicked) => clicked.answer?.latency_ms).filter((ms) => ms !== undefined);
  const tile = (name, value, note) => h("div.tile", {}, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", {}, note)));
  const stored = h("div");
  fill(place,
    h("h2.session-title.mono", {}, told.session_id),
    told.clicks.length > 0 && h("dl.tiles.is-few", {},
      tile("Clicks", count(told.clicks.length), `over ${span(told.clicks)}`),
      tile("Hits", judged.length ? `${hits.length} of ${judged.length}` : "–", judged.length ? `${percent(hits.length / judged.length, 0)} were on the list before` : "the next click tells"),
      tile("MRR@20", mrr === null ? "–" : mrr.toFixed(2), "1 is always first"),
      tile("Answered in", latencies.length ? milliseconds(latencies.sort((a, b) => a - b)[latencies.length >> 1]) : "–", "the middle one")),
    told.clicks.length > 0
      ? h("ol.story", { "aria-label": "Clicks, oldest first" }, told.clicks.map((clicked, at) => drawClick(clicked, told.clicks[at + 1])))
      : notice("empty", "This gateway has seen none of its clicks.", "What the worker stores of it is below."),
    stored);
  if (told.changelog) fill(stored, drawStored(told.changelog));
  else {
    fill(stored, h("button.button", {
      type: "button",
      onclick: async () => {
        fill(stored, loading("what is stored", 1));
        try {
          const { changelog } = await session(told.session_id, { signal, changelog: true });
          fill(stored, changelog ? drawStored(changelog) : notice("empty", "Nothing is stored of it (yet).", "A worker writes the changelog a moment after its answer; without consent it writes nothing."));
        } catch (error) {
          if (!signal.aborted) fill(stored, failure(error, () => fill(stored)));
        }
      },
    }, "What the worker has stored of it"));
  }
}

function drawClick(clicked, next) {
  const item = named(clicked.item_id);
  const verdict = !clicked.judged ? ["first click", ""]
    : clicked.judged.rank ? [`✓ had been shown at ${clicked.judged.rank}`, ".is-hit"] : ["had not been shown", ""];
  return h("li.moment", {},
    h("div.moment-click", {}, h("span.thumb", {}, picture(item)),
      h("div.moment-name", {}, h("span.noun", {}, itemName(item)), h("span.kind", {}, item.category ?? item.item_id)),
      h("div.moment-facts", {}, h(`span.verdict${verdict[1]}`, {}, verdict[0]), h("span.kind", {}, clock(clicked.event_time_ms)))),
    clicked.answer ? drawAnswer(clicked.answer, next) : h("p.kind.moment-answer", {}, "It got no answer that this gateway saw."));
}

function drawAnswer({ model_version, fallback, latency_ms, items }, next) {
  const hit = items.findIndex((item) => item.item_id === next?.item_id) + 1;
  const shown = items.map((item, at) => h(`li${at + 1 === hit ? ".is-hit" : ""}`, { title: `${at + 1}. ${itemName(named(item.item_id))}` },
    h("span.thumb", {}, picture(named(item.item_id))),
    h("span.visually-hidden", {}, `${itemName(named(item.item_id))}${at + 1 === hit ? ", clicked next" : ""}`),
    at + 1 === hit && h("span.shown-rank", { "aria-hidden": "true" }, hit)));
  return h("div.moment-answer", {},
    h("p.kind", {}, `Shown next, by ${versionName(model_version)}${fallback ? ` (${fallback})` : ""} in ${milliseconds(latency_ms)}`),
    h("ol.shown", { "aria-label": "Shown, best first", tabindex: 0 }, shown));
}

function drawStored(changelog) {
  const rows = [
    ["Partition", changelog.partition], ["Last offset applied", count(changelog.last_offset)], ["Clicks", count(changelog.clicks)],
    ["State made by", versionName(changelog.model_version)], ["Last list made by", versionName(changelog.shown_by)],
    ["Recent items", changelog.recent_items.map((item) => itemName(named(item.item_id).title ? named(item.item_id) : item)).join(", ")],
  ];
  return h("section.panel", { "aria-label": "What the worker has stored" }, h("header", {}, h("h2", {}, "Stored in the changelog")),
    h("dl.facts", {}, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

function drawList(chosen) {
  const own = visit.trail.length > 0 && { id: visit.session_id, clicks: visit.trail.length, hits: visit.trail.filter((entry) => entry.judged?.rank).length, name: "Your visit" };
  const seen = [...stream.sessions].reverse().map(([id, { clicks, hits }]) => ({ id, clicks, hits }));
  const rows = [own, ...seen].filter(Boolean);
  if (!rows.length) return [];
  return h("nav.panel.trainings", { "aria-label": "Sessions" }, h("header", {}, h("h2", {}, "Lately"), h("p", {}, "of the sampled clicks")),
    h("ol", {}, rows.map(({ id, clicks, hits, name }) => h("li", {}, h("a", { href: `#/sessions/${encodeURIComponent(id)}`, "aria-current": id === chosen ? "true" : null },
      h("span.training-name", {}, name ?? id), h("span.kind", {}, `${count(clicks)} seen, ${count(hits)} hit`))))));
}

function span(clicks) {
  const ms = clicks.at(-1).event_time_ms - clicks[0].event_time_ms;
  return ms < 60_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`;
}
