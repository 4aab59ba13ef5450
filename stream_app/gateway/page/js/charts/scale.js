// Numbers to places on paper, and the round numbers that stand beside an axis.

export const linear = (from, to, low, high) => {
  const step = to === from ? 0 : (high - low) / (to - from);
  return (value) => low + (value - from) * step;
};

/** Up to `most` round numbers from 0 to at least `top`: 0.664 -> 0, 0.2, 0.4, 0.6, 0.8. */
export function ticks(top, most = 4) {
  if (!(top > 0)) return [0, 1];
  const raw = top / most;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * unit >= raw) * unit;
  const count = Math.ceil(top / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/** Whole minutes (or a round number of them) inside a span of time, at most `most`. */
export function minutes(from, to, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60].map((count) => count * 60_000);
  const step = steps.find((ms) => (to - from) / ms <= most) ?? steps.at(-1);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

/** Places for labels of a given height, moved apart as little as needed; in the order of `places`. */
export function apart(places, height, low, high) {
  const order = places.map((place, index) => ({ place, index })).sort((a, b) => a.place - b.place);
  order.forEach((label, at) => { label.place = Math.max(label.place, at ? order[at - 1].place + height : low); });
  for (let at = order.length - 1; at >= 0; at -= 1) {
    const most = at === order.length - 1 ? high : order[at + 1].place - height;
    order[at].place = Math.min(order[at].place, most);
  }
  const result = [];
  order.forEach(({ place, index }) => { result[index] = place; });
  return result;
}
