/**
 * The own messages that the server has accepted, as long as somebody owes them. If the store loses them, the page offers them again with
 * the same ids, so that none is shown twice.
 *
 *   1. keep      `sent` moves a message from the outbox to here
 *   2. end       delivered to all who owe it, deleted, expired or reported: it is deleted here
 *   3. unread    after a connect, and when a room gets a new epoch: it is unknown which messages the store still has
 *   4. compare   the room was read to its top. If entries have another epoch, the room is read from its beginning: those that are not
 *                in it are lost. If only the store's life differs, the page asks for the newest message that the store has up to the
 *                newest entry: entries above it are lost, because a store loses the end of a log, never its middle
 *   5. offer     a lost message returns to the outbox
 *
 * At the end of a message only its text is deleted. The entry stays until the server reports the end, or the room is compared and has the
 * same epoch: the store may have lost the message before its end. Only the tab that sends has entries. Knows no socket and no DOM.
 */

import { isDelivered } from "./delivery-state.js";

/** @import { Acceptance, OutboxItem, OutboxStore } from "./outbox.js" */
/** @import { Clock, Frame, Message } from "./protocol.js" */

/** @typedef {OutboxItem & {accepted: Acceptance}} OwnMessage */

const MAX_ENTRIES = 1000;
const MAX_CHARACTERS = 2 * 1024 * 1024; // 4 MB in UTF-16
const MAX_TIMER_MS = 24 * 3600 * 1000; // a browser's timer takes at most 24 days

export class OwnLog {
  /** @type {Map<string, OwnMessage>} */
  entries = new Map(); // by id, the oldest first
  #store;
  #clock;
  #serverNow;
  #on;
  #isKeeping = false;
  #storeLife = "";
  /** @type {Map<string, {epoch: string | null, whole: boolean}>} */
  #rooms = new Map(); // of this connection; epoch: null until compared; whole: the room is read from its beginning
  /** @type {Map<string, number>} */
  #asked = new Map(); // room -> `before` of the unanswered `history`
  /** @type {any} */
  #timer = null;

  /**
   * clock: of this machine. serverNow(): the server's time, epoch ms. on.ask: request the newest message below `before`.
   * on.reread: read the room from its beginning. on.offer: the messages that the store has lost; resolves when they are stored elsewhere.
   *
   * @param {{
   *   store: OutboxStore, clock: Clock, serverNow: () => number,
   *   on: {
   *     ask: (room: string, before: number) => void, reread: (room: string) => void, offer: (lost: OutboxItem[]) => Promise<void>,
   *   },
   * }} parts
   */
  constructor({ store, clock, serverNow, on }) {
    this.#store = store;
    this.#clock = clock;
    this.#serverNow = serverNow;
    this.#on = on;
  }

