// Live: what comes in, how fast it is answered, and how good the answers are, judged as they are given.

import { lineChart } from "../charts/lines.js";
import { fill, h } from "../dom.js";
import { clock, count, isPopularity, milliseconds, percent, versionName } from "../format.js";
import { liveFeed } from "../live/feed.js";
import { notice } from "../notices.js";
import { hitRates, latest, onStream, stream, swaps } from "../stream.js";
import { tone } from "../tones.js";

export const title = "Live";

const SPAN_MS = 15 * 60_000;

export function mount(root, { signal }) {
  const quality = lineChart({ label: "Hit rate at 20 over the last minute", format: (value, short) => percent(value, short ? 0 : 1), height: 320, right: 132 });
  const rate = lineChart({ label: "Clicks per second", format: (value) => count(value), height: 190, right: 64 });
  const latency = lineChart({ label: "Click to answer, milliseconds", format: (value) => `${count(value)} ms`, height: 190, right: 72 });
  const tiles = h("dl.tiles");
  const table = h("div.scroll-x", { tabindex: 0, role: "region", "aria-label": "By model" });
  const trouble = h("div");
  const feed = liveFeed(signal);
  const panel = (name, note, ...content) => h("section.panel", { "aria-label": name }, h("header", {}, h("h2", {}, name), note && h("p", {}, note)), ...content);
  fill(root,
    h("header.page-head", {}, h("div", {}, h("h1", {}, "Live"),
      h("p.lead", {}, "Every answer is judged by its visitor’s next click: was it on the list of 20? Popularity, beside each model, is judged on the very same clicks."))),
    trouble, tiles,
    h("div.live-columns", {},
      h("div.stack", {},
        panel("Hit rate@20, over the last minute", "▾ a new model went live", quality.element),
        h("div.pair", {}, panel("Clicks per second", null, rate.element), panel("Click to answer", "of the last minute", latency.element)),
        panel("By model, since the gateway began", null, table)),
      feed.element));

  function draw() {
    const figures = latest();
    fill(trouble, state(figures));
    if (!figures) return;
    fill(tiles, drawTiles(figures));
    fill(table, drawTable(figures));
    const seen = stream.figures.filter((other) => other.at_ms > figures.at_ms - SPAN_MS);
    const span = [seen[0].at_ms, Math.max(figures.at_ms, seen[0].at_ms + 60_000)];
    const best = figures.best_possible_hit_rate_20;
    quality.update({
      span, reference: best ? { value: best, name: "best possible" } : null,
      marks: swaps(seen).map(({ at_ms, version }) => ({ at_ms, name: versionName(version) })),
      series: [...hitRates(seen)].map(([version, points]) => ({ key: version, name: versionName(version), tone: tone(version, figures.live_version), points })),
    });
    const over = (value) => seen.filter((other) => value(other) != null).map((other) => [other.at_ms, value(other)]);
    rate.update({ span, reference: null, marks: [], series: [{ key: "rate", name: "", tone: "ink", points: over((f) => f.clicks_per_second) }] });
    latency.update({
      span, reference: null, marks: [],
      series: [["p99", "crowd"], ["p50", "signal"]].map(([name, its]) => ({ key: name, name, tone: its, points: over((f) => f.latency_ms?.[name]) })),
    });
  }

  onStream((kind) => kind !== "answer" && draw(), signal);
  addEventListener("themechange", draw, { signal });
  draw();
}

function state(figures) {
  if (stream.state === "lost") {
    return notice("error", "The live feed is not there; trying again every few seconds.",
      [stream.error?.status ? `${stream.error.message} ` : "", "Is ", h("code", {}, "nextclick gateway"), " running? What is shown below is from before."]);
  }
  if (!figures) return notice("empty", "Waiting for the first figures.", "They come once a second.");
  if (!figures.clicks) {
    return notice("empty", "No click has come since the gateway began.",
      ["Click in the ", h("a", { href: "#/playground" }, "playground"), ", or start visitors with ", h("code", {}, "nextclick simulate"), "."]);
  }
  if (!figures.recommended) {
    return notice("empty", "Clicks come in, and nobody answers them.", ["Start a worker with ", h("code", {}, "nextclick worker"), "; ", h("code", {}, "nextclick doctor"), " says what is missing."]);
  }
  return null;
}

function drawTiles(figures) {
  const answering = figures.models.find((model) => model.version === (figures.live_version ?? "none"));
  const rate = answering?.predictions ? answering.hits / answering.predictions : null;
  const best = figures.best_possible_hit_rate_20;
  const ignored = Object.values(figures.ignored).reduce((sum, each) => sum + each, 0);
  const open = figures.clicks - figures.recommended - figures.dead_lettered - ignored;
  const tile = (name, value, note, wide) => h(`div.tile${wide ? ".is-wide" : ""}`, {}, h("dt", {}, name), h("dd", {}, h("strong", {}, value), note && h("span", {}, note)));
  return [
    tile(isPopularity(figures.live_version) ? "Statistics hit" : `Model ${versionName(figures.live_version)} hits`, percent(rate),
      rate !== null && best ? `${Math.round((rate / best) * 100)} % of the best possible ${percent(best)}` : "of next clicks", true),
    tile("Clicks", count(figures.clicks_per_second), "per second"),
    tile("Half answered in", milliseconds(figures.latency_ms?.p50), "p50"),
    tile("99 % answered in", milliseconds(figures.latency_ms?.p99), "p99"),
    tile("Clicks so far", count(figures.clicks),
      `${count(figures.recommended)} answered, ${count(ignored)} ignored, ${count(figures.dead_lettered)} dead-lettered${open > 0 ? `, ${count(open)} on their way` : ""}`, true),
  ];
}

function drawTable({ models, live_version, best_possible_hit_rate_20: best, swaps: changes }) {
  const share = (total, model) => (model.predictions ? total / model.predictions : null);
  const rows = [...models].reverse().map((model) => {
    const rate = share(model.hits, model);
    const swap = changes.find((change) => change.version === model.version);
    return h("tr", {},
      h("th", { scope: "row" }, h("span.key", { style: { "--tone": `var(--${tone(model.version, live_version)})` } }), versionName(model.version),
        model.version === live_version && h("span.chip.is-signal", {}, "live")),
      h("td.number", {}, count(model.answers)), h("td.number", {}, count(model.predictions)),
      h("td.number", {}, h("strong", {}, percent(rate))), h("td.number", {}, share(model.reciprocal_rank, model)?.toFixed(3) ?? "–"),
      h("td.number", {}, isPopularity(model.version) ? "" : percent(share(model.popularity_hits, model))),
      best && h("td.number", {}, rate === null ? "–" : percent(rate / best, 0)),
      h("td.number", {}, swap ? `${clock(swap.at_ms)}, gap ${milliseconds(swap.longest_gap_ms)}` : ""));
  });
  const head = ["Answers by", "answers", "judged", "hit@20", "MRR@20", "popularity", best && "of best", "went live"].filter(Boolean);
  return h("table.by-model", {}, h("thead", {}, h("tr", {}, head.map((name, at) => h(`th${at ? ".number" : ""}`, { scope: "col" }, name)))), h("tbody", {}, rows));
}
