/**
 * Notices that the user has dismissed and that the server has not confirmed yet. They are sent at most twenty at a time,
 * because they are rate limited like every change, and again after a lost connection.
 */
import { dismiss } from "./protocol.js";

/** @import { Clock, Frame } from "./protocol.js" */

const MAX_IN_FLIGHT = 20;
const RETRY_MS = 1000;

export class Dismissals {
  #transmit;
  #clock;
  /** @type {Map<string, boolean>} */
  #waiting = new Map(); // notice -> whether it was sent to the server
  /** @type {any} */
  #timer = null;

  /**
   * transmit(frame): false when it was not sent.
   *
   * @param {{transmit: (frame: object) => boolean, clock: Clock}} parts
   */
  constructor({ transmit, clock }) {
    this.#transmit = transmit;
    this.#clock = clock;
  }

  /** @param {string} notice */
  has(notice) {
    return this.#waiting.has(notice);
  }

  /** @param {string} notice */
  add(notice) {
    this.#waiting.set(notice, false);
    this.flush();
  }

  /** The server confirms that it is dismissed. @param {string} notice */
  done(notice) {
    if (this.#waiting.delete(notice)) this.flush();
  }

  /**
   * A refusal does not name its notice. If it is retryable, all of them are sent again; if not, those that were sent are dropped.
   *
   * @param {Frame} frame
   */
  refused({ retryable, retry_after_ms }) {
    if (!retryable) {
      for (const [notice, sent] of this.#waiting) if (sent) this.#waiting.delete(notice);
      return this.flush();
    }
    this.#timer ??= this.#clock.set(() => {
      this.#timer = null;
      this.disconnected();
      this.flush();
    }, retry_after_ms ?? RETRY_MS);
  }

  /** Frames that were sent over the lost connection get no answer. */
  disconnected() {
    for (const notice of this.#waiting.keys()) this.#waiting.set(notice, false);
  }

  /** Send as many as may be unanswered at the same time. */
  flush() {
    let inFlight = [...this.#waiting.values()].filter(Boolean).length;
    for (const [notice, sent] of this.#waiting) {
      if (inFlight >= MAX_IN_FLIGHT) return;
      if (sent) continue;
      if (!this.#transmit(dismiss(notice))) return;
      this.#waiting.set(notice, true);
      inFlight += 1;
    }
  }
}
