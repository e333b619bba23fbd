/**
 * What is left of own messages after their end: counts and names, never text. Kept on the device for 24 hours.
 * {room, epoch, seq, id, sent_at, ended_at, why: "expired"|"deleted", own_doing, delivered, read, total, missing?, ...}
 */

const KEPT_MS = 24 * 3600 * 1000;
const place = (room, seq) => `${room}|${seq}`;

export class Tombstones {
  #storage;
  #key;
  #now;
  #stones;

  constructor({ storage, user, now }) {
    this.#storage = storage;
    this.#key = `chat.tombstones.${user}`;
    this.#now = now;
    this.#stones = new Map(Object.entries(this.#read()));
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
    this.#stones.set(key, { ...this.#stones.get(key), ...stone });
    this.#sweep();
    this.#write();
  }

  #sweep() {
    const oldest = this.#now() - KEPT_MS;
    for (const [key, stone] of this.#stones) if (stone.ended_at < oldest) this.#stones.delete(key);
  }

  #read() {
    try {
      return JSON.parse(this.#storage.getItem(this.#key) ?? "{}");
    } catch {
      return {};
    }
  }

  #write() {
    try {
      this.#storage.setItem(this.#key, JSON.stringify(Object.fromEntries(this.#stones)));
    } catch {
      // A full device store costs only the memory of it after a reload.
    }
  }
}
