/**
 * Acknowledgements, collected for 250 ms: one frame acknowledges for all rooms. Browsers slow down the timers of a hidden
 * tab, so a hidden tab sends them at the end of the receive handler.
 */
import { ack } from "./protocol.js";

/** @import { AckRow, Clock } from "./protocol.js" */

export const ACK_AFTER_MS = 250;

export class Acks {
  #collect;
  #send;
  #clock;
  #hidden;
  /** @type {any} */
  #timer = null;

  /**
   * collect(): the rows that are due now.
   *
   * @param {{collect: () => AckRow[], send: (frame: object) => void, clock: Clock, hidden: () => boolean}} parts
   */
  constructor({ collect, send, clock, hidden }) {
    this.#collect = collect;
    this.#send = send;
    this.#clock = clock;
    this.#hidden = hidden;
  }

  /** Something waits to be acknowledged. */
  due() {
    this.#timer ??= this.#clock.set(() => this.flush(), ACK_AFTER_MS);
  }

  flush() {
    this.disconnected();
    const rows = this.#collect();
    if (rows.length) this.#send(ack(rows));
  }

  /** The end of the receive handler. */
  batch() {
    if (this.#timer !== null && this.#hidden()) this.flush();
  }

  disconnected() {
    this.#clock.clear(this.#timer);
    this.#timer = null;
  }
}
