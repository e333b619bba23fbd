/**
 * Shortening the lifetime of the messages that are already in a room, separate from the lifetime of new messages. First the
 * server counts the messages, then the user confirms.
 */
import * as api from "../http/api.js";
import { find, setText } from "./dom.js";
import { fill, gettext, ngettext } from "../i18n.js";
import { fillLifetimes } from "./lifetime-picker.js";
import * as phrases from "../phrases.js";

/** @import { Room } from "../model/room.js" */
/** @import { Shortening } from "../http/api.js" */

export class Shorten {
  #form = find("[data-shorten]");
  #result = find("[data-found]", this.#form);
  #countButton = find("[data-count-shortened]", this.#form);
  #confirmButton = find("[data-yes]", this.#form);
  #cancelButton = find("[data-no]", this.#form);
  #failed;
  /** @type {Room | null} */
  #room = null;
  #requests = 0; // an answer counts only if no later request, room or choice has replaced its request

  /** failed(error): the server's refusal, or null. @param {{failed: (error: any) => void}} parts */
  constructor({ failed }) {
    this.#failed = failed;
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#count();
    });
    this.#form.elements.ttl.addEventListener("change", () => this.#reset());
    this.#confirmButton.addEventListener("click", () => this.#shorten());
    this.#cancelButton.addEventListener("click", () => {
      this.#reset();
      this.#countButton.focus();
    });
  }

  /** @param {boolean} hidden */
  set hidden(hidden) {
    this.#form.hidden = hidden;
  }

  /** longest: in seconds. @param {Room} room @param {number} longest */
  open(room, longest) {
    this.#room = room;
    fillLifetimes(this.#form.elements.ttl, { current: room.ttl, longest });
    this.#reset();
  }

  get #ttl() {
    return Number(this.#form.elements.ttl.value);
  }

  #reset() {
    this.#requests += 1;
    this.#showResult("");
    this.#offer(0);
  }

  async #count() {
    const counts = await this.#request(true);
    if (!counts) return;
    if (counts.shortened === 0) return this.#showResult(gettext("No message would expire sooner."));
    this.#showResult(
      phrases.sentences(phrases.wouldShorten(counts), gettext("If someone misses a message because of this, its sender is told.")),
    );
    this.#offer(counts.shortened);
    this.#cancelButton.focus(); // so that a second Enter does not start an action that cannot be undone
  }

  async #shorten() {
    const counts = await this.#request(false);
    if (!counts) return;
    this.#showResult(phrases.hasShortened(counts));
    this.#offer(0);
    this.#countButton.focus();
  }

  /**
   * Returns null when the server refused or a later request replaced this one.
   *
   * @param {boolean} dry_run
   * @returns {Promise<Shortening | null>}
   */
  async #request(dry_run) {
    if (!this.#room) return null;
    const request = ++this.#requests;
    this.#failed(null);
    try {
      const answer = await api.shorten(this.#room.id, { ttl: this.#ttl, dry_run });
      return request === this.#requests ? answer : null;
    } catch (error) {
      if (request === this.#requests) this.#failed(error);
      return null;
    }
  }

  /** @param {number} n */
  #offer(n) {
    this.#countButton.hidden = n > 0;
    this.#confirmButton.hidden = this.#cancelButton.hidden = n === 0;
    setText(this.#confirmButton, fill(ngettext("Shorten %(n)s message", "Shorten %(n)s messages", n), { n: phrases.number(n) }));
  }

  /** @param {string} text */
  #showResult(text) {
    this.#result.hidden = !text;
    setText(this.#result, text);
  }
}
