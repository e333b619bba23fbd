/**
 * The server's time on this machine. A browser whose clock is an hour wrong still shows correct lifetimes, also when someone
 * sets that clock back while the page is open. The browser's steady clock may stand still while the machine sleeps, so the
 * later of the two clocks is used.
 */
export class ServerClock {
  #local;
  #steady;
  #serverMs = 0;
  #localMs = 0;
  #steadyMs = 0;

  /** local: epoch ms of this machine. steady: ms of a clock that nobody can set. */
  constructor(local = () => Date.now(), steady = local) {
    this.#local = local;
    this.#steady = steady;
    this.set(local());
  }

  /** Set it to `welcome.now`, epoch ms. @param {number} serverNowMs */
  set(serverNowMs) {
    this.#serverMs = serverNowMs;
    this.#localMs = this.#local();
    this.#steadyMs = this.#steady();
  }

  now() {
    return this.#serverMs + Math.round(Math.max(this.#local() - this.#localMs, this.#steady() - this.#steadyMs));
  }
}
