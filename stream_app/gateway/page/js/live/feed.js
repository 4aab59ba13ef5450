// A few of the many clicks, each shown long enough to be read; can be paused.

import { fill, h, reducedMotion } from "../dom.js";
import { itemName, milliseconds, titleParts } from "../format.js";
import { learn, named } from "../names.js";
import { picture } from "../pictures/picture.js";
import { onStream, stream } from "../stream.js";

const SHOWN = 9;
const NEXT_MS = 1300;

export function liveFeed(signal) {
  const list = h("ol.feed-list", { "aria-label": "Clicks, newest first" });
  const empty = h("p.feed-empty", {}, "Clicks appear here as they are answered.");
  const button = h("button.button.is-quiet", { type: "button", "aria-pressed": "false", onclick: pause }, "Pause");
  const element = h("section.panel.feed", { "aria-label": "Clicks" }, h("header", {}, h("h2", {}, "Clicks"), button), empty, list);
  let paused = false;
  let newest = null;

  function pause() {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
  }

  function add(answer) {
    learn([answer, ...answer.answer.items]);
    const row = drawRow(answer);
    list.prepend(row);
    empty.hidden = true;
    if (!reducedMotion()) row.animate([{ opacity: 0, transform: "translateY(-12px)" }, { opacity: 1, transform: "none" }], { duration: 280, easing: "ease-out" });
    while (list.children.length > SHOWN) list.lastChild.remove();
  }

  for (const answer of stream.answers.slice(0, SHOWN).reverse()) add(answer);
  // Of those that came meanwhile, one that judges an answer says more than one that does not.
  onStream((kind) => {
    if (kind !== "answer") return;
    const [answer] = stream.answers;
    if (!newest?.judged || answer.judged) newest = answer;
  }, signal);
  const timer = setInterval(() => {
    if (paused || !newest) return;
    add(newest);
    newest = null;
  }, NEXT_MS);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  return { element };
}

function drawRow({ item_id, session_id, judged, answer }) {
  const item = named(item_id);
  const { noun, model, colour } = titleParts(itemName(item));
  const verdict = !judged ? ["first click", ""] : judged.rank ? [`✓ shown at ${judged.rank}`, ".is-hit"] : ["not shown", ""];
  const name = h("span.feed-name", {}, h("span.noun", {}, noun), h("span.kind", {}, [model, colour].filter(Boolean).join(", ")));
  return h("li.feed-row", {}, h("span.thumb", {}, picture(item)),
    session_id ? h("a.feed-link", { href: `#/sessions/${encodeURIComponent(session_id)}`, "aria-label": `${itemName(item)}: see this session` }, name) : name,
    h("span.feed-facts", {}, h(`span.verdict${verdict[1]}`, {}, verdict[0]), h("span.kind", {}, milliseconds(answer.latency_ms))));
}
