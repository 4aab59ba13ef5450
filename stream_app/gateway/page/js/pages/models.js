// Models: every training with what the gate said of it, and a map of what the model has learned.

import { models } from "../api.js";
import { fill, h } from "../dom.js";
import { count, dated, percent, versionName, versionTime } from "../format.js";
import { explorer } from "../models/explorer.js";
import { drawReport, resultChip } from "../models/report.js";
import { failure, loading, notice } from "../notices.js";
import { liveVersion, onStream } from "../stream.js";

export const title = "Models";

export function mount(root, { path: [wanted], query, signal }) {
  const place = h("div", {}, loading("the models", 6));
  fill(root,
    h("header.page-head", {}, h("div", {}, h("h1", {}, "Models"),
      h("p.lead", {}, "Every training is judged before it may answer: on clicks it has not seen, against the live model and against popularity."))),
    place);
  let shown = null; // the newest version that is on the page

  async function load() {
    try {
      const told = await models({ signal });
      const trainings = joined(told);
      shown = told.live?.model_version ?? null;
      if (!trainings.length) {
        fill(place, notice("empty", "No model has been trained yet.",
          ["The first comes from ", h("code", {}, "nextclick retrain"), " once there are clicks enough to learn from; until then the stream statistics answer. In the demo that takes about two minutes."],
          { label: "Look again", run: load }));
        return;
      }
      const chosen = trainings.find((training) => training.model_version === wanted) ?? trainings.find((training) => training.isLive) ?? trainings[0];
      const mapped = chosen.manifest ? chosen.model_version : "live";
      fill(place,
        wanted && wanted !== "live" && chosen.model_version !== wanted && notice("empty", `There is no model ${wanted}.`, "It may have been deleted. The live one is shown instead."),
        h("div.models-columns", {}, list(trainings, chosen), h("section.panel.report", { "aria-labelledby": "report-title" }, drawReport(chosen))),
        (chosen.manifest || told.live?.model_version) && explorer({
          version: mapped, item: query.get("item"), signal,
          onChoose: (id) => history.replaceState(null, "", `#/models/${encodeURIComponent(chosen.model_version)}?item=${encodeURIComponent(id)}`),
        }).element);
    } catch (error) {
      if (!signal.aborted) fill(place, failure(error, load));
    }
  }

  const news = h("div.news", { role: "status" });
  place.before(news);
  onStream(() => {
    const live = liveVersion();
    if (!live || shown === null || live === shown || news.children.length) return;
    fill(news, h("p", {}, `${versionName(live)} has gone live. `), h("button.button", { type: "button", onclick: () => { fill(news); load(); } }, "Show it"));
  }, signal);
  load();
}

/** Reports and bundles by version, newest first: a refused training has no bundle, an imported model no report. */
function joined({ live, models: bundles, reports }) {
  const versions = new Map();
  for (const manifest of bundles) versions.set(manifest.model_version, { manifest, report: null });
  for (const report of reports) versions.set(report.model_version, { manifest: versions.get(report.model_version)?.manifest ?? null, report });
  return [...versions].map(([model_version, each]) => ({ ...each, model_version, isLive: model_version === live?.model_version }))
    .sort((a, b) => (a.model_version < b.model_version ? 1 : -1));
}

function list(trainings, chosen) {
  const best = Math.max(...trainings.map(recall), 1e-9);
  return h("nav.panel.trainings", { "aria-label": "Trainings, newest first" },
    h("header", {}, h("h2", {}, "Trainings"), h("p", {}, `${count(trainings.length)}, newest first`)),
    h("ol", {}, trainings.map((training) => h("li", {},
      h("a", { href: `#/models/${encodeURIComponent(training.model_version)}`, "aria-current": training === chosen ? "true" : null },
        h("span.training-name", {}, versionName(training.model_version), resultChip(training.report, training.isLive)),
        h("span.kind", {}, when(training)),
        h("span.training-bar", { "aria-hidden": "true" }, h("span", { style: { "--share": recall(training) / best, "--tone": refused(training) ? "var(--alarm)" : "var(--signal)" } })),
        h("span.training-recall", {}, h("span.visually-hidden", {}, "Recall@20 "), recall(training) ? percent(recall(training)) : "–"))))));
}

const recall = ({ report, manifest }) => (report?.quality ?? manifest?.metrics)?.candidate?.recall_20 ?? 0;
const refused = ({ report }) => report?.verdict.passed === false;

function when({ model_version, manifest }) {
  const ms = manifest ? Date.parse(manifest.created_at) : versionTime(model_version);
  return ms ? dated(ms) : "";
}
