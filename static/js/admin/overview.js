/*
 * Keeps the staff's front page, and that of a bulk action, up to date: every 5 s the part that changes is fetched and laid over what
 * stands there, so that focus, an open table and a selection stay. Not while it is paused or hidden, nor once it has ended.
 */

const EVERY_MS = 5000;
const DEADLINE_MS = 15000;

export class Refresh {
  #timer = 0;
  #asking = null;
  #over = false;
  #paused = false;

  constructor(section, { page = document, fetch = globalThis.fetch.bind(globalThis), everyMs = EVERY_MS } = {}) {
    this.page = page;
    this.fetch = fetch;
    this.everyMs = everyMs;
    this.place = section.querySelector("[data-overview]");
    this.pace = section.querySelector("[data-pace]");
    this.button = section.querySelector("[data-pause]");
  }

  start() {
    this.pace.hidden = false;
    if (this.#hasEnded()) return this.#end();
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.#pause(!this.#paused));
    this.page.addEventListener("visibilitychange", () => this.#turn());
    this.#say("live");
    this.#wait();
  }

  #pause(paused) {
    this.#paused = paused;
    this.button.setAttribute("aria-pressed", String(paused));
    this.#say(paused ? "paused" : "live");
    this.#turn();
  }

  // Asks at once when it may go on: what is shown is as old as the pause.
  #turn() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    if (this.#mayRun()) this.#ask();
  }

  #mayRun() {
    return !this.#paused && !this.#over && !this.page.hidden;
  }

  #wait() {
    clearTimeout(this.#timer);
    if (this.#mayRun()) this.#timer = setTimeout(() => this.#ask(), this.everyMs);
  }

  async #ask() {
    const asking = new AbortController();
    this.#asking = asking;
    const deadline = setTimeout(() => asking.abort(), DEADLINE_MS);
    try {
      const answer = await this.fetch(this.place.dataset.overview, { signal: asking.signal, redirect: "error" });
      const text = answer.ok ? await answer.text() : "";
      if (this.#asking !== asking || !this.#mayRun()) return;
      this.#take(answer, text);
    } catch {
      if (this.#asking === asking && this.#mayRun()) this.#say("silent");
    } finally {
      clearTimeout(deadline);
    }
    if (this.#asking === asking) this.#wait();
  }

  #take(answer, text) {
    this.#over = answer.status === 403;
    this.#say(this.#over ? "over" : answer.ok ? "live" : "silent");
    if (answer.ok) lay(this.place, new DOMParser().parseFromString(`<div>${text}</div>`, "text/html").body.firstChild);
    if (this.#hasEnded()) this.#end();
  }

  #hasEnded() {
    return this.place.querySelector("[data-ended]") !== null;
  }

  #end() {
    this.#over = this.button.hidden = true;
    this.#say("ended");
  }

  // A status is read out when it changes: only then is it written.
  #say(which) {
    const words = this.pace.dataset[which];
    if (this.pace.textContent !== words) this.pace.textContent = words;
  }
}

// Make what is under `old` what is under `fresh`, and touch only what differs. What the reader opened stays open.
export function lay(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, at) => {
    const stands = before[at];
    if (!stands) old.append(node);
    else if (stands.nodeName !== node.nodeName) stands.replaceWith(node);
    else if (node.nodeType === 1) {
      matchAttributes(stands, node);
      lay(stands, node);
    } else if (stands.data !== node.data) stands.data = node.data;
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function matchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

const section = globalThis.document?.querySelector("[data-overview]")?.closest("section");
if (section) new Refresh(section).start();
