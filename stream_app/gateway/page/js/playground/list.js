// The panel beside the shop: what the live model thinks you will look at next.

import { fill, h, reducedMotion } from "../dom.js";
import { isPopularity, itemName, milliseconds, titleParts, versionName } from "../format.js";
import { named } from "../names.js";
import { picture } from "../pictures/picture.js";
import { visit } from "./visit.js";

const FALLBACKS = {
  no_model: "No model is live yet: this is what others clicked next, or what is popular right now.",
  unknown_item: "The model has never met this item: this is what others clicked next, or what is popular right now.",
  no_consent: "Without consent nothing is remembered: this is what is popular right now.",
};
const MOVE_MS = 320;

export function listPanel(onClick) {
  const facts = h("div.next-facts");
  const list = h("ol.next-list", { "aria-label": "Recommended next, best first" });
  const empty = h("div.next-empty", {},
    h("p", {}, "Click any item of the shop."),
    h("p", {}, "Your click goes through Kafka to the worker; its answer, the 20 items you are most likely to look at next, appears here."));
  const panel = h("section.next", { "aria-labelledby": "next-title" },
    h("header.next-head", {}, h("h2", { id: "next-title" }, "Next for you"), facts), empty, list);

  /** That an answer is on its way; the rows stay, and so does the focus. */
  function markWaiting() {
    panel.classList.toggle("is-waiting", visit.waiting > 0);
    list.setAttribute("aria-busy", visit.waiting > 0);
  }

  function draw() {
    markWaiting();
    empty.hidden = Boolean(visit.list);
    if (!visit.list) return fill(facts), fill(list);
    fill(facts, drawFacts(visit.list));
    const places = positions(list);
    const held = heldIn(list);
    fill(list, visit.list.ids.map((id, index) => entry(named(id), index + 1, onClick)));
    list.scrollTo(0, 0); // the best of a new list is what one wants to see
    if (held) keepFocus(list, held);
    if (!reducedMotion()) glide(list, places);
  }

  return { panel, draw, markWaiting };
}

function drawFacts({ latency_ms, browser_ms, model_version, fallback }) {
  const note = fallback && (FALLBACKS[fallback] ?? `Answered from the statistics (${fallback}).`);
  return [
    h("p.next-latency", {}, h("strong", {}, milliseconds(latency_ms)), " in the stream"),
    browser_ms !== null && h("p.next-latency", {}, h("strong", {}, milliseconds(browser_ms)), " in your browser"),
    h(`p.chip${isPopularity(model_version) || fallback ? ".is-crowd" : ".is-signal"}`, { title: model_version ?? "statistics" },
      isPopularity(model_version) ? "statistics" : `model ${versionName(model_version)}`),
    note && h("p.next-note", {}, note),
  ];
}

function entry(item, rank, onClick) {
  const { noun, model, colour } = titleParts(itemName(item));
  const before = visit.before.indexOf(item.item_id) + 1;
  return h("li", { "data-id": item.item_id },
    h("button.next-item", { type: "button", onclick: () => onClick(item.item_id), title: itemName(item) },
      h("span.rank", {}, rank),
      h("span.thumb", {}, picture(item)),
      h("span.next-name", {}, h("span.noun", {}, noun), h("span.kind", {}, [model, colour].filter(Boolean).join(", "))),
      visit.before.length > 0 && movement(before, rank)));
}

function movement(before, rank) {
  if (!before) return h("span.move.is-new", {}, "new");
  const steps = before - rank;
  if (!steps) return h("span.move", {}, h("span", { "aria-hidden": "true" }, "="), h("span.visually-hidden", {}, "stays"));
  return h(`span.move${steps > 0 ? ".is-up" : ".is-down"}`, {},
    h("span", { "aria-hidden": "true" }, steps > 0 ? "↑" : "↓"),
    h("span.visually-hidden", {}, steps > 0 ? "up by " : "down by "), Math.abs(steps));
}

/** The item of the list that has the focus; `byKeys`: one who uses keys wants to go on from there. */
function heldIn(list) {
  const row = document.activeElement?.closest(".next-list li");
  return row && list.contains(row) ? { id: row.dataset.id, byKeys: document.activeElement.matches(":focus-visible") } : null;
}

/** On the same item, or on the first where that one has left the list; a pointer's list is not scrolled for it. */
function keepFocus(list, { id, byKeys }) {
  const rows = [...list.children];
  (rows.find((row) => row.dataset.id === id) ?? rows[0])?.firstChild.focus({ preventScroll: !byKeys });
}

function positions(list) {
  return new Map([...list.children].map((row) => [row.dataset.id, row.getBoundingClientRect()]));
}

/** Rows glide from where they were; new ones fade in. */
function glide(list, before) {
  const options = { duration: MOVE_MS, easing: "cubic-bezier(.2,.7,.2,1)" };
  for (const row of list.children) {
    const old = before.get(row.dataset.id);
    if (!old) {
      row.animate([{ opacity: 0 }, { opacity: 1 }], options);
      continue;
    }
    const now = row.getBoundingClientRect();
    const x = old.left - now.left;
    const y = old.top - now.top;
    if (x || y) row.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], options);
  }
}
