// The shell: which page is shown, the line in the top bar, and the question for a token.

import { onTokenNeeded } from "./api.js";
import { fill, h } from "./dom.js";
import { count, milliseconds, versionName } from "./format.js";
import { latest, onStream, startStream, stream } from "./stream.js";

const PAGES = {
  playground: () => import("./pages/playground.js"),
  live: () => import("./pages/live.js"),
  models: () => import("./pages/models.js"),
  sessions: () => import("./pages/sessions.js"),
};

const main = document.getElementById("main");
const forever = new AbortController().signal;
let leaving = new AbortController();
let shown = null;

/** "#/models/live?item=a%2Fb" -> { page: "models", path: ["live"], query }. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  return { page: page in PAGES ? page : "playground", path: rest.map(decodeURIComponent), query: new URLSearchParams(query) };
}

async function show() {
  const { page, path, query } = route();
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.getAttribute("href") === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const module = await PAGES[page]();
  if (signal.aborted) return;
  document.title = `${module.title} · nextclick`;
  const root = h(`div.page.${page}`);
  fill(main, root);
  module.mount(root, { path, query, signal });
  if (shown !== null && shown !== page) {
    scrollTo(0, 0);
    const heading = root.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
  }
  shown = page;
}

function drawPulse() {
  const pulse = document.getElementById("pulse");
  pulse.dataset.state = stream.state;
  const figures = latest();
  if (stream.state === "lost") pulse.textContent = "no connection, trying again";
  else if (!figures) pulse.textContent = "connecting";
  else {
    const p50 = figures.latency_ms?.p50;
    fill(
      pulse,
      h("span.pulse-rate", {}, `${count(figures.clicks_per_second)} clicks/s`),
      h("span.pulse-more", {}, p50 == null ? "" : ` · ${milliseconds(p50)}`, ` · ${versionName(figures.live_version)}`),
    );
  }
}

function askForToken(wasWrong) {
  const dialog = document.getElementById("token-dialog");
  const field = document.getElementById("token");
  document.getElementById("token-title").textContent = wasWrong ? "That token is not the right one" : "This gateway asks for a token";
  if (!dialog.open) dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const token = dialog.returnValue === "use" ? field.value : null;
      dialog.returnValue = field.value = "";
      resolve(token);
    }, { once: true });
  });
}

document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the page, so it cannot name a place in it
  main.focus();
});
let asking = null;
onTokenNeeded((wasWrong) => (asking ??= askForToken(wasWrong).finally(() => { asking = null; })));
onStream((kind) => kind !== "answer" && drawPulse(), forever);
addEventListener("hashchange", show);
startStream();
show();
