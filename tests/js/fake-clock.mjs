/** Time as an argument: nothing happens until a test says so. */
export class FakeClock {
  #now = 1_000_000;
  #timers = new Map();
  #next = 1;

  now = () => this.#now;

  set = (action, ms) => {
    const handle = this.#next++;
    this.#timers.set(handle, { action, at: this.#now + ms });
    return handle;
  };

  clear = (handle) => this.#timers.delete(handle);

  get waits() {
    return [...this.#timers.values()].map(({ at }) => at - this.#now).sort((a, b) => a - b);
  }

  advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].action();
    }
    this.#now = end;
  }
}

/** Let awaited promises run. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));
