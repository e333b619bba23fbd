/**
 * Keeps the staff's front page, and the page of a bulk action, up to date. Every 5 s the changing part is loaded and merged into
 * the page, so that focus, an open table and a selection stay. It stops while it is paused or the page is hidden, and when the
 * action has ended.
 */

const EVERY_MS = 5000;
const TIMEOUT_MS = 15_000;

export class Refresh {
  #timer = 0;
  /** @type {AbortController | null} */
  #request = null;
  #isOver = false;
  #isPaused = false;

  /**
   * page, fetch: replaced in tests.
   *
   * @param {any} section  of the template: [data-overview] is the changing part, [data-pace] the status, [data-pause] the button
   * @param {{page?: Document, fetch?: typeof globalThis.fetch, everyMs?: number}} options
   */
  constructor(section, { page = document, fetch = globalThis.fetch.bind(globalThis), everyMs = EVERY_MS } = {}) {
    this.page = page;
    this.fetch = fetch;
    this.everyMs = everyMs;
    this.content = section.querySelector("[data-overview]");
    this.status = section.querySelector("[data-pace]");
    this.button = section.querySelector("[data-pause]");
  }

  start() {
    this.status.hidden = false;
    if (this.#hasEnded()) return this.#end();
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.#pause(!this.#isPaused));
    this.page.addEventListener("visibilitychange", () => this.#resume());
    this.#showStatus("live");
    this.#wait();
  }

  /** @param {boolean} isPaused */
  #pause(isPaused) {
    this.#isPaused = isPaused;
    this.button.setAttribute("aria-pressed", String(isPaused));
    this.#showStatus(isPaused ? "paused" : "live");
    this.#resume();
  }

  /** Load at once if it may run: the content is as old as the pause. */
  #resume() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    if (this.#mayRun()) this.#load();
  }

  #mayRun() {
    return !this.#isPaused && !this.#isOver && !this.page.hidden;
  }

  #wait() {
    clearTimeout(this.#timer);
    if (this.#mayRun()) this.#timer = setTimeout(() => this.#load(), this.everyMs);
  }

  async #load() {
    const request = new AbortController();
    this.#request = request;
    const timeout = setTimeout(() => request.abort(), TIMEOUT_MS);
    try {
      const response = await this.fetch(this.content.dataset.overview, { signal: request.signal, redirect: "error" });
      const text = response.ok ? await response.text() : "";
      if (this.#request !== request || !this.#mayRun()) return;
      this.#show(response, text);
    } catch {
      if (this.#request === request && this.#mayRun()) this.#showStatus("silent");
    } finally {
      clearTimeout(timeout);
    }
    if (this.#request === request) this.#wait();
  }

  /** @param {Response} response @param {string} text */
  #show(response, text) {
    this.#isOver = response.status === 403;
    this.#showStatus(this.#isOver ? "over" : response.ok ? "live" : "silent");
    if (response.ok)
      merge(this.content, /** @type {Node} */ (new DOMParser().parseFromString(`<div>${text}</div>`, "text/html").body.firstChild));
    if (this.#hasEnded()) this.#end();
  }

  #hasEnded() {
    return this.content.querySelector("[data-ended]") !== null;
  }

  #end() {
    this.#isOver = this.button.hidden = true;
    this.#showStatus("ended");
  }

  /** Screen readers read a status out when it is written, so write it only when it changes. @param {string} name */
  #showStatus(name) {
    const text = this.status.dataset[name];
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}

/**
 * Make the children of `old` equal to those of `fresh`, and touch only those that differ.
 *
 * @param {Node} old
 * @param {Node} fresh
 */
export function merge(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, index) => {
    const current = before[index];
    if (!current) old.appendChild(node);
    else if (current.nodeName !== node.nodeName) current.replaceWith(node);
    else if (node instanceof Element) {
      mergeAttributes(/** @type {Element} */ (current), node);
      merge(current, node);
    } else if (current.nodeValue !== node.nodeValue) current.nodeValue = node.nodeValue;
  });
  before.slice(after.length).forEach((node) => node.remove());
}

/** Keeps `open`, so that a table which the reader opened stays open. @param {Element} old @param {Element} fresh */
function mergeAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

const section = globalThis.document?.querySelector("[data-overview]")?.closest("section");
if (section) new Refresh(section).start();
