// The shop window: a grid of items, by department and by words.

import { fill, h } from "../dom.js";
import { count, itemName, titleParts } from "../format.js";
import { picture } from "../pictures/picture.js";
import { rankOf, visit } from "./visit.js";

const FIRST_SHOWN = 48;

export function shopWindow(onClick) {
  const chosen = { department: null, category: null, words: "", shown: FIRST_SHOWN };
  let items = [];
  const chips = h("div.chips");
  const grid = h("ul.grid", { "aria-label": "The shop" });
  const more = h("button.button.more", { type: "button", onclick: () => { chosen.shown += FIRST_SHOWN; draw(); } }, "Show more");
  const found = h("p.found", { role: "status" });
  const search = h("input.field.search", {
    type: "search", placeholder: "Search the shop", "aria-label": "Search the shop",
    oninput: (event) => { chosen.words = event.target.value; chosen.shown = FIRST_SHOWN; draw(); },
  });
  const element = h("section.shop", { "aria-label": "Shop" }, h("div.shop-tools", {}, chips, search), found, grid, more);

  function choose(department, category) {
    Object.assign(chosen, { department, category, shown: FIRST_SHOWN });
    draw();
    // Drawn anew, so the focus has to be put back on what was pressed.
    chips.querySelector(`[data-name="${CSS.escape(category ?? department ?? "")}"]`)?.focus();
  }

  function draw() {
    fill(chips, drawChips(items, chosen, choose));
    const matching = items.filter((item) => matches(item, chosen));
    fill(grid, matching.slice(0, chosen.shown).map((item) => card(item, onClick)));
    more.hidden = matching.length <= chosen.shown;
    found.textContent = chosen.words
      ? matching.length ? `${count(matching.length)} found` : `Nothing here is called “${chosen.words}”. Try fewer letters, or another department.`
      : "";
    mark();
  }

  /** The marks of the cards, without drawing them anew: a click must not cost the whole grid. */
  function mark() {
    const clicked = new Set(visit.trail.map((entry) => entry.item_id));
    for (const place of grid.children) {
      const rank = rankOf(place.dataset.id);
      place.classList.toggle("is-shown", rank > 0);
      place.classList.toggle("is-clicked", clicked.has(place.dataset.id));
      const badge = place.querySelector(".badge");
      badge.hidden = !rank;
      fill(badge, h("span.visually-hidden", {}, "on your list at "), rank || "");
    }
  }

  return {
    element, draw, mark,
    setItems(newer) { items = mixed(newer); draw(); },
    focus: (id) => grid.querySelector(`[data-id="${CSS.escape(id)}"] button`)?.focus(),
  };
}

/** The most popular of each category, then the second of each, ...: a window, not forty of one kind. */
function mixed(items) {
  const seen = new Map();
  const round = items.map(({ category }) => {
    seen.set(category, (seen.get(category) ?? -1) + 1);
    return seen.get(category);
  });
  return items.map((item, at) => ({ item, at })).sort((a, b) => round[a.at] - round[b.at] || a.at - b.at).map(({ item }) => item);
}

function matches(item, { department, category, words }) {
  const [itsDepartment] = (item.category ?? "").split(" > ");
  if (department && itsDepartment !== department) return false;
  if (category && item.category !== category) return false;
  const text = `${itemName(item)} ${item.category ?? ""}`.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function drawChips(items, chosen, choose) {
  const departments = new Map(); // name -> categories
  for (const { category } of items) {
    if (!category) continue;
    const [department] = category.split(" > ");
    if (!departments.has(department)) departments.set(department, new Set());
    departments.get(department).add(category);
  }
  if (!departments.size) return [];
  const chip = (label, name, pressed, run) =>
    h("button.chip", { type: "button", "aria-pressed": String(pressed), "data-name": name, onclick: run }, label);
  const row = [chip("Everything", "", !chosen.department, () => choose(null, null))];
  for (const name of [...departments.keys()].sort()) row.push(chip(name, name, chosen.department === name, () => choose(name, null)));
  const inside = [...(departments.get(chosen.department) ?? [])].sort();
  return [
    h("div.chip-row", { role: "group", "aria-label": "Departments" }, row),
    inside.length > 1 && h("div.chip-row.is-inner", { role: "group", "aria-label": `In ${chosen.department}` },
      inside.map((name) => chip(name.split(" > ").pop(), name, chosen.category === name,
        () => choose(chosen.department, chosen.category === name ? null : name)))),
  ];
}

function card(item, onClick) {
  const { noun, model, colour } = titleParts(itemName(item));
  return h("li.card", { "data-id": item.item_id },
    h("button", { type: "button", onclick: () => onClick(item.item_id) },
      h("span.card-picture", {}, picture(item), h("span.badge", { hidden: true })),
      h("span.noun", {}, noun),
      h("span.kind", {}, [model, colour].filter(Boolean).join(", ") || "\u00a0")));
}
