// Building elements.  Text is always text: nothing here parses HTML, so names of items cannot.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element: h("button.button.is-main", { type: "button", onclick: go }, "Go").
 * Attributes that are false, null or undefined are left out; true gives an empty one.  `style` takes
 * an object of properties, set one by one (the page's policy allows no style attribute).
 */
export function h(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return filled(element, attributes, children);
}

/** The same for SVG. */
export function svg(selector, attributes = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElementNS(SVG, tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  return filled(element, attributes, children);
}

/** Replace what is in an element; null and false are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
    else element.setAttribute(name, value === true ? "" : value);
  }
  if (children.length) fill(element, ...children);
  return element;
}

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

let live;

/** Tell a screen reader what has changed, without moving the focus. */
export function announce(text) {
  live ??= document.body.appendChild(h("div.visually-hidden", { role: "status", "aria-live": "polite" }));
  live.textContent = text;
}
