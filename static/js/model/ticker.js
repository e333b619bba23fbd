/**
 * The page's one timer for lifetimes: it sleeps until the soonest moment at which something on the screen changes or ends,
 * and looks at once when the machine wakes.
 */

const LONGEST_MS = 2 ** 31 - 1; // a longer setTimeout fires at once

export class Ticker {
  #clock;
  #tick;
  #timer = null;

  /** clock: {now, set, clear}. tick(): do what is due, return ms until the next change, Infinity for none. */
  constructor({ clock, tick }) {
    this.#clock = clock;
    this.#tick = tick;
  }

  run() {
    this.#clock.clear(this.#timer);
    this.#timer = null;
    const wait = this.#tick();
    if (wait < Infinity) this.#timer = this.#clock.set(() => this.run(), Math.min(LONGEST_MS, Math.max(0, Math.ceil(wait))));
  }
}
