/**
 * The server's time on this machine: a browser whose clock is an hour wrong still shows right lifetimes.
 */
export class ServerClock {
  #local;
  #skew_ms = 0;

  constructor(local = () => Date.now()) {
    this.#local = local;
  }

  /** Take over `welcome.now`, epoch ms. */
  set(server_now_ms) {
    this.#skew_ms = server_now_ms - this.#local();
  }

  now() {
    return this.#local() + this.#skew_ms;
  }
}
