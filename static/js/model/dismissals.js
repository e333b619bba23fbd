/**
 * Notices that the user has put aside and of which the server has not said so yet: asked for twenty at a time, since they are
 * rated like every change, and again after a cut.
 */
import { dismiss } from "./protocol.js";

const ASKED_MOST = 20;
const ASK_AGAIN_MS = 1000;

export class Dismissals {
  #transmit;
  #clock;
  #waiting = new Map(); // notice -> whether the server was asked
  #timer = null;

  /** transmit(frame): false when it did not leave. clock: {now, set, clear}. */
  constructor({ transmit, clock }) {
    this.#transmit = transmit;
    this.#clock = clock;
  }

  has(notice) {
    return this.#waiting.has(notice);
  }

  add(notice) {
    this.#waiting.set(notice, false);
    this.ask();
  }

  /** The server says that it is put aside. */
  done(notice) {
    if (this.#waiting.delete(notice)) this.ask();
  }

  /** A refusal does not name its notice: for now, whatever was asked is asked again; for good, none of it is. */
  refused({ retryable, retry_after_ms }) {
    if (!retryable) {
      for (const [notice, asked] of this.#waiting) if (asked) this.#waiting.delete(notice);
      return this.ask();
    }
    this.#timer ??= this.#clock.set(() => {
      this.#timer = null;
      this.disconnected();
      this.ask();
    }, retry_after_ms ?? ASK_AGAIN_MS);
  }

  /** Nothing asked over the lost connection will be answered. */
  disconnected() {
    for (const notice of this.#waiting.keys()) this.#waiting.set(notice, false);
  }

  ask() {
    let flying = [...this.#waiting.values()].filter(Boolean).length;
    for (const [notice, asked] of this.#waiting) {
      if (flying >= ASKED_MOST) return;
      if (asked) continue;
      if (!this.#transmit(dismiss(notice))) return;
      this.#waiting.set(notice, true);
      flying += 1;
    }
  }
}
