// The catalogue as a map on a canvas: a dot an item, near what it is like.  Pointer: hover and click,
// drag to move; keys: arrows go from dot to dot, + and - zoom, 0 shows all.

import { h } from "../dom.js";
import { linear } from "./scale.js";

const PADDING = 28;
const REACH = 14; // px around the pointer in which a dot is found
const ZOOM_MAX = 12;

/** onHover(item | null, place), onChoose(item).  Items: [{ item_id, x, y, popularity, group, area }], any range of x, y. */
export function catalogueMap({ onHover, onChoose, signal }) {
  const canvas = h("canvas.map", {
    tabindex: 0, role: "application", "aria-roledescription": "map",
    "aria-label": "Map of the catalogue. Arrow keys go from item to item, Enter shows the neighbours, plus and minus zoom.",
  });
  const context = canvas.getContext("2d");
  const view = { zoom: 1, x: 0.5, y: 0.5 };
  const look = { items: [], groups: [], chosen: null, hovered: null, near: [] };
  let drag = null;

  function setItems(items) {
    const span = (key) => [Math.min(...items.map((item) => item[key])), Math.max(...items.map((item) => item[key]))];
    const [left, right] = span("x");
    const [low, high] = span("y");
    const most = Math.max(...items.map((item) => item.popularity), 1e-12);
    const u = linear(left, right, 0, 1);
    const v = linear(low, high, 0, 1);
    look.groups = [...new Set(items.map((item) => item.group))].filter(Boolean).sort();
    look.items = items.map((item) => ({ ...item, u: u(item.x), v: v(item.y), size: 2 + 4 * Math.sqrt(item.popularity / most) }));
    draw();
  }

  const box = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });

  function place({ u, v }) {
    const { width, height } = box();
    return {
      x: width / 2 + (u - view.x) * (width - 2 * PADDING) * view.zoom,
      y: height / 2 + (v - view.y) * (height - 2 * PADDING) * view.zoom,
    };
  }

  function draw() {
    const { width, height } = box();
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    // A canvas knows no tokens: the style sheet gives it colours as its own, and they are read back.
    const { color: ink, backgroundColor: surface, fontFamily } = getComputedStyle(canvas);
    drawDots(parseInt(ink.match(/\d+/)[0], 10) > 128);
    drawNear(ink);
    drawAreas(ink, surface, fontFamily);
    for (const item of [look.hovered, look.chosen]) if (item) ring(item, ink);
  }

  function tint(group, dark) {
    const hue = (look.groups.indexOf(group) / Math.max(look.groups.length, 1)) * 360 + 20;
    return group ? `oklch(${dark ? 0.75 : 0.6} 0.13 ${hue})` : dark ? "#9aa3b2" : "#6d6a60";
  }

  function drawDots(dark) {
    const dim = look.near.length > 0;
    for (const item of look.items) {
      const { x, y } = place(item);
      context.globalAlpha = dim && !look.near.includes(item) && item !== look.chosen ? 0.45 : 0.85;
      context.fillStyle = tint(item.group, dark);
      context.beginPath();
      context.arc(x, y, item.size * Math.sqrt(view.zoom), 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  function drawNear(ink) {
    if (!look.chosen) return;
    const from = place(look.chosen);
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.globalAlpha = 0.5;
    context.beginPath();
    for (const item of look.near) {
      const to = place(item);
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** Names of areas above their dots; one that would lie over another is left out. */
  function drawAreas(ink, surface, family) {
    const areas = new Map();
    for (const item of look.items) {
      if (!item.area) continue;
      if (!areas.has(item.area)) areas.set(item.area, []);
      areas.get(item.area).push(item);
    }
    const { width, height } = box();
    const taken = [];
    context.font = `600 12px ${family}`;
    context.textAlign = "center";
    context.lineJoin = "round";
    for (const [name, items] of [...areas].sort((a, b) => b[1].length - a[1].length)) {
      const part = (key, share) => items.map((item) => item[key]).sort((a, b) => a - b)[Math.floor(items.length * share)];
      const { x, y: top } = place({ u: part("u", 0.5), v: part("v", 0.1) });
      const y = top - 10; // above the dots, so that they can be seen
      const half = context.measureText(name).width / 2 + 4;
      if (x - half < 0 || x + half > width || y < 12 || y > height - 4) continue;
      if (taken.some((other) => Math.abs(other.x - x) < other.half + half && Math.abs(other.y - y) < 15)) continue;
      taken.push({ x, y, half });
      context.lineWidth = 4;
      context.strokeStyle = surface;
      context.strokeText(name, x, y + 4);
      context.fillStyle = ink;
      context.fillText(name, x, y + 4);
    }
  }

  function ring(item, colour) {
    const { x, y } = place(item);
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, item.size * Math.sqrt(view.zoom) + 3, 0, 7);
    context.stroke();
  }

  function found(x, y) {
    let best = null;
    let least = REACH ** 2;
    for (const item of look.items) {
      const at = place(item);
      const square = (at.x - x) ** 2 + (at.y - y) ** 2;
      if (square < least) [best, least] = [item, square];
    }
    return best;
  }

  function hover(item) {
    look.hovered = item;
    canvas.style.setProperty("cursor", item ? "pointer" : "grab");
    onHover(item, item && place(item));
    draw();
  }

  function zoom(factor) {
    view.zoom = Math.min(Math.max(view.zoom * factor, 1), ZOOM_MAX);
    if (view.zoom === 1) view.x = view.y = 0.5;
    else if (look.chosen && factor > 1) [view.x, view.y] = [look.chosen.u, look.chosen.v];
    hover(null);
  }

  /** The nearest dot in a direction, from the hovered or chosen one (or the middle). */
  function step(dx, dy) {
    const from = place(look.hovered ?? look.chosen ?? { u: view.x, v: view.y });
    let best = null;
    let least = Infinity;
    for (const item of look.items) {
      const at = place(item);
      const along = (at.x - from.x) * dx + (at.y - from.y) * dy;
      const beside = Math.abs((at.x - from.x) * dy) + Math.abs((at.y - from.y) * dx);
      const cost = along + 2 * beside;
      if (along > 0.5 && beside <= along * 1.5 && cost < least) [best, least] = [item, cost];
    }
    if (best) hover(best);
  }

  const point = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    drag = { at: point(event), x: view.x, y: view.y, moved: false };
    if (view.zoom > 1) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = point(event);
    if (drag && view.zoom > 1) {
      const { width, height } = box();
      drag.moved ||= Math.hypot(x - drag.at[0], y - drag.at[1]) > 4;
      view.x = drag.x - (x - drag.at[0]) / ((width - 2 * PADDING) * view.zoom);
      view.y = drag.y - (y - drag.at[1]) / ((height - 2 * PADDING) * view.zoom);
      if (drag.moved) return hover(null);
    }
    hover(found(x, y));
  });
  canvas.addEventListener("pointerup", (event) => {
    const item = drag?.moved ? null : found(...point(event));
    drag = null;
    if (item) onChoose(item);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("blur", () => hover(null));
  canvas.addEventListener("keydown", (event) => {
    const go = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (go) step(...go);
    else if (event.key === "Enter" && look.hovered) onChoose(look.hovered);
    else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });
  const resized = new ResizeObserver(draw);
  resized.observe(canvas);
  signal.addEventListener("abort", () => resized.disconnect(), { once: true });
  addEventListener("themechange", draw, { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });

  return {
    canvas, setItems, zoom,
    /** Mark an item and its neighbours, by id; ids that are not on the map are passed over. */
    choose(id, nearIds) {
      const byId = new Map(look.items.map((item) => [item.item_id, item]));
      look.chosen = byId.get(id) ?? null;
      look.near = nearIds.map((near) => byId.get(near)).filter(Boolean);
      draw();
    },
  };
}
