/**
 * Messages of this user that the server has not accepted yet. One waits here from the key stroke until `sent`.
 *
 *   1. add      written to the device first, then shown, then sent
 *   2. pump     the first of each room goes out, one unanswered send a room, so a room's order survives any failure
 *   3. settled  `sent`, or the message itself comes back: gone from the device
 *   4. delayed  a retryable error: the same id again after the server's wait, in the room's order
 *   5. failed   a final error, too old to repeat unasked, or in flight at three closes in a row: set aside for its
 *               user to retry, edit or delete; it no longer holds up the room
 *
 * All tabs write to the same device store; the one that holds the lock sends. Knows no socket and no DOM.
 */
import { CLOSE } from "./protocol.js";

const CLOSES_MOST = 3;
const RETRY_MS = 1000;
const JITTER = 0.25; // of the wait, on top: many pages were told the same moment
const OWN_REASONS = Object.freeze({ OLD: "too_old", STUCK: "cannot_be_sent", BIG: "body_too_long" });

export class Outbox {
  items = new Map();
  #store;
  #transmit;
  #clock;
  #random;
  #new_id;
  #on;
  #limits = null;
  #sends = false;
  #in_flight = new Map(); // room -> id
  #timer = null;
  #being_stored = new Set(); // ids that another tab's word must not take away

  /**
   * store: {all, put, delete} async. transmit(item): "sent", "offline" or "too_big". clock: {now, set, clear}.
   * on: {changed(room), settled(item, sent)}.
   */
  constructor({ store, transmit, clock, random = Math.random, newId, on }) {
    this.#store = store;
    this.#transmit = transmit;
    this.#clock = clock;
    this.#random = random;
    this.#new_id = newId;
    this.#on = on;
  }

