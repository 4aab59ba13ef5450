// The map of a model's catalogue, and beside it the neighbours of the item that was chosen.

import { map, neighbours } from "../api.js";
import { catalogueMap } from "../charts/map.js";
import { announce, fill, h } from "../dom.js";
import { count, itemName, titleParts, versionName } from "../format.js";
import { learn, named } from "../names.js";
import { failure, loading } from "../notices.js";
import { picture } from "../pictures/picture.js";

const ITEMS = 2000;

/** onChoose(item_id): so that the address can name what is looked at. */
export function explorer({ version, item: first, onChoose, signal }) {
  const tip = h("div.tip.map-tip", { hidden: true });
  const beside = h("div.neighbours", {}, h("p.kind", {}, "Choose a dot, or search for an item, to see what item2vec finds most like it."));
  const note = h("p");
  const names = h("datalist", { id: "map-items" });
  const search = h("input.field.search", {
    type: "search", list: "map-items", placeholder: "Find an item", "aria-label": "Find an item on the map",
    onchange: () => {
      const item = items.find((other) => itemName(other) === search.value || other.item_id === search.value);
      if (item) choose(item.item_id);
    },
  });
  const chart = catalogueMap({ onHover: hover, onChoose: (item) => choose(item.item_id), signal });
  const tools = h("div.map-tools", { role: "group", "aria-label": "Zoom" },
    h("button.button", { type: "button", "aria-label": "Closer", onclick: () => chart.zoom(1.6) }, "+"),
    h("button.button", { type: "button", "aria-label": "Further away", onclick: () => chart.zoom(1 / 1.6) }, "−"),
    h("button.button", { type: "button", onclick: () => chart.zoom(0) }, "All"));
  const stage = h("div.map-stage", {}, loading("the map", 5));
  const element = h("section.panel", { "aria-labelledby": "map-title" },
    h("header", {}, h("h2", { id: "map-title" }, "The catalogue as the model sees it"), note),
    h("div.map-columns", {}, stage, h("div", {}, search, names, beside)));
  let items = [];

  function hover(item, place) {
    tip.hidden = !item;
    if (!item) return;
    fill(tip, h("strong", {}, itemName(item)), item.category && h("span.kind", {}, item.category));
    const left = place.x > chart.canvas.clientWidth / 2;
    tip.style.setProperty("translate", `calc(${place.x}px ${left ? "- 100% - 14px" : "+ 14px"}) calc(${place.y}px - 50%)`);
    if (document.activeElement === chart.canvas) announce(`${itemName(item)}, ${item.category ?? ""}`);
  }

  async function choose(id) {
    onChoose(id);
    chart.choose(id, []);
    search.value = "";
    try {
      const told = await neighbours(version, id, { signal });
      learn([told, ...told.neighbours]);
      chart.choose(id, told.neighbours.map((near) => near.item_id));
      fill(beside, drawNeighbours(told, choose));
      announce(`Most like ${itemName(named(id))}: ${told.neighbours.slice(0, 3).map((near) => itemName(near)).join(", ")}`);
    } catch (error) {
      if (!signal.aborted) fill(beside, failure(error, () => choose(id)));
    }
  }

  async function load() {
    try {
      const told = await map(version, ITEMS, { signal });
      items = told.points.map((point) => {
        const [group, ...rest] = (point.category ?? "").split(" > ");
        return { ...point, group, area: rest.at(-1) ?? "" };
      });
      learn(items);
      fill(note, `${count(items.length)} of ${count(told.n_items)} items of ${versionName(told.model_version)}; near each other is what visitors look at together`);
      fill(names, items.slice(0, 500).map((item) => h("option", { value: itemName(item) })));
      fill(stage, chart.canvas, tip, tools);
      chart.setItems(items);
      if (first) choose(first);
    } catch (error) {
      if (!signal.aborted) fill(stage, failure(error, () => { fill(stage, loading("the map", 5)); load(); }));
    }
  }

  load();
  return { element };
}

function drawNeighbours({ item_id, neighbours: near }, choose) {
  const item = named(item_id);
  return [
    h("div.chosen", {}, h("span.thumb", {}, picture(item)), h("h3", {}, itemName(item), item.category && h("span.kind", {}, item.category))),
    h("ol.near-list", { "aria-label": `Most like ${itemName(item)}` }, near.map((other) => {
      const { noun, model, colour } = titleParts(itemName(named(other.item_id)));
      return h("li", {}, h("button.next-item", { type: "button", onclick: () => choose(other.item_id) },
        h("span.thumb", {}, picture(named(other.item_id))),
        h("span.next-name", {}, h("span.noun", {}, noun), h("span.kind", {}, [model, colour].filter(Boolean).join(", "))),
        h("span.likeness", { title: `cosine ${other.similarity.toFixed(4)}` }, other.similarity.toFixed(2))));
    })),
  ];
}
