/** Making elements. Text goes in as text nodes only; nothing here or elsewhere parses markup. */

const SVG = "http://www.w3.org/2000/svg";
const sprite = () => document.querySelector("[data-app]").dataset.sprite;

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** el("button", {class: "button", type: "button", on: {click}}, "Retry"): true is an empty attribute, false and null none. */
export function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

function furnish(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== (value === true ? "" : String(value))) element.setAttribute(name, value === true ? "" : value);
}

const svg = (tag, attributes, ...children) => furnish(document.createElementNS(SVG, tag), attributes, children);

export const icon = (name, kind = "icon") => svg("svg", { class: kind, "aria-hidden": "true" }, svg("use", { href: `${sprite()}#${name}` }));

export function setIcon(element, name) {
  setAttribute(find("use", element), "href", `${sprite()}#${name}`);
}

export const ring = (percent = 100) =>
  svg("svg", { class: "ring", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("circle", { class: "track", cx: 8, cy: 8, r: 6 }),
    svg("circle", { cx: 8, cy: 8, r: 6, pathLength: 100, "stroke-dasharray": `${percent} 100` }));

export const setRing = (element, percent) => setAttribute(element.lastElementChild, "stroke-dasharray", `${percent} 100`);

/** kinds: one of read, delivered, waiting, missed for each recipient. */
export const reach = (kinds, size) => el("span", { class: "reach", "data-size": size, "aria-hidden": "true" }, kinds.map((kind) => el("i", { "data-reach": kind })));

export const reachBar = (got, all) =>
  svg("svg", { class: "reach-bar", viewBox: `0 0 ${all} 8`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "all", width: all, height: 8 }),
    svg("rect", { class: "got", width: got, height: 8 }));

export const hidden = (text) => el("span", { class: "visually-hidden" }, text);

export const button = (text, listener, { kind, ...attributes } = {}) => el("button", { class: "button", type: "button", "data-kind": kind, ...attributes, on: { click: listener } }, text);

export const iconButton = (name, label, listener, attributes = {}) => el("button", { class: "icon-button", type: "button", "aria-label": label, title: label, ...attributes, on: { click: listener } }, icon(name));

/** The initial of a name: Chinese names are known by their last character, others by their first. */
const HAN = /\p{Script=Han}/u;
export function initial(name) {
  const letters = [...name.trim()];
  if (!letters.length) return "?";
  return HAN.test(letters.at(-1)) ? letters.at(-1) : letters[0].toLocaleUpperCase();
}

/** presence: "online", "offline" or null for nothing to say. */
export function avatar({ id, name }, { size, presence = null } = {}) {
  return el("span", { class: "avatar", "data-tint": id % 6, "data-size": size, "aria-hidden": "true" }, el("span", {}, initial(name)), presence && el("span", { class: "presence", "data-presence": presence }));
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace the children; the same nodes stay where they are, so that focus does. */
export function fillWith(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

export const live = (text) => setText(find("[data-announce]"), text);
