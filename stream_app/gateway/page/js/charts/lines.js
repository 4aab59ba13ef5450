// Lines over time as SVG: named where they end, with a cross-hair for pointer and arrow keys.

import { announce, fill, h, svg } from "../dom.js";
import { clock, shortClock } from "../format.js";
import { apart, linear, minutes, ticks } from "./scale.js";

const LEFT = 44;
const TOP = 14;
const BOTTOM = 26;
const LABEL_HEIGHT = 17;

/**
 * A chart that is drawn anew by `update`.  series: [{ key, name, tone, points: [[ms, value], ...] }] with
 * tone a colour token's name; marks: [{ at_ms, name }]; reference: { value, name } or null.
 * label: what it shows, in words.  format: value -> text.  height: CSS pixels.
 */
export function lineChart({ label, format, height = 240, right = 120, top = 0 }) {
  const plot = svg("svg.plot", { role: "img", tabindex: 0, height });
  const tip = h("div.tip", { hidden: true });
  const element = h("div.chart", {}, plot, tip);
  let data = null;
  let at = null; // where the cross-hair stands, ms

  function update(newer) {
    data = newer;
    draw();
  }

  function draw() {
    const width = plot.clientWidth || element.clientWidth;
    if (!data || !width) return;
    const frame = framed(data, width, height, width < 480 ? Math.min(right, 84) : right, top);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("aria-label", `${label}. ${summary(data, format)} Arrow keys read earlier values.`);
    fill(plot, grid(frame, format), data.marks.map((mark) => swapMark(mark, frame)), reference(data, frame, format),
      data.series.map((series) => line(series, frame)), names(data, frame, format), crosshair());
  }

  function crosshair() {
    tip.hidden = at === null;
    if (at === null) return null;
    const width = plot.clientWidth;
    const frame = framed(data, width, height, width < 480 ? Math.min(right, 84) : right, top);
    const values = data.series.map((series) => ({ series, value: nearest(series.points, at) })).filter(({ value }) => value);
    const x = frame.x(Math.min(Math.max(at, frame.from), frame.to));
    fill(tip, h("strong", {}, clock(at)), values.map(({ series, value }) =>
      h("span", { style: { color: `var(--${series.tone})` } }, `${series.name} `, h("b", {}, format(value[1])))));
    tip.style.setProperty("translate", x > width / 2 ? `calc(${x - 12}px - 100%) 8px` : `${x + 12}px 8px`);
    return svg("g", {}, svg("line.cross", { x1: x, x2: x, y1: TOP, y2: height - BOTTOM }),
      values.map(({ series, value }) => svg("circle", { cx: frame.x(value[0]), cy: frame.y(value[1]), r: 4, style: { fill: `var(--${series.tone})` } })));
  }

  function move(ms, spoken) {
    at = ms;
    draw();
    if (spoken) announce(`${clock(at)}: ${tip.textContent.replace(clock(at), "")}`);
  }

  plot.addEventListener("pointermove", (event) => {
    if (!data?.span) return;
    const frame = framed(data, plot.clientWidth, height, plot.clientWidth < 480 ? Math.min(right, 84) : right, top);
    move(frame.at(event.clientX - plot.getBoundingClientRect().left));
  });
  plot.addEventListener("pointerleave", () => move(null));
  plot.addEventListener("blur", () => move(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -5000, ArrowRight: 5000 }[event.key];
    if (event.key === "Escape") move(null);
    if (!step || !data) return;
    event.preventDefault();
    const [from, to] = data.span;
    move(Math.min(Math.max((at ?? to) + step, from), to), true);
  });
  new ResizeObserver(draw).observe(element);
  return { element, update };
}

function framed({ series, span, reference: mark }, width, height, right, least) {
  const [from, to] = span;
  const values = series.flatMap(({ points }) => points.map(([, value]) => value));
  const steps = ticks(Math.max(...values, (mark?.value ?? 0) * 1.02, least));
  const x = linear(from, to, LEFT, width - right);
  return {
    from, to, width, height, right, steps, x,
    y: linear(0, steps.at(-1), height - BOTTOM, TOP),
    at: (place) => Math.round(linear(LEFT, width - right, from, to)(place)),
  };
}

function grid({ steps, x, y, from, to, width, height, right }, format) {
  return svg("g", {},
    steps.map((value) => [
      svg("line.rule", { x1: LEFT, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text.tick", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, format(value, true)),
    ]),
    minutes(from, to, Math.max(2, Math.floor((width - right - LEFT) / 90))).map((ms) =>
      svg("text.tick", { x: x(ms), y: height - 6, "text-anchor": "middle" }, shortClock(ms))));
}

function swapMark({ at_ms, name }, { x, height }) {
  return svg("g.swap", {}, svg("line", { x1: x(at_ms), x2: x(at_ms), y1: TOP, y2: height - BOTTOM }),
    svg("path", { d: `M${x(at_ms) - 4} ${TOP - 8}h8l-4 7z` }), svg("title", {}, `${name} went live at ${clock(at_ms)}`));
}

function reference({ reference: mark }, { x, y, from, to }) {
  if (!mark) return null;
  return svg("line.reference", { x1: x(from), x2: x(to), y1: y(mark.value), y2: y(mark.value) });
}

function line({ points, tone }, { x, y, from }) {
  const seen = points.filter(([ms]) => ms >= from);
  if (!seen.length) return null;
  const path = seen.map(([ms, value], index) => `${index ? "L" : "M"}${x(ms).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return svg("path.line", { d: path, style: { stroke: `var(--${tone})` } });
}

/** The name of each line at the height where it ends; lines that ended long ago are named by the tip only. */
function names({ series, reference: mark, span }, { y, width, right, height }, format) {
  const ends = series.filter(({ points }) => points.length && span[1] - points.at(-1)[0] < 15_000)
    .map(({ name, tone, points }) => ({ name, tone, value: points.at(-1)[1] }));
  if (mark) ends.push({ name: mark.name, tone: "ink-faint", value: mark.value });
  const places = apart(ends.map(({ value }) => y(value)), LABEL_HEIGHT * 2, TOP, height - BOTTOM - LABEL_HEIGHT);
  return ends.map(({ name, tone, value }, index) => svg("text.name", { x: width - right + 10, y: places[index] + 4, style: { fill: `var(--${tone})` } },
    svg("tspan.value", {}, format(value)), svg("tspan", { x: width - right + 10, dy: 15 }, name)));
}

function nearest(points, ms) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point[0] - ms) < Math.abs(best[0] - ms)) best = point;
  return best && Math.abs(best[0] - ms) < 5000 ? best : null;
}

function summary({ series, reference: mark }, format) {
  const parts = series.filter(({ points }) => points.length).map(({ name, points }) => `${name} ${format(points.at(-1)[1])}`);
  if (mark) parts.push(`${mark.name} ${format(mark.value)}`);
  return parts.length ? `Now: ${parts.join(", ")}.` : "No values yet.";
}
