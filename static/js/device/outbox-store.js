/**
 * Where the outbox and the own log are stored: in IndexedDB, a database of each per user, or in memory where the browser refuses it.
 */

/** @import { OutboxItem, OutboxStore } from "../model/outbox.js" */

const STORE = "outbox";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

class DeviceStore {
  #db;

  /** @param {IDBDatabase} db */
  constructor(db) {
    this.#db = db;
  }

  /** @returns {Promise<OutboxItem[]>} */
  all() {
    return done(this.#db.transaction(STORE).objectStore(STORE).getAll());
  }

  /** @param {OutboxItem[]} items */
  put(...items) {
    return this.#write((store) => items.forEach((item) => store.put(item)));
  }

  /** @param {string[]} ids */
  delete(...ids) {
    return this.#write((store) => ids.forEach((id) => store.delete(id)));
  }

  /**
   * Resolves when the transaction is on the device, not when the request was accepted.
   *
   * @param {(store: IDBObjectStore) => void} change
   * @returns {Promise<void>}
   */
  #write(change) {
    return new Promise((resolve, reject) => {
      const transaction = this.#db.transaction(STORE, "readwrite", { durability: "strict" });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
      change(transaction.objectStore(STORE));
    });
  }
}

export class MemoryStore {
  /** @type {Map<string, OutboxItem>} */
  #items = new Map();

  async all() {
    return [...this.#items.values()];
  }

  /** @param {OutboxItem[]} items */
  async put(...items) {
    for (const item of items) this.#items.set(item.id, item);
  }

  /** @param {string[]} ids */
  async delete(...ids) {
    for (const id of ids) this.#items.delete(id);
  }
}

/** Open the user's outbox. @param {number} user */
export const openOutboxStore = (user) => open(`chat-outbox-${user}`);

/** Open the user's own log. Its own database, so that a page from before an upgrade is not disturbed. @param {number} user */
export const openOwnLogStore = (user) => open(`chat-own-log-${user}`);

/**
 * A private window may refuse: then the messages are kept as long as the page.
 *
 * @param {string} name
 * @returns {Promise<OutboxStore>}
 */
async function open(name) {
  try {
    const request = globalThis.indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    return new DeviceStore(await done(request));
  } catch {
    return new MemoryStore();
  }
}

/**
 * The same store, which calls `changed` after each change.
 *
 * @param {OutboxStore} store
 * @param {() => void} changed
 * @returns {OutboxStore}
 */
export function notifying(store, changed) {
  return {
    all: () => store.all(),
    put: (...items) => store.put(...items).then(changed),
    delete: (...ids) => store.delete(...ids).then(changed),
  };
}
