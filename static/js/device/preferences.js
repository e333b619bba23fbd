/** Small values that this browser stores for a user: drafts, muted rooms, the setting of the Enter key. No messages. */

export class Preferences {
  #storage;
  #prefix;

  /**
   * storage: as localStorage; with null nothing is stored.
   *
   * @param {{storage: Pick<Storage, "getItem" | "setItem" | "removeItem"> | null, user: number}} parts
   */
  constructor({ storage, user }) {
    this.#storage = storage;
    this.#prefix = `chat.${user}.`;
  }

  /** @param {string} name */
  get(name) {
    try {
      return this.#storage?.getItem(this.#prefix + name) ?? null;
    } catch {
      return null;
    }
  }

  /** An empty value deletes the name. @param {string} name @param {string} value */
  set(name, value) {
    try {
      if (value) this.#storage?.setItem(this.#prefix + name, value);
      else this.#storage?.removeItem(this.#prefix + name);
    } catch {
      // The storage is full or refused: the value is not kept.
    }
  }

  /** @param {string} room */
  draft(room) {
    return this.get(`draft.${room}`) ?? "";
  }

  /** @param {string} room @param {string} text */
  setDraft(room, text) {
    this.set(`draft.${room}`, text.trim() ? text : "");
  }

  /** @param {string} room */
  isMuted(room) {
    return this.get(`muted.${room}`) === "yes";
  }

  /** @param {string} room @param {boolean} muted */
  setMuted(room, muted) {
    this.set(`muted.${room}`, muted ? "yes" : "");
  }

  /** The setting of the Enter key: "" sends, "newline" starts a new line. */
  get enterKey() {
    return this.get("enter") ?? "";
  }

  set enterKey(choice) {
    this.set("enter", choice);
  }
}
