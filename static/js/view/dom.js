/** Makes, finds and changes elements. Text is inserted as text nodes only; no script parses markup. */

/** @typedef {any} Child  a node, a text, a list of them, or null, undefined and false for nothing */
/** @typedef {Record<string, any>} Attributes  true is an empty attribute, false and null none; on: {event: listener} */

const SVG = "http://www.w3.org/2000/svg";
const sprite = () => find("[data-app]").dataset.sprite;

/**
 * The first element that matches; the templates decide its type.
 *
 * @param {string} selector
 * @param {ParentNode} root
 * @returns {any}
 */
export const find = (selector, root = document) => root.querySelector(selector);
/** @param {string} selector @param {ParentNode} root @returns {any[]} */
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/**
 * el("button", {class: "button", type: "button", on: {click}}, "Retry").
 *
 * @param {string} tag
 * @param {Attributes} attributes
 * @param {Child[]} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** @param {Element} element @param {Attributes} attributes @param {Child[]} children */
function furnish(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...nodesOf(children));
  return element;
}

/** @param {Child[]} children @returns {(Node | string)[]} */
const nodesOf = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** @param {Element} element @param {string} name @param {any} value */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) return element.removeAttribute(name);
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** @param {string} tag @param {Attributes} attributes @param {Child[]} children */
const svg = (tag, attributes, ...children) => furnish(document.createElementNS(SVG, tag), attributes, children);

/** @param {string} name */
export const icon = (name, kind = "icon") =>
  svg("svg", { class: kind, "aria-hidden": "true" }, svg("use", { href: `${sprite()}#${name}` }));

/** @param {Element} element @param {string} name */
export function setIcon(element, name) {
  setAttribute(find("use", element), "href", `${sprite()}#${name}`);
}

export const ring = (percent = 100) =>
  svg(
    "svg",
    { class: "ring", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("circle", { class: "track", cx: 8, cy: 8, r: 6 }),
    svg("circle", { cx: 8, cy: 8, r: 6, pathLength: 100, "stroke-dasharray": `${percent} 100` }),
  );

/** @param {any} element @param {number} percent */
export const setRing = (element, percent) => setAttribute(element.lastElementChild, "stroke-dasharray", `${percent} 100`);

/** kinds: read, delivered, waiting or missed for each recipient. @param {string[]} kinds @param {string} [size] */
export const reach = (kinds, size) =>
  el(
    "span",
    { class: "reach", "data-size": size, "aria-hidden": "true" },
    kinds.map((kind) => el("i", { "data-reach": kind })),
  );

/** @param {number} got @param {number} all */
export const reachBar = (got, all) =>
  svg(
    "svg",
    { class: "reach-bar", viewBox: `0 0 ${all} 8`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "all", width: all, height: 8 }),
    svg("rect", { class: "got", width: got, height: 8 }),
  );

/** @param {string} text */
export const hidden = (text) => el("span", { class: "visually-hidden" }, text);

/** @param {string} text @param {(event: any) => void} listener @param {Attributes} attributes */
export const button = (text, listener, { kind, ...attributes } = {}) =>
  el("button", { class: "button", type: "button", "data-kind": kind, ...attributes, on: { click: listener } }, text);

/** @param {string} name @param {string} label @param {(event: any) => void} listener @param {Attributes} attributes */
export const iconButton = (name, label, listener, attributes = {}) =>
  el(
    "button",
    { class: "icon-button", type: "button", "aria-label": label, title: label, ...attributes, on: { click: listener } },
    icon(name),
  );

const HAN = /\p{Script=Han}/u;

/** The character that stands for a name: the last one of a Chinese name, the first one of others. @param {string} name */
export function initial(name) {
  const letters = [...name.trim()];
  if (!letters.length) return "?";
  const last = letters[letters.length - 1];
  return HAN.test(last) ? last : letters[0].toLocaleUpperCase();
}

/**
 * presence: "online", "offline" or null when it is not known.
 *
 * @param {{id: number, name: string}} person
 * @param {{size?: string, presence?: string | null}} options
 */
export function avatar({ id, name }, { size, presence = null } = {}) {
  return el(
    "span",
    { class: "avatar", "data-tint": id % 6, "data-size": size, "aria-hidden": "true" },
    el("span", {}, initial(name)),
    presence && el("span", { class: "presence", "data-presence": presence }),
  );
}

/** @param {Element} element @param {string | null} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace the children. @param {Element} element @param {Child[]} children */
export function fillWith(element, ...children) {
  element.replaceChildren(...nodesOf(children));
}

/** Let screen readers read a text aloud. @param {string} text */
export const announce = (text) => setText(find("[data-announce]"), text);
