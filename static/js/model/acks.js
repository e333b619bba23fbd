/**
 * Acknowledgements, gathered for 250 ms: one frame settles all rooms. In a hidden tab timers are throttled, so there they
 * leave from the receive handler.
 */
import { ack } from "./protocol.js";

export const ACK_AFTER_MS = 250;

export class Acks {
  #collect;
  #send;
  #clock;
  #hidden;
  #timer = null;

  /** collect: () => [{room, epoch, delivered?, read?}], what is due now. */
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
    this.#clock.clear(this.#timer);
    this.#timer = null;
    const rooms = this.#collect();
    if (rooms.length) this.#send(ack(rooms));
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
