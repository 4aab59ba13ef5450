// Numbers, times and names as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const hours = { hourCycle: "h23", hour: "2-digit", minute: "2-digit" };
const time = new Intl.DateTimeFormat(undefined, { ...hours, second: "2-digit" });
const shortTime = new Intl.DateTimeFormat(undefined, hours);
const moment = new Intl.DateTimeFormat(undefined, { ...hours, day: "numeric", month: "short" });

export const count = (value) => whole.format(value);
export const clock = (ms) => time.format(ms);
export const shortClock = (ms) => shortTime.format(ms);
export const dated = (ms) => moment.format(ms);

/** 0.3214 -> "32.1 %"; null -> "–". */
export const percent = (share, digits = 1) => (share == null ? "–" : `${(share * 100).toFixed(digits)} %`);

/** Milliseconds: 4 -> "4 ms", 1830 -> "1.8 s". */
export function milliseconds(value) {
  if (value == null) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 && value % 1 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** 3.2 -> "3.2 s", 200 -> "3 min 20 s". */
export function seconds(value) {
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** What is called `none` on the wire has a name: the stream statistics (what is clicked next, else popularity). */
export const isPopularity = (version) => version == null || version === "none";

/** When a version was made, ms; null where its name does not say. */
export function versionTime(version) {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-/.exec(version ?? "");
  if (!parts) return null;
  const [, year, month, ...rest] = parts.map(Number);
  return Date.UTC(year, month - 1, ...rest);
}

/** "20261124T124121Z-ba08" -> "ba08 · 13:41" in local time: short, and still told apart. */
export function versionName(version) {
  if (isPopularity(version)) return "statistics";
  const ms = versionTime(version);
  return ms === null ? version : `${version.split("-").pop()} · ${shortClock(ms)}`;
}

/** "Tent 'Kelp' navy" -> its noun, model and colour; other titles are all noun. */
export function titleParts(title) {
  const parts = /^(.+) '(.+)' (\S+)$/.exec(title ?? "");
  return parts ? { noun: parts[1], model: parts[2], colour: parts[3] } : { noun: title ?? "", model: "", colour: "" };
}

export const itemName = (item) => item.title || item.item_id;
