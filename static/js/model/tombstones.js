/**
 * The page's tombstones: the counts and names that remain of own messages after their end, never their text. Kept in the
 * browser's storage for 24 hours, for all tabs, at most the newest 1,000.
 */

/**
 * own_doing: deleted from this page. missing: the first recipients who did not receive it, of missing_total.
 *
 * @typedef {{user: number, name: string, reason: string, attempts?: number | null}} Missed
 * @typedef {{
 *   room: string, epoch: string, seq: number, id?: string, sent_at: number, ended_at: number, why: "expired" | "deleted",
 *   own_doing?: boolean, delivered?: number, read?: number, total?: number, missing?: Missed[], missing_total?: number,
 *   resendable?: boolean, resent_at?: number, problem?: string | null, notice?: string,
 * }} Tombstone
 */

const KEPT_MS = 24 * 3600 * 1000;
const MAX_KEPT = 1000;
/** @param {string} room @param {number} seq */
const keyOf = (room, seq) => `${room}|${seq}`;

export class Tombstones {
  #storage;
  #key;
  #now;
  #later;
  /** @type {Map<string, Tombstone>} */
  #tombstones;
  /** @type {Map<string, Tombstone>} */
  #unsaved = new Map();

  /**
   * storage: as localStorage; with null they are lost with the page. later(action): run it after the current task, so that
   * many changes are written once.
   *
   * @param {{
   *   storage: Pick<Storage, "getItem" | "setItem"> | null, user: number, now: () => number,
   *   later?: (action: () => void) => void,
   * }} parts
   */
  constructor({ storage, user, now, later = (action) => queueMicrotask(action) }) {
    this.#storage = storage;
    this.#key = `chat.tombstones.${user}`;
    this.#now = now;
    this.#later = later;
    this.#tombstones = this.#read();
  }

  /** @param {string} room @param {string} epoch */
  inRoom(room, epoch) {
    this.#sweep();
    return [...this.#tombstones.values()]
      .filter((tombstone) => tombstone.room === room && tombstone.epoch === epoch)
      .sort((a, b) => a.seq - b.seq);
  }

  /** @param {string} room @param {number} seq */
  get(room, seq) {
    return this.#tombstones.get(keyOf(room, seq));
  }

  /**
   * Add the tombstone of this room and seq, or add fields to it.
   *
   * @param {Partial<Tombstone> & {room: string, seq: number}} fields
   */
  put(fields) {
    const key = keyOf(fields.room, fields.seq);
    const tombstone = /** @type {Tombstone} */ ({ ...this.#tombstones.get(key), ...fields });
    this.#tombstones.set(key, tombstone);
    if (this.#unsaved.size === 0) this.#later(() => this.#write());
    this.#unsaved.set(key, tombstone);
  }

  /** When it is removed, epoch ms. @param {{ended_at: number}} tombstone */
  static endOf({ ended_at }) {
    return ended_at + KEPT_MS;
  }

  #sweep() {
    const now = this.#now();
    for (const [key, tombstone] of this.#tombstones) if (Tombstones.endOf(tombstone) <= now) this.#tombstones.delete(key);
    if (this.#tombstones.size <= MAX_KEPT) return;
    const newest = [...this.#tombstones].sort(([, a], [, b]) => b.ended_at - a.ended_at);
    this.#tombstones = new Map(newest.slice(0, MAX_KEPT));
  }

  /** @returns {Map<string, Tombstone>} */
  #read() {
    try {
      return new Map(Object.entries(JSON.parse(this.#storage?.getItem(this.#key) ?? "{}")));
    } catch {
      return new Map();
    }
  }

  /** Write the tombstones, merged with those that other tabs have written. */
  #write() {
    this.#tombstones = new Map([...this.#tombstones, ...this.#read(), ...this.#unsaved]);
    this.#unsaved.clear();
    this.#sweep();
    try {
      this.#storage?.setItem(this.#key, JSON.stringify(Object.fromEntries(this.#tombstones)));
    } catch {
      // When the storage is full, tombstones are lost at a reload.
    }
  }
}
