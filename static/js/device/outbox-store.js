/** Where the outbox is stored: in IndexedDB, one database per user, or in memory where the browser refuses it. */

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

  /** @param {OutboxItem} item */
  put(item) {
    return this.#write((store) => store.put(item));
  }

  /** @param {string} id */
  delete(id) {
    return this.#write((store) => store.delete(id));
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

  /** @param {OutboxItem} item */
  async put(item) {
    this.#items.set(item.id, item);
  }

  /** @param {string} id */
  async delete(id) {
    this.#items.delete(id);
  }
}

/**
 * Open the user's outbox. A private window may refuse: then the outbox lasts as long as the page.
 *
 * @param {number} user
 * @param {IDBFactory} indexedDB
 * @returns {Promise<OutboxStore>}
 */
export async function openOutboxStore(user, indexedDB = globalThis.indexedDB) {
  try {
    const request = indexedDB.open(`chat-outbox-${user}`, 1);
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
    put: (item) => store.put(item).then(changed),
    delete: (id) => store.delete(id).then(changed),
  };
}
