/**
 * The server's time on this machine: a browser whose clock is an hour wrong still shows right lifetimes, also when somebody
 * sets that clock back while the page runs. The steady clock of a browser may stand still while the machine sleeps, so of the
 * two the one that says later is right.
 */
export class ServerClock {
  #local;
  #steady;
  #server_ms;
  #local_ms;
  #steady_ms;

  /** local: epoch ms of this machine; steady: ms that nobody sets. */
  constructor(local = () => Date.now(), steady = local) {
    this.#local = local;
    this.#steady = steady;
    this.set(local());
  }

  /** Take over `welcome.now`, epoch ms. */
  set(server_now_ms) {
    this.#server_ms = server_now_ms;
    this.#local_ms = this.#local();
    this.#steady_ms = this.#steady();
  }

  now() {
    return this.#server_ms + Math.round(Math.max(this.#local() - this.#local_ms, this.#steady() - this.#steady_ms));
  }
}
