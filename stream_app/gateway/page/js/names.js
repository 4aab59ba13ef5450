// What items are called: learned from every answer that names one, asked for where none did.

import { itemsNamed } from "./api.js";

const known = new Map(); // id -> { item_id, title, category }
const asked = new Set();

export function learn(items) {
  for (const { item_id, title, category } of items) {
    const before = known.get(item_id);
    if (title || !before) known.set(item_id, { item_id, title: title ?? before?.title ?? null, category: category ?? before?.category ?? null });
  }
}

/** Never null: an item without a name is shown by its id. */
export const named = (id) => known.get(id) ?? { item_id: id, title: null, category: null };

/** Ask for the names of these that are not known yet; true if any became known. */
export async function learnMissing(ids, options) {
  const missing = ids.filter((id) => !known.get(id)?.title && !asked.has(id));
  if (!missing.length) return false;
  missing.forEach((id) => asked.add(id));
  const found = (await itemsNamed(missing, options)).filter((item) => item.title);
  learn(found);
  return found.length > 0;
}
