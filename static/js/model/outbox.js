/**
 * This user's messages that the server has not accepted yet, or that its store may have lost. A message waits here from the key press until
 * `sent`; then the own log (own-log.js) keeps it, and offers it again here if the store may have lost it.
 *
 *   1. add      shown at once, then written to the device, then sent
 *   2. pump     the first message of each room is sent, one unanswered per room, so a room keeps its order
 *   3. sent     the server has accepted it: deleted from the device
 *   4. delayed  a retryable error: sent again with the same id after the server's wait, in the room's order
 *   5. failed   a final error, a message that is too big or too old to be sent without asking, or the connection closed three
 *               times in a row while it was in flight. The user can retry, edit or delete it; later messages do not wait for it.
 *   6. offered  lost by the store: sent again with the same id, before the room's other messages, for the rest of its life. If that is
 *               too short, or the id too old, the message is in doubt: it fails, and a retry has a new id.
 *
 * All tabs write to the same device store; only the tab that holds the browser's lock sends (`device/tabs.js`). If the device cannot store a
 * message that was written in the sending tab, it is sent from memory. In any other tab it is not added. Knows no socket and no DOM.
 */
import { CLOSE } from "./protocol.js";

/** @import { Clock, Frame } from "./protocol.js" */
/** @import { OwnLog } from "./own-log.js" */

/**
 * A message in the outbox, as it is stored on the device. ttl: its own lifetime in seconds, null for the room's. life_s: the
 * lifetime it will have. order: higher for each later message. not_before: epoch ms. closes: how often the connection closed in a row while it was in flight.
 * accepted: of a message that the store may have lost: where and when it was accepted, and the life of the store.
 *
 * @typedef {{epoch: string, store: string, seq: number, sent_at: number, expires_at: number}} Acceptance
 * @typedef {{
 *   id: string, room: string, body: string, ttl: number | null, reply_to: number | null, life_s: number, created_at: number,
 *   order: number, state: "waiting" | "failed", reason: string | null, not_before: number, closes: number,
 *   accepted?: Acceptance | null,
 * }} OutboxItem
 * @typedef {{room: string, body: string, ttl: number | null, reply_to: number | null, life_s: number}} NewMessage
 * @typedef {{id_s: number, ttl_min: number, ttl_max: number}} SendLimits
 * @typedef {{
 *   all: () => Promise<OutboxItem[]>, put: (...items: OutboxItem[]) => Promise<void>, delete: (...ids: string[]) => Promise<void>,
 * }} OutboxStore
 */

const MAX_CLOSES = 3;
const RETRY_MS = 1000;
const JITTER = 0.25; // at most this share of the wait is added, because many pages get the same wait
const DEVICE_TIMEOUT_MS = 5000; // a device that does not answer delays a message by at most this time
const OWN_REASONS = Object.freeze({
  OLD: "too_old",
  STUCK: "cannot_be_sent",
  BIG: "body_too_long",
  IN_DOUBT: "in_doubt",
  ENDED: "ended_in_doubt", // its text was deleted at the end of its life
});

const NEW_ID_REASONS = [OWN_REASONS.OLD, OWN_REASONS.IN_DOUBT, "id_reused"];

/** @param {OutboxItem} a @param {OutboxItem} b */
function byOrder(a, b) {
  if (a.accepted && b.accepted) return a.accepted.sent_at - b.accepted.sent_at || a.accepted.seq - b.accepted.seq;
  return Number(Boolean(b.accepted)) - Number(Boolean(a.accepted)) || a.order - b.order;
}

export class Outbox {
  /** @type {Map<string, OutboxItem>} */
  items = new Map();
  #store;
  #transmit;
  #clock;
  #serverNow;
  #random;
  #newId;
  #ownLog;
  #on;
  /** @type {SendLimits | null} */
  #limits = null;
  #isSender = false;
  /** @type {Map<string, string>} */
  #inFlight = new Map(); // room -> id
  /** @type {any} */
  #timer = null;
  /** @type {Set<string>} */
  #beingStored = new Set(); // ids that a reload must not remove
  /** @type {Set<string>} */
  #heldBack = new Set(); // ids of new messages that wait for the device before they are sent

