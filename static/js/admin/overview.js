/**
 * Keeps the staff's front page and the page of a bulk action up to date. Every 5 s the part that changes is loaded and merged into
 * the page: focus, an open table and a selection stay. Nothing is loaded while the page is paused or hidden, after the bulk action
 * has ended, or when the user may no longer see the page.
 */

const EVERY_MS = 5000;
const TIMEOUT_MS = 15_000;

export class Refresh {
  #timer = 0;
  /** @type {AbortController | null} */
  #request = null;
  #isOver = false; // nothing is loaded again
  #isPaused = false;

  /**
   * page, fetch: replaced in tests.
   *
   * @param {any} section  with the part that changes [data-overview], the status [data-pace] and the button [data-pause]
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
    if (this.#hasEnded()) return this.#end("ended");
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

  /** Load at once unless paused or hidden: the content is as old as the pause. */
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
      const response = await this.fetch(this.content.dataset.overview, { signal: request.signal, redirect: "manual" });
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

  /**
   * A user who is logged out is redirected to the login; a user without the permission gets 403.
   *
   * @param {Response} response
   * @param {string} text
   */
  #show(response, text) {
    if (response.status === 403 || response.type === "opaqueredirect") return this.#end("over");
    this.#showStatus(response.ok ? "live" : "silent");
    if (response.ok)
      merge(this.content, /** @type {Node} */ (new DOMParser().parseFromString(`<div>${text}</div>`, "text/html").body.firstChild));
    if (this.#hasEnded()) this.#end("ended");
  }

  #hasEnded() {
    return this.content.querySelector("[data-ended]") !== null;
  }

  /** @param {"ended" | "over"} name  of the status */
  #end(name) {
    this.#isOver = this.button.hidden = true;
    this.#showStatus(name);
  }

  /** Write the status only when it changes, because screen readers read it aloud every time. @param {string} name */
  #showStatus(name) {
    const text = this.status.dataset[name];
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}

/**
 * Make the children of `old` equal to those of `fresh`. Children that are equal already stay untouched.
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

/** Keeps `open`: a table that the user opened stays open. @param {Element} old @param {Element} fresh */
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
