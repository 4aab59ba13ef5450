// Playground: a shop to click in, and the list that changes with every click.

import { items } from "../api.js";
import { announce, fill, h } from "../dom.js";
import { itemName } from "../format.js";
import { learn, named } from "../names.js";
import { failure, loading, notice } from "../notices.js";
import { listPanel } from "../playground/list.js";
import { shopWindow } from "../playground/shop.js";
import { trailStrip, verdict } from "../playground/trail.js";
import { clickItem, learnList, newVisitor, resume, visit } from "../playground/visit.js";

export const title = "Playground";

const ITEMS = 500;
const LOOK_AGAIN_MS = 3000;

export function mount(root, { signal }) {
  const trouble = h("div");
  const shop = shopWindow(go);
  const list = listPanel(go);
  const trail = trailStrip(() => { newVisitor(); fill(trouble); redraw(); announce("You are a new visitor."); });
  const place = h("div.shop-place", {}, loading("the shop", 6));
  fill(root,
    h("header.page-head", {}, h("div", {}, h("h1", {}, "Playground"),
      h("p.lead", {}, "You are a visitor of this shop. Click things, and watch what the live model thinks you will look at next."))),
    trail.element, trouble, h("div.playground-columns", {}, place, list.panel));

  function redraw() {
    shop.mark();
    list.draw();
    trail.draw();
  }

  async function go(id, again = null) {
    fill(trouble);
    const began = performance.now();
    const clicking = clickItem(id, { again });
    list.markWaiting();
    trail.draw();
    try {
      const outcome = await clicking;
      if (signal.aborted) return;
      redraw();
      if (outcome === "answered") {
        measured(began);
        announce(`${itemName(named(id))}: ${verdict(visit.trail.at(-1))}. First on your list now: ${itemName(named(visit.list.ids[0] ?? ""))}.`);
        if (await learnList({ signal })) list.draw();
      } else if (outcome !== "overtaken") fill(trouble, noAnswer(outcome));
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      redraw();
      fill(trouble, failure(error, error.entry && (() => go(id, error.entry))));
    }
  }

  async function load() {
    try {
      const told = await items(ITEMS, { signal });
      if (signal.aborted) return;
      learn(told.items);
      if (!told.items.length) {
        fill(place, notice("empty", "The shop is empty: no click has named an item yet.",
          ["Start its visitors with ", h("code", {}, "nextclick simulate"), ". The window fills as they click."]));
        setTimeout(() => signal.aborted || load(), LOOK_AGAIN_MS);
        return;
      }
      shop.setItems(told.items);
      fill(place, shop.element);
    } catch (error) {
      if (!signal.aborted) fill(place, failure(error, () => { fill(place, loading("the shop", 6)); load(); }));
    }
  }

  redraw();
  resume({ signal }).then(() => {
    if (signal.aborted) return;
    redraw();
    learnList({ signal }).then((news) => news && list.draw(), () => {});
  });
  load();
}

/** From the click to the list as the eye has it: read by `make pictures` and the browser tests. */
function measured(began) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel(); // its message comes after the frame was drawn
    channel.port1.onmessage = () => performance.measure("click-to-list", { start: began, end: performance.now() });
    channel.port2.postMessage(null);
  });
}

function noAnswer(reason) {
  if (reason === "timed_out") {
    return notice("error", "Kafka has your click, but no answer came within two seconds.",
      ["Is a worker running? Start one with ", h("code", {}, "nextclick worker"), ". The click is not lost; your next one is answered from both."]);
  }
  return notice("error", `Your click is stored, and gets no answer (${reason}).`, "Click something else.");
}
