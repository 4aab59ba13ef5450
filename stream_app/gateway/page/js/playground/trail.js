// Your visit so far: each click, and whether it had been on the list before it.

import { fill, h } from "../dom.js";
import { itemName } from "../format.js";
import { named } from "../names.js";
import { picture } from "../pictures/picture.js";
import { visit } from "./visit.js";

export function trailStrip(onNewVisitor) {
  const score = h("p.trail-score");
  const steps = h("ol.trail-steps", { "aria-label": "Your clicks, newest last", tabindex: 0 });
  const more = h("a.trail-more", {}, "See it in full");
  const links = h("div.trail-links", {}, more, h("button.button.is-quiet", { type: "button", onclick: onNewVisitor }, "Be somebody new"));
  const element = h("section.trail", { "aria-label": "Your visit" }, score, steps, links);

  function draw() {
    links.hidden = visit.trail.length === 0; // the room for it is always kept, so that nothing moves
    more.href = `#/sessions/${encodeURIComponent(visit.session_id)}`;
    const judged = visit.trail.filter((entry) => entry.judged);
    const hits = judged.filter((entry) => entry.judged.rank > 0).length;
    fill(score, !visit.trail.length ? "Your visit begins with your first click."
      : judged.length === 0 ? "Your first click. The next one tells whether the list was right."
      : [h("strong", {}, `${hits} of ${judged.length}`), judged.length === 1 ? " next click was on the list you were shown" : " next clicks were on the list you were shown"]);
    fill(steps, visit.trail.map(step));
    steps.scrollLeft = steps.scrollWidth;
  }

  return { element, draw };
}

function step(entry) {
  const item = named(entry.item_id);
  return h(`li.step${entry.judged?.rank ? ".is-hit" : ""}`, { title: `${itemName(item)}: ${verdict(entry)}` },
    h("span.thumb", {}, picture(item)),
    h("span.step-verdict", {}, h("span.visually-hidden", {}, `${itemName(item)}, `), verdict(entry)));
}

export function verdict({ judged }) {
  if (!judged) return "first";
  return judged.rank ? `shown at ${judged.rank}` : "not shown";
}