  /**
   * clock: of this machine. serverNow(): the server's time, epoch ms.
   *
   * @param {{
   *   store: OutboxStore,
   *   transmit: (item: OutboxItem) => "sent" | "offline" | "too_big",
   *   clock: Clock,
   *   serverNow: () => number,
   *   random?: () => number,
   *   newId: () => string,
   *   ownLog: Pick<OwnLog, "holdsBack" | "epochOf">,
   *   on: {changed: (room: string) => void, settled: (item: OutboxItem, sent: Frame) => void},
   * }} parts
   */
  constructor({ store, transmit, clock, serverNow, random = Math.random, newId, ownLog, on }) {
    this.#store = store;
    this.#transmit = transmit;
    this.#clock = clock;
    this.#serverNow = serverNow;
    this.#random = random;
    this.#newId = newId;
    this.#ownLog = ownLog;
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
    for (const id of this.items.keys()) if (!kept.has(id) && !this.#beingStored.has(id)) this.#forget(id);
    for (const [id, item] of kept) this.items.set(id, { ...item });
    for (const room of new Set([...rooms, ...this.#rooms()])) this.#on.changed(room);
    this.pump();
  }

  /** Those that were accepted before, in that order, then the others in the order in which they were written. @param {string} room */
  inRoom(room) {
    return [...this.items.values()].filter((item) => item.room === room).sort(byOrder);
  }

  get failed() {
    return [...this.items.values()].filter((item) => item.state === "failed");
  }

  /** @param {string} id */
  isInFlight(id) {
    return [...this.#inFlight.values()].includes(id);
  }

  /**
   * Resolves when the device has stored the message, or the sending tab keeps it in memory. Rejects if it was not added.
   *
   * @param {NewMessage} message
   * @returns {Promise<OutboxItem>}
   */
  async add({ room, body, ttl, reply_to, life_s }) {
    const now = this.#clock.now();
    const order = Math.max(now, ...[...this.items.values()].map((item) => item.order + 1));
    /** @type {OutboxItem} */
    const item = {
      id: this.#newId(),
      room,
      body,
      ttl,
      reply_to,
      life_s,
      created_at: now,
      order,
      state: "waiting",
      reason: null,
      not_before: 0,
      closes: 0,
    };
    this.items.set(item.id, item);
    this.#on.changed(room);
    await this.#putBeforeSending(item);
    return item;
  }

  /** Only the tab that holds the lock sends. */
  becomeSender() {
    this.#isSender = true;
    this.pump();
  }

  /** @param {SendLimits} limits */
  connected(limits) {
    this.#limits = limits;
    this.pump();
  }

  /**
   * It is unknown whether the messages in flight were accepted. They are sent again with the same id, or fail after three closes in a row
   * or a `TOO_BIG` close.
   *
   * @param {number} code  of the close
   */
  disconnected(code) {
    this./** @type {SendLimits | null} */ #limits = null;
    const inDoubt = [...this.#inFlight.values()].map((id) => this.items.get(id)).filter((item) => item !== undefined);
    this.#inFlight.clear();
    for (const item of inDoubt) {
      item.closes += 1;
      if (code === CLOSE.TOO_BIG || item.closes >= MAX_CLOSES) this.#fail(item, OWN_REASONS.STUCK);
      else this.#save(item);
    }
  }

  /**
   * Offer messages again that the store has lost. Resolves when the device has stored them, rejects if it refuses; they are sent in any case.
   *
   * @param {OutboxItem[]} lost
   */
  async offer(lost) {
    const added = lost.filter(({ id }) => !this.items.has(id));
    for (const item of added) this.items.set(item.id, item);
    const stored = added.length ? this.#put(...added) : null;
    for (const room of new Set(added.map((item) => item.room))) this.#on.changed(room);
    this.pump();
    await stored;
  }

  /** @param {Frame} frame */
  sent(frame) {
    const item = this.items.get(frame.id);
    if (!item || item.room !== frame.room) return;
    // The store knows the id, but the log in which it was accepted is lost.
    if (frame.duplicate && item.accepted && frame.epoch !== this.#ownLog.epochOf(item.room)) return this.#leaveInDoubt(item);
    this.#forget(item.id);
    // In another tab `sent` may be under way, and its own log needs the message.
    if (this.#isSender) this.#store.delete(item.id);
    this.#on.settled(item, frame);
    this.#on.changed(item.room);
    this.pump();
  }

  /** Handle an `error` for one of these messages; false when it is for none of them. @param {Frame} frame */
  refused(frame) {
    const item = this.items.get(frame.id);
    if (!item) return false;
    if (item.accepted && frame.code === "id_reused") {
      this.#known(item, item.accepted);
      return true;
    }
    this.#release(item);
    if (frame.retryable) this.#delay(item, frame);
    else this.#fail(item, frame.code);
    this.pump();
    return true;
  }

  /** The server reported the end of this message. @param {string} id */
  reported(id) {
    if (this.items.get(id)?.accepted) this.discard(id);
  }

  /**
   * The user retries. A message that is too old or in doubt, or whose id the server refused as used (`id_reused`), gets a new id.
   *
   * @param {string} id
   */
  async retry(id) {
    const item = this.items.get(id);
    if (item?.state !== "failed" || item.reason === OWN_REASONS.ENDED) return;
    const needsNewId = NEW_ID_REASONS.includes(item.reason ?? "") || this.#tooOld(item, this.#clock.now());
    /** @type {OutboxItem} */
    const again = { ...item, state: "waiting", reason: null, not_before: 0, closes: 0 };
    if (needsNewId) Object.assign(again, { id: this.#newId(), created_at: this.#clock.now(), accepted: null });
    if (needsNewId) this.items.delete(id);
    this.items.set(again.id, again);
    this.#on.changed(item.room);
    await this.#putBeforeSending(again);
    if (needsNewId) await this.#store.delete(id);
  }

  /** @param {string} id */
  async discard(id) {
    const item = this.items.get(id);
    if (!item) return;
    this.#forget(id);
    this.#on.changed(item.room);
    await this.#store.delete(id);
    this.pump();
  }

  pump() {
    if (!this.#isSender || !this.#limits) return;
    let soonest = Infinity;
    for (const room of this.#rooms()) soonest = Math.min(soonest, this.#pumpRoom(room));
    this.#clock.clear(this.#timer);
    if (soonest < Infinity) this.#timer = this.#clock.set(() => this.pump(), Math.max(0, soonest - this.#clock.now()));
  }

  /** Send the room's first message; return when to try again, epoch ms. @param {string} room */
  #pumpRoom(room) {
    if (this.#inFlight.has(room)) return Infinity;
    const now = this.#clock.now();
    const items = this.inRoom(room);
    if (this.#ownLog.holdsBack(room, Boolean(items[0]?.accepted))) return Infinity;
    for (const item of items) {
      if (item.state !== "waiting") continue;
      if (this.#heldBack.has(item.id)) return Infinity;
      if (item.not_before > now) return item.not_before;
      if (this.#tooOld(item, now)) {
        this.#fail(item, this.#reasonOfOld(item));
        continue;
      }
      const outcome = this.#transmit(item.accepted ? { ...item, ttl: this.#restOfLifeS(item.accepted) } : item);
      if (outcome === "offline") return Infinity;
      if (outcome === "too_big") {
        this.#fail(item, OWN_REASONS.BIG);
        continue;
      }
      this.#inFlight.set(room, item.id);
      return Infinity;
    }
    return Infinity;
  }

  /** @param {OutboxItem} item @param {number} now */
  #tooOld(item, now) {
    const ageS = (now - item.created_at) / 1000;
    if (ageS > (this.#limits?.id_s ?? Infinity)) return true;
    if (!item.accepted) return ageS > (item.life_s ?? Infinity);
    return this.#restOfLifeS(item.accepted) < (this.#limits?.ttl_min ?? 1);
  }

  /** @param {Acceptance} accepted */
  #restOfLifeS({ expires_at }) {
    return Math.min(Math.floor((expires_at - this.#serverNow()) / 1000), this.#limits?.ttl_max ?? Infinity);
  }

  /** @param {OutboxItem} item */
  #reasonOfOld({ accepted, body }) {
    if (!accepted) return OWN_REASONS.OLD;
    return body ? OWN_REASONS.IN_DOUBT : OWN_REASONS.ENDED;
  }

  /**
   * The store refuses to take an accepted message again, because it knows the id with another text, from before an edit.
   *
   * @param {OutboxItem} item
   * @param {Acceptance} accepted
   */
  #known(item, accepted) {
    if (accepted.epoch !== this.#ownLog.epochOf(item.room)) return this.#leaveInDoubt(item);
    this.sent({ type: "sent", id: item.id, room: item.room, ...accepted });
  }

  /** @param {OutboxItem} item */
  #leaveInDoubt(item) {
    this.#release(item);
    this.#fail(item, OWN_REASONS.IN_DOUBT);
    this.pump();
  }

  /** @param {OutboxItem} item @param {Frame} refusal */
  #delay(item, { code, retry_after_ms }) {
    const wait = (retry_after_ms ?? RETRY_MS) * (1 + JITTER * this.#random());
    item.reason = code;
    item.closes = 0;
    item.not_before = this.#clock.now() + wait;
    this.#save(item);
  }

  /** @param {OutboxItem} item @param {string} reason */
  #fail(item, reason) {
    item.state = "failed";
    item.reason = reason;
    this.#save(item);
  }

  /** @param {OutboxItem} item */
  #save(item) {
    this.#put(item);
    this.#on.changed(item.room);
  }

  /** Store a message before it is sent. Rejects if the device refuses it and this tab does not send. @param {OutboxItem} item */
  async #putBeforeSending(item) {
    const release = () => {
      this.#clock.clear(timer);
      this.#heldBack.delete(item.id);
      this.pump();
    };
    const timer = this.#clock.set(release, DEVICE_TIMEOUT_MS);
    this.#heldBack.add(item.id);
    try {
      await this.#put(item);
    } catch (error) {
      if (!this.#isSender) {
        // The sending tab reads only the device, so it would never see this message.
        this.#beingStored.delete(item.id);
        await this.reload();
        throw error;
      }
    } finally {
      release();
    }
  }

  /** @param {OutboxItem[]} items */
  async #put(...items) {
    for (const { id } of items) this.#beingStored.add(id);
    await this.#store.put(...items.map((item) => ({ ...item })));
    for (const { id } of items) this.#beingStored.delete(id);
  }

  /** Let the room's next message be sent. @param {OutboxItem} item */
  #release(item) {
    if (this.#inFlight.get(item.room) === item.id) this.#inFlight.delete(item.room);
  }

  /** @param {string} id */
  #forget(id) {
    const item = this.items.get(id);
    this.items.delete(id);
    if (item) this.#release(item);
  }

  #rooms() {
    return [...new Set([...this.items.values()].map((item) => item.room))];
  }
}
