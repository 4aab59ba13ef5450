// One training: what the gate said, how good it was, what it learned from, and how long it took.

import { bars, stepLine } from "../charts/bars.js";
import { h } from "../dom.js";
import { count, dated, percent, seconds, versionName } from "../format.js";

const CONTENDERS = {
  candidate: ["this model", "signal"],
  live: ["live model then", "version-1"],
  "item-knn": ["item-kNN", "ink-faint"],
  popularity: ["popularity", "crowd"],
  "recent-popularity": ["recent popularity", "crowd"],
};

/** report may be null (an imported model), manifest too (a refused one). */
export function drawReport({ model_version, report, manifest, isLive }) {
  const quality = report?.quality ?? manifest?.metrics ?? {};
  const training = report?.training ?? manifest?.training ?? {};
  const ranked = Object.entries(CONTENDERS).filter(([name]) => quality[name]?.recall_20 !== undefined);
  return [
    h("header.report-head", {}, h("div", {}, h("h2", { id: "report-title" }, `Model ${versionName(model_version)}`), h("p.mono.kind", {}, model_version)), resultChip(report, isLive)),
    report && verdictBox(report),
    h("div.report-columns", {},
      ranked.length > 0 && part("Recall@20 on held-out clicks",
        bars(ranked.map(([name]) => row(name, quality[name].recall_20)), { format: (value) => percent(value) }),
        h("p.kind", {}, `${count(quality.candidate?.targets ?? 0)} next clicks it had not learned from, ranked against the whole catalogue.`)),
      ranked.length > 0 && part("MRR@20",
        bars(ranked.map(([name]) => row(name, quality[name].mrr_20)), { format: (value) => value.toFixed(3) }),
        h("p.kind", {}, "The mean of 1 / rank: how near the top the right item stood.")),
      report?.epoch_losses?.length > 1 && part("Loss by epoch", stepLine(report.epoch_losses, { label: "Loss by epoch", format: (value) => value.toFixed(2) })),
      part("What it learned from", facts(training, report, manifest)),
      report?.step_seconds && part("Where the time went", times(report.step_seconds))),
  ];
}

const part = (name, ...content) => h("section.report-part", {}, h("h3", {}, name), ...content);

function row(name, value) {
  const [label, tone] = CONTENDERS[name];
  return { name: label, value, tone, isMain: name === "candidate" };
}

export function resultChip(report, isLive) {
  if (isLive) return h("span.chip.is-signal", {}, "live");
  if (!report) return h("span.chip", {}, "no report");
  return report.verdict.passed ? h("span.chip", {}, "published") : h("span.chip.is-alarm", {}, "refused");
}

function verdictBox({ verdict }) {
  return h(`div.verdict-box${verdict.passed ? "" : ".is-refused"}`, {},
    h("p", {}, h("strong", {}, verdict.passed ? "The gate let it through" : "The gate refused it"),
      verdict.passed ? "" : ". The model before it stays live."),
    h("ul", {}, verdict.reasons.map((reason) => h("li", {}, reason))));
}

function facts(training, report, manifest) {
  const rows = [
    ["Clicks", training.clicks !== undefined && `${count(training.clicks)} in ${count(training.sessions)} sessions`],
    ["Window", training.first_event_ms != null && `${dated(training.first_event_ms)} to ${dated(training.last_event_ms)}`],
    ["Began with", training.started_from ? `the weights of ${versionName(training.started_from)}` : "nothing: trained from scratch"],
    ["Trained", training.epochs !== undefined && `${training.epochs} epochs in ${seconds(training.seconds)}`],
    ["Items", (report ?? manifest) && `${count((report ?? manifest).n_items)}${report ? `, ${count(report.new_items)} new, ${count(report.retired_items)} retired` : ""}`],
    ["Network", manifest && `${manifest.architecture}${manifest.hyperparameters?.units ? `, ${manifest.hyperparameters.units} units` : ""}`],
    ["Torch and ONNX agree", report?.parity && `${percent(report.parity.recall, 2)} of ${count(report.parity.lists)} lists’ items`],
  ];
  return h("dl.facts", {}, rows.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function times(steps) {
  const rows = Object.entries(steps).map(([name, value]) => ({ name, value, tone: "line-strong" }));
  return bars(rows, { format: seconds });
}
