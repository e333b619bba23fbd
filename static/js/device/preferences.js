/** Small things this device remembers for a user: drafts, muted rooms, what Enter does. Text of messages never. */

export class Keep {
  #storage;
  #prefix;

  constructor({ storage, user }) {
    this.#storage = storage;
    this.#prefix = `chat.${user}.`;
  }

  get(name) {
    try {
      return this.#storage.getItem(this.#prefix + name);
    } catch {
      return null;
    }
  }

  /** An empty value forgets the name. */
  set(name, value) {
    try {
      if (value) this.#storage.setItem(this.#prefix + name, value);
      else this.#storage.removeItem(this.#prefix + name);
    } catch {
      // A full or refused device store: the value lasts as long as the page.
    }
  }

  draft(room) {
    return this.get(`draft.${room}`) ?? "";
  }

  setDraft(room, text) {
    this.set(`draft.${room}`, text.trim() ? text : "");
  }
}