  /** This tab is the one that sends: from now on it keeps the messages. */
  async load() {
    this.#isKeeping = true;
    const stored = /** @type {OwnMessage[]} */ (await this.#store.all().catch(() => []));
    for (const entry of stored.sort((a, b) => a.accepted.sent_at - b.accepted.sent_at)) this.entries.set(entry.id, entry);
    for (const room of this.#rooms.keys()) this.unread(room, false);
    this.#deleteTexts();
  }

  // ---- the connection

  /** store: its life, from `welcome`. @param {string} store @param {string[]} rooms */
  welcomed(store, rooms) {
    this.#storeLife = store;
    this.#asked.clear();
    this.#rooms = new Map(rooms.map((room) => [room, { epoch: null, whole: false }]));
  }

  disconnected() {
    this.#rooms.clear();
    this.#asked.clear();
  }

  /** @param {string} room @param {boolean} whole */
  unread(room, whole) {
    this.#rooms.set(room, { epoch: null, whole });
    this.#asked.delete(room);
  }

  /** The epoch under which the room was compared. @param {string} room */
  epochOf(room) {
    return this.#rooms.get(room)?.epoch ?? null;
  }

  /** Whether messages of this room may have to be sent before those of the outbox. @param {string} room @param {boolean} isOffering */
  holdsBack(room, isOffering) {
    return this.#rooms.get(room)?.epoch === null && (isOffering || this.#inRoom(room).length > 0);
  }

  /** The room was read to its top. @param {string} room @param {string} epoch */
  compare(room, epoch) {
    const state = this.#rooms.get(room);
    if (state?.epoch !== null || this.#asked.has(room)) return;
    const now = this.#serverNow();
    const entries = this.#inRoom(room);
    if (!state.whole && entries.some(({ accepted }) => accepted.epoch !== epoch)) return this.#on.reread(room);
    const ofEpoch = entries.filter(({ accepted }) => accepted.epoch === epoch);
    this.#delete(ofEpoch.filter(({ accepted }) => accepted.expires_at <= now)); // the server reports who missed them
    const unsure = ofEpoch.filter(({ accepted }) => accepted.store !== this.#storeLife && accepted.expires_at > now);
    if (!unsure.length || state.whole) return this.#conclude(room, epoch, 0);
    this.#asked.set(room, Math.max(...unsure.map(({ accepted }) => accepted.seq)) + 1);
    this.ask(room);
  }

  /** Repeat the question that is not answered yet. @param {string} room */
  ask(room) {
    const before = this.#asked.get(room);
    if (before !== undefined) this.#on.ask(room, before);
  }

  /** @param {Frame} history */
  answered({ room, epoch, before, messages }) {
    if (this.#asked.get(room) !== before) return;
    this.#asked.delete(room);
    this.#conclude(room, epoch, messages.at(-1)?.seq ?? 0);
  }

  /** newest: the highest seq that the store still has of those in question. @param {string} room @param {string} epoch @param {number} newest */
  #conclude(room, epoch, newest) {
    this.#rooms.set(room, { epoch, whole: false });
    const store = this.#storeLife;
    const strange = this.#inRoom(room).filter(({ accepted }) => accepted.epoch !== epoch || accepted.store !== store);
    const isKept = (/** @type {OwnMessage} */ { accepted }) => accepted.epoch === epoch && accepted.seq <= newest;
    this.#put(strange.filter(isKept).map((entry) => ({ ...entry, accepted: { ...entry.accepted, store } })));
    // A seq of another epoch means nothing, so `reply_to` is removed.
    this.#offer(
      strange
        .filter((entry) => !isKept(entry))
        .map((entry) => ({ ...entry, reply_to: entry.accepted.epoch === epoch ? entry.reply_to : null })),
    );
  }

  /** @param {OwnMessage[]} lost */
  async #offer(lost) {
    for (const { id } of lost) this.entries.delete(id);
    const stored = await this.#on.offer(lost).then(
      () => true,
      () => false,
    );
    if (stored) this.#deleteStored(lost.map(({ id }) => id).filter((id) => !this.entries.has(id)));
  }

  // ---- the messages

  /** The server has accepted an own message. @param {OutboxItem} item @param {Frame} sent */
  keep(item, { epoch, seq, sent_at, expires_at, body = item.body }) {
    if (!this.#isKeeping || expires_at <= this.#serverNow()) return;
    const accepted = { epoch, store: this.#storeLife, seq, sent_at, expires_at };
    this.entries.delete(item.id);
    this.#put([{ ...item, body, accepted, state: "waiting", reason: null, not_before: 0, closes: 0 }]);
    this.#dropOldest();
  }

  /** The store has this own message. @param {string} room @param {string} epoch @param {Message} message */
  seen(room, epoch, { id, seq, sent_at, expires_at, body, reply_to = null }) {
    const entry = this.entries.get(id);
    if (entry?.room !== room) return;
    this.#change(entry, { body, reply_to, accepted: { epoch, store: this.#storeLife, seq, sent_at, expires_at } });
  }

  /**
   * A message was edited, extended or shortened. @param {string} room @param {string} epoch
   * @param {{seq: number, body?: string | null, expires_at?: number | null}} change
   */
  changed(room, epoch, { seq, body, expires_at }) {
    for (const entry of this.#at(room, epoch, (other) => other === seq))
      this.#change(entry, {
        body: body ?? entry.body,
        accepted: { ...entry.accepted, expires_at: expires_at ?? entry.accepted.expires_at },
      });
  }

  /** rows: [seq, delivered, read, total]. @param {string} room @param {string} epoch @param {number[][]} rows */
  delivered(room, epoch, rows) {
    this.ended(
      room,
      epoch,
      rows.filter(([, delivered, , total]) => isDelivered({ delivered, total })).map(([seq]) => seq),
    );
  }

  /** @param {string} room @param {string} epoch @param {number[]} seqs */
  ended(room, epoch, seqs) {
    const ended = new Set(seqs);
    this.#delete(this.#at(room, epoch, (seq) => ended.has(seq)));
  }

  /** The server reported the end of this message. @param {string} id */
  reported(id) {
    const entry = this.entries.get(id);
    if (entry) this.#delete([entry]);
  }

  /** @param {string} room */
  left(room) {
    this.#rooms.delete(room);
    this.#delete(this.#inRoom(room));
  }

  // ---- inside

  /** @param {string} room */
  #inRoom(room) {
    return [...this.entries.values()].filter((entry) => entry.room === room);
  }

  /** @param {string} room @param {string} epoch @param {(seq: number) => boolean} isMeant */
  #at(room, epoch, isMeant) {
    return this.#inRoom(room).filter(({ accepted }) => accepted.epoch === epoch && isMeant(accepted.seq));
  }

  /** @param {OwnMessage} entry @param {Partial<OwnMessage>} fields */
  #change(entry, fields) {
    const changed = { ...entry, ...fields };
    if (JSON.stringify(changed) !== JSON.stringify(entry)) this.#put([changed]);
  }

  /** If the device refuses to store them, they are lost when the page is closed. @param {OwnMessage[]} entries */
  #put(entries) {
    if (!entries.length) return;
    for (const entry of entries) this.entries.set(entry.id, entry);
    this.#store.put(...entries).catch(() => {});
    this.#deleteTexts();
  }

  /** @param {OwnMessage[]} entries */
  #delete(entries) {
    const ids = entries.map(({ id }) => id);
    for (const id of ids) this.entries.delete(id);
    this.#deleteStored(ids);
  }

  /** @param {string[]} ids */
  #deleteStored(ids) {
    if (ids.length) this.#store.delete(...ids).catch(() => {});
  }

  #dropOldest() {
    const entries = [...this.entries.values()];
    let characters = entries.reduce((sum, { body }) => sum + body.length, 0);
    let count = entries.length;
    const dropped = [];
    for (const entry of entries) {
      if (count <= MAX_ENTRIES && characters <= MAX_CHARACTERS) break;
      dropped.push(entry);
      count -= 1;
      characters -= entry.body.length;
    }
    this.#delete(dropped);
  }

  /** Delete the texts whose life has ended, now and at the next end. */
  #deleteTexts() {
    const now = this.#serverNow();
    const withText = [...this.entries.values()].filter(({ body }) => body);
    const ended = withText.filter(({ accepted }) => accepted.expires_at <= now);
    const next = Math.min(...withText.map(({ accepted }) => accepted.expires_at).filter((end) => end > now));
    this.#clock.clear(this.#timer);
    if (next < Infinity) this.#timer = this.#clock.set(() => this.#deleteTexts(), Math.min(next - now, MAX_TIMER_MS));
    if (ended.length) this.#put(ended.map((entry) => ({ ...entry, body: "" })));
  }
}