  async load() {
    for (const item of await this.#store.all()) if (!this.items.has(item.id)) this.items.set(item.id, item);
    for (const room of this.#rooms()) this.#on.changed(room);
    this.pump();
  }

  /** Another tab wrote to the device store. */
  async reload() {
    const rooms = new Set(this.#rooms());
    const kept = new Map((await this.#store.all()).map((item) => [item.id, item]));
    for (const id of this.items.keys()) if (!kept.has(id) && !this.#being_stored.has(id)) this.#forget(id);
    for (const [id, item] of kept) this.items.set(id, { ...item });
    for (const room of new Set([...rooms, ...this.#rooms()])) this.#on.changed(room);
    this.pump();
  }

  /** Ascending by the order in which they were written. */
  inRoom(room) {
    return [...this.items.values()].filter((item) => item.room === room).sort((a, b) => a.order - b.order);
  }

  get failed() {
    return [...this.items.values()].filter((item) => item.state === "failed");
  }

  isInFlight(id) {
    return [...this.#in_flight.values()].includes(id);
  }

  /** life_s: the lifetime it will have, its own or the room's. Resolves when the device holds it. */
  async add({ room, body, ttl, reply_to, life_s }) {
    const now = this.#clock.now();
    const order = Math.max(now, ...[...this.items.values()].map((item) => item.order + 1));
    const item = { id: this.#new_id(), room, body, ttl, reply_to, life_s, created_at: now, order, state: "waiting", reason: null, not_before: 0, closes: 0 };
    this.items.set(item.id, item);
    this.#on.changed(room);
    await this.#put(item);
    this.pump();
    return item;
  }

  /** Only the tab that holds the lock sends. */
  lead() {
    this.#sends = true;
    this.pump();
  }

  connected(limits) {
    this.#limits = limits;
    this.pump();
  }

  /** code: of the close. What was in flight is in doubt, and goes again under its own id. */
  disconnected(code) {
    this.#limits = null;
    const flying = [...this.#in_flight.values()].map((id) => this.items.get(id)).filter(Boolean);
    this.#in_flight.clear();
    for (const item of flying) {
      item.closes += 1;
      if (code === CLOSE.TOO_BIG || item.closes >= CLOSES_MOST) this.#fail(item, OWN_REASONS.STUCK);
      else this.#save(item);
    }
  }

  sent(frame) {
    const item = this.items.get(frame.id);
    if (!item || item.room !== frame.room) return;
    this.#forget(item.id);
    this.#store.delete(item.id);
    this.#on.settled(item, frame);
    this.#on.changed(item.room);
    this.pump();
  }

  /** An `error` that names one of ours; false when it is not about the outbox. */
  refused(frame) {
    const item = this.items.get(frame.id);
    if (!item) return false;
    this.#land(item);
    if (frame.retryable) this.#delay(item, frame);
    else this.#fail(item, frame.code);
    this.pump();
    return true;
  }

  /** The user says yes. What may be stored already under an old id, and what is too old, gets a new one. */
  async retry(id) {
    const item = this.items.get(id);
    if (item?.state !== "failed") return;
    const anew = [OWN_REASONS.OLD, "id_reused"].includes(item.reason) || this.#tooOld(item, this.#clock.now());
    const again = { ...item, state: "waiting", reason: null, not_before: 0, closes: 0 };
    if (anew) Object.assign(again, { id: this.#new_id(), created_at: this.#clock.now() });
    if (anew) this.items.delete(id);
    this.items.set(again.id, again);
    this.#on.changed(item.room);
    await this.#put(again);
    if (anew) await this.#store.delete(id);
    this.pump();
  }

  async discard(id) {
    const item = this.items.get(id);
    if (!item) return;
    this.#forget(id);
    this.#on.changed(item.room);
    await this.#store.delete(id);
    this.pump();
  }

  pump() {
    if (!this.#sends || !this.#limits) return;
    let soonest = Infinity;
    for (const room of this.#rooms()) soonest = Math.min(soonest, this.#pumpRoom(room));
    this.#clock.clear(this.#timer);
    if (soonest < Infinity) this.#timer = this.#clock.set(() => this.pump(), Math.max(0, soonest - this.#clock.now()));
  }

  /** Send the room's first; return when to look again. */
  #pumpRoom(room) {
    if (this.#in_flight.has(room)) return Infinity;
    const now = this.#clock.now();
    for (const item of this.inRoom(room)) {
      if (item.state !== "waiting") continue;
      if (item.not_before > now) return item.not_before;
      if (this.#tooOld(item, now)) {
        this.#fail(item, OWN_REASONS.OLD);
        continue;
      }
      const outcome = this.#transmit(item);
      if (outcome === "offline") return Infinity;
      if (outcome === "too_big") {
        this.#fail(item, OWN_REASONS.BIG);
        continue;
      }
      this.#in_flight.set(room, item.id);
      return Infinity;
    }
    return Infinity;
  }

  #tooOld(item, now) {
    const age_s = (now - item.created_at) / 1000;
    return age_s > Math.min(this.#limits?.id_s ?? Infinity, item.life_s ?? Infinity);
  }

  #delay(item, { code, retry_after_ms }) {
    const wait = (retry_after_ms ?? RETRY_MS) * (1 + JITTER * this.#random());
    item.reason = code;
    item.closes = 0;
    item.not_before = this.#clock.now() + wait;
    this.#save(item);
  }

  #fail(item, reason) {
    item.state = "failed";
    item.reason = reason;
    this.#save(item);
  }

  #save(item) {
    this.#put(item);
    this.#on.changed(item.room);
  }

  async #put(item) {
    this.#being_stored.add(item.id);
    await this.#store.put({ ...item });
    this.#being_stored.delete(item.id);
  }

  #land(item) {
    if (this.#in_flight.get(item.room) === item.id) this.#in_flight.delete(item.room);
  }

  #forget(id) {
    const item = this.items.get(id);
    this.items.delete(id);
    if (item) this.#land(item);
  }

  #rooms() {
    return [...new Set([...this.items.values()].map((item) => item.room))];
  }
}
