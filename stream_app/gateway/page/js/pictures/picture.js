// A picture for every item, made from its title and id: always the same one, and never fetched.

import { svg } from "../dom.js";
import { titleParts } from "../format.js";
import { GLYPHS } from "./glyphs.js";

const COLOURS = {
  black: "#33353c", graphite: "#5c626d", navy: "#2c3f6d", slate: "#65788c",
  red: "#c63d33", orange: "#e2762c", yellow: "#e8b82f", lime: "#93ad35",
  cream: "#eadfc4", sand: "#cdb389", rose: "#d68f9d", sage: "#94ab8b",
};
const ACCENTS = ["#f2c14e", "#e4572e", "#2e86ab", "#76b041", "#f78154", "#8d6cab", "#f5efe0", "#17bebb"];
const FIXED = { k: "#26282e", leaf: "#5b9350", steel: "#c3cad1", glow: "#ffdf8acc" };

/** A seeded stream of numbers in [0, 1): FNV-1a over the text, then xorshift. */
export function chance(text) {
  let state = 2166136261;
  for (let i = 0; i < text.length; i += 1) state = Math.imul(state ^ text.charCodeAt(i), 16777619);
  state ||= 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** item: { item_id, title }.  Decoration: whoever shows it names the item in words. */
export function picture(item) {
  const { noun, colour } = titleParts(item.title);
  const random = chance(item.item_id);
  const glyph = GLYPHS[noun];
  // Departments are told apart by hue: a category's items share one, give or take.
  const hue = Math.round(chance(noun || item.item_id)() * 360 + (random() - 0.5) * 24);
  const base = COLOURS[colour] ?? `oklch(0.68 0.12 ${Math.round(random() * 360)})`;
  const accent = ACCENTS[Math.floor(random() * ACCENTS.length)];
  const scene = svg("g", { class: "scene", style: { "--hue": hue } }, svg("rect.far", { width: 64, height: 64 }), backdrop(random));
  const drawn = glyph ? svg("g", { transform: "translate(5.5 5) scale(0.83)" }, glyph.map((drawn) => part(drawn, base, accent)))
    : abstract(random, base, accent);
  return svg("svg.picture", { viewBox: "0 0 64 64", "aria-hidden": "true", focusable: "false" }, scene, drawn);
}

function part([how, path], base, accent) {
  const shade = `color-mix(in oklab, ${base}, #14161c 38%)`;
  const tint = `color-mix(in oklab, ${base}, #fffaf0 62%)`;
  const colours = { ...FIXED, b: base, d: shade, l: tint, a: accent, s: shade, t: tint };
  const colour = colours[how] ?? colours[how.toLowerCase()];
  if (how in colours && how !== "s" && how !== "t") return svg("path", { d: path, style: { fill: colour } });
  const width = { s: 1.6, t: 1.6, B: 4 }[how] ?? 3;
  return svg("path", {
    d: path, style: { stroke: colour, fill: "none" }, "stroke-width": width, "stroke-linecap": "round", "stroke-linejoin": "round",
  });
}

/** Something behind the item: a sun, an arch, hills or a slope. */
function backdrop(random) {
  const x = 16 + random() * 32;
  const near = [
    () => svg("circle.near", { cx: x, cy: 22 + random() * 12, r: 18 + random() * 8 }),
    () => svg("path.near", { d: `M${x - 20} 64V30a20 20 0 0 1 40 0V64z` }),
    () => svg("path.near", { d: `M0 ${44 + random() * 8}C16 ${34 + random() * 8} 24 58 40 48S58 36 64 ${42 + random() * 8}V64H0z` }),
    () => svg("path.near", { d: `M0 ${30 + random() * 20}L64 ${20 + random() * 36}V64H0z` }),
  ];
  return near[Math.floor(random() * near.length)]();
}

/** An item nobody has named: three shapes, so that it can be known again. */
function abstract(random, base, accent) {
  const spot = () => 14 + random() * 36;
  const shapes = [
    (fill) => svg("circle", { cx: spot(), cy: spot(), r: 7 + random() * 12, style: { fill } }),
    (fill) => svg("rect", {
      x: 14, y: 18, width: 14 + random() * 20, height: 8 + random() * 24, rx: random() * 8,
      transform: `rotate(${Math.round(random() * 90)} 32 32)`, style: { fill },
    }),
    (fill) => svg("path", { d: `M${spot()} ${spot()}L${spot()} ${spot()}L${spot()} ${spot()}z`, style: { fill } }),
  ];
  const fills = [base, accent, `color-mix(in oklab, ${base}, #14161c 45%)`];
  return svg("g", {}, fills.map((fill) => shapes[Math.floor(random() * shapes.length)](fill)));
}
