/** Where the outbox is kept: IndexedDB, one database a user, or memory where the browser gives none. */

const STORE = "outbox";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

class DeviceStore {
  #db;

  constructor(db) {
    this.#db = db;
  }

  all() {
    return done(this.#db.transaction(STORE).objectStore(STORE).getAll());
  }

  put(item) {
    return this.#write((store) => store.put(item));
  }

  delete(id) {
    return this.#write((store) => store.delete(id));
  }

  /** Resolves when the transaction is on the device, not when the request has been taken. */
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
  #items = new Map();
  async all() {
    return [...this.#items.values()];
  }
  async put(item) {
    this.#items.set(item.id, item);
  }
  async delete(id) {
    this.#items.delete(id);
  }
}

/** Open the user's outbox. A private window may refuse: then it lasts as long as the page. */
export async function openOutboxStore(user_id, indexedDB = globalThis.indexedDB) {
  try {
    const request = indexedDB.open(`chat-outbox-${user_id}`, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    return new DeviceStore(await done(request));
  } catch {
    return new MemoryStore();
  }
}

/** The same store, telling the user's other tabs of each change. */
export function shared(store, tell) {
  return {
    all: () => store.all(),
    put: (item) => store.put(item).then(tell),
    delete: (id) => store.delete(id).then(tell),
  };
}
