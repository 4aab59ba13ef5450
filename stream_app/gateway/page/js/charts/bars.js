// Horizontal bars with names and values, and a line over a few steps: for what does not move.

import { h, svg } from "../dom.js";
import { linear, ticks } from "./scale.js";

/** rows: [{ name, value, tone, isMain }]; the longest bar is `top`. */
export function bars(rows, { format, top = Math.max(...rows.map((row) => row.value), 1e-9) }) {
  return h("div.bars", {}, rows.map(({ name, value, tone, isMain }) => [
    h(`span.bar-name${isMain ? ".is-main" : ""}`, {}, name),
    h("span.track", { "aria-hidden": "true" }, h("span", { style: { "--share": Math.min(value / top, 1), "--tone": `var(--${tone})` } })),
    h(`span.bar-value${isMain ? ".is-main" : ""}`, {}, format(value)),
  ]));
}

/** A value per step (1, 2, ...), e.g. the loss by epoch.  The axis does not begin at 0: shape is what counts. */
export function stepLine(values, { label, format, height = 150 }) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const step = ticks(high - low || 1, 3)[1];
  const from = Math.floor(low / step) * step;
  const to = Math.ceil(high / step) * step || from + step;
  const x = linear(1, Math.max(values.length, 2), 48, 348);
  const y = linear(from, to === from ? from + step : to, height - 26, 12);
  const marks = [];
  for (let value = from; value <= to + 1e-9; value += step) marks.push(value);
  return svg("svg.plot.is-small", { viewBox: `0 0 360 ${height}`, role: "img", "aria-label": `${label}: ${values.map(format).join(", ")}` },
    marks.map((value) => [
      svg("line.rule", { x1: 40, x2: 356, y1: y(value), y2: y(value) }),
      svg("text.tick", { x: 34, y: y(value) + 4, "text-anchor": "end" }, format(value)),
    ]),
    svg("path.line", { d: values.map((value, index) => `${index ? "L" : "M"}${x(index + 1)} ${y(value)}`).join(""), style: { stroke: "var(--signal)" } }),
    values.map((value, index) => [
      svg("circle", { cx: x(index + 1), cy: y(value), r: 3.5, style: { fill: "var(--signal)" } }),
      values.length <= 12 && svg("text.tick", { x: x(index + 1), y: height - 6, "text-anchor": "middle" }, index + 1),
    ]));
}
