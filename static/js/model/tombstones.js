/**
 * What is left of own messages after their end: counts and names, never text. Kept on the device for 24 hours, for all
 * tabs, the newest 1,000.
 * {room, epoch, seq, id, sent_at, ended_at, why: "expired"|"deleted", own_doing, delivered, read, total, missing?, ...}
 */

const KEPT_MS = 24 * 3600 * 1000;
const KEPT_MOST = 1000;
const place = (room, seq) => `${room}|${seq}`;

export class Tombstones {
  #storage;
  #key;
  #now;
  #stones;
  #later;
  #unsaved = new Map();

  /** later(action): do it when what goes on is done, so that many at once are written once. */
  constructor({ storage, user, now, later = (action) => queueMicrotask(action) }) {
    this.#storage = storage;
    this.#key = `chat.tombstones.${user}`;
    this.#now = now;
    this.#later = later;
    this.#stones = this.#read();
  }

  inRoom(room, epoch) {
    this.#sweep();
    return [...this.#stones.values()].filter((stone) => stone.room === room && stone.epoch === epoch).sort((a, b) => a.seq - b.seq);
  }

  get(room, seq) {
    return this.#stones.get(place(room, seq));
  }

  /** Add, or learn more about, the one at stone.room and stone.seq. */
  put(stone) {
    const key = place(stone.room, stone.seq);
    const whole = { ...this.#stones.get(key), ...stone };
    this.#stones.set(key, whole);
    if (this.#unsaved.size === 0) this.#later(() => this.#write());
    this.#unsaved.set(key, whole);
  }

  /** When it is over, epoch ms. */
  static endOf({ ended_at }) {
    return ended_at + KEPT_MS;
  }

  #sweep() {
    const now = this.#now();
    for (const [key, stone] of this.#stones) if (Tombstones.endOf(stone) <= now) this.#stones.delete(key);
    if (this.#stones.size <= KEPT_MOST) return;
    const newest = [...this.#stones].sort(([, a], [, b]) => b.ended_at - a.ended_at);
    this.#stones = new Map(newest.slice(0, KEPT_MOST));
  }

  #read() {
    try {
      return new Map(Object.entries(JSON.parse(this.#storage.getItem(this.#key) ?? "{}")));
    } catch {
      return new Map();
    }
  }

  /** Over what other tabs have written meanwhile. */
  #write() {
    this.#stones = new Map([...this.#stones, ...this.#read(), ...this.#unsaved]);
    this.#unsaved.clear();
    this.#sweep();
    try {
      this.#storage.setItem(this.#key, JSON.stringify(Object.fromEntries(this.#stones)));
    } catch {
      // A full device store costs only the memory of it after a reload.
    }
  }
}
