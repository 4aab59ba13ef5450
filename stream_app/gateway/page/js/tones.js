// Which colour a model version has: the same on every page, the live one always the signal colour.

import { isPopularity } from "./format.js";

const TONES = 5;
const order = []; // versions in order of appearance

export function tone(version, live) {
  if (isPopularity(version)) return "crowd";
  if (version === live) return "signal";
  if (!order.includes(version)) order.push(version);
  return `version-${(order.indexOf(version) % TONES) + 1}`;
}
