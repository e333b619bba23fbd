/**
 * The page's one timer for lifetimes. It sleeps until the next moment at which something on the screen changes or ends, and
 * runs at once when the machine wakes.
 */

/** @import { Clock } from "./protocol.js" */

const MAX_TIMEOUT_MS = 2 ** 31 - 1; // a longer setTimeout fires at once

export class Ticker {
  #clock;
  #tick;
  /** @type {any} */
  #timer = null;

  /**
   * tick(): do what is due, return ms until the next change, Infinity for none.
   *
   * @param {{clock: Clock, tick: () => number}} parts
   */
  constructor({ clock, tick }) {
    this.#clock = clock;
    this.#tick = tick;
  }

  run() {
    this.#clock.clear(this.#timer);
    this.#timer = null;
    const wait = this.#tick();
    if (wait < Infinity) this.#timer = this.#clock.set(() => this.run(), Math.min(MAX_TIMEOUT_MS, Math.max(0, Math.ceil(wait))));
  }
}
