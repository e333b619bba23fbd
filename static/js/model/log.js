/**
 * A room's log as this page holds it: every live message with floor < seq <= last.
 *
 * Only `last` is acknowledged, so it moves only where the contract guarantees that nothing lies between: to the next seq, to a
 * message whose `after` is at or below it, or by a `resumed` that begins at or below it. Anything else is a gap and needs a
 * `sync`; at most one is unanswered. Knows no socket and no DOM: each frame's method returns the changes on the page,
 * `nextSync` and `nextAck` return the next frame to send.
 */

/** @import { Frame, Message } from "./protocol.js" */

/**
 * The changes by one frame. reason: "expired", "deleted", "epoch" for another life of the log, or "moved": accepted again under
 * another seq, because the store lost it. left: the user is no longer a member.
 *
 * @typedef {{
 *   added: Message[], changed: Message[], removed: {message: Message, reason: string}[], reset: boolean, left: boolean,
 * }} LogChanges
 */

const MAX_HELD = 1000; // a `sync` brings the rest again

/** The late messages that one frame may name, so that it stays below 64 KiB. */
export const MAX_LATE = 500;

/** @returns {LogChanges} */
export const noChanges = () => ({ added: [], changed: [], removed: [], reset: false, left: false });

/** @param {number | undefined} user @param {string} id */
const nameOf = (user, id) => `${user}|${id}`;

export class RoomLog {
  epoch = "";
  last = 0;
  /** @type {number | null} */
  rev = null;
  floor = 0;
  /** @type {Map<number, Message>} */
  messages = new Map();
  /** @type {[from: number, to: number] | null} */
  doubt = null; // messages accepted in this period (epoch ms) may be missing, because the server lost data; from 0: all before
  /** @type {{before: number, late: Map<number, Partial<Message> | null>} | null} */
  paging = null;
  #now;
  /** @type {Map<number, Message>} */
  #held = new Map(); // messages above a gap
  #acked = 0;
  #ackAgain = false;
  /** @type {number[]} */
  #late = []; // the messages that arrived after their end, ascending
  /** @type {{since: number} | null} */
  #sync = null; // the unanswered one
  #needsSync = false;
  #cutAt = Infinity; // the last answer brought all changes up to here; `last` may have passed it in the meantime
  /** @type {Message[] | null} */
  #sorted = null;
  /** @type {Map<string, number>} */
  #seqs = new Map(); // sender and id -> seq

  /**
   * place: from the room object of `welcome` or `room`. now(): the server's time, epoch ms.
   *
   * @param {{room: string, place: {epoch: string, delivered: number, rev: number | null}, now: () => number}} parts
   */
  constructor({ room, place, now }) {
    this.room = room;
    this.#now = now;
    this.#start(place.epoch, place.delivered, place.rev);
    this.#sync = { since: this.last }; // `hello` or joining the room asked for it
  }

  /** Ascending by seq. */
  get list() {
    this.#sorted ??= [...this.messages.values()].sort((a, b) => a.seq - b.seq);
    return this.#sorted;
  }

  /** A message that is here, by its sender and id. @param {number | undefined} user @param {string} id */
  find(user, id) {
    return this.messages.get(this.#seqs.get(nameOf(user, id)) ?? 0);
  }

  get hasMore() {
    return this.floor > 0;
  }

  /** An unanswered `sync` may bring earlier messages. */
  get isCatchingUp() {
    return this.#sync !== null || this.#needsSync;
  }

  /**
   * The room's entry in `hello`, which is answered like a `sync` and counts as an acknowledgement: those of the lost connection
   * may be lost.
   */
  greet(maxLate = MAX_LATE) {
    this.#acked = 0;
    const { upto: since, late } = this.#acknowledge(Math.min(this.last, this.#cutAt), maxLate);
    this.#sync = { since };
    this.#needsSync = false;
    return { room: this.room, epoch: this.epoch, since, late, ...(this.rev === null ? {} : { rev: this.rev }) };
  }

  /** Frames that were sent over the lost connection get no answer. */
  disconnected() {
    this.#sync = null;
    this.#needsSync = false;
    this.#held.clear();
    this.paging = null;
  }

  /** A refused `sync` is sent again. */
  syncFailed() {
    this.#sync = null;
    this.#needsSync = true;
  }

  /** Read the log again from its beginning. */
  reread() {
    return this.#restart(this.epoch, noChanges());
  }

  nextSync() {
    if (!this.#needsSync || this.#sync) return null;
    const since = Math.min(this.last, this.#cutAt);
    this.#needsSync = false;
    this.#sync = { since };
    return { room: this.room, epoch: this.epoch, since, rev: this.rev };
  }

  nextAck(maxLate = MAX_LATE) {
    return this.owesAck ? this.ack(maxLate) : null;
  }

  /** An acknowledgement of everything that is held. With too many late messages it reaches only to the last one that it names. */
  ack(maxLate = MAX_LATE) {
    this.#ackAgain = false;
    const { upto: delivered, late } = this.#acknowledge(this.last, maxLate);
    return { room: this.room, epoch: this.epoch, delivered, late };
  }

  /**
   * The newest of the late messages that were named before are named again, because that acknowledgement may have been lost.
   *
   * @param {number} upto
   * @param {number} maxLate
   */
  #acknowledge(upto, maxLate) {
    const unnamed = this.#late.filter((seq) => seq > this.#acked && seq <= upto);
    if (unnamed.length > maxLate) upto = maxLate ? unnamed[maxLate - 1] : unnamed[0] - 1;
    const named = maxLate ? this.#late.filter((seq) => seq <= upto).slice(-maxLate) : [];
    this.#acked = upto;
    this.#late = [...named, ...this.#late.filter((seq) => seq > upto)];
    return { upto, late: named };
  }

  get owesAck() {
    return this.last > this.#acked || this.#ackAgain;
  }

  /** @param {Frame} frame */
  message(frame) {
    const changes = noChanges();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, changes);
    if (frame.seq <= this.last) {
      this.#ackAgain = true;
      return changes;
    }
    const message = /** @type {any} */ (frame);
    if (!this.#follows(message)) {
      if (this.#held.size < MAX_HELD) this.#held.set(message.seq, message);
      this.#needsSync = true;
      return changes;
    }
    this.#accept(message, changes);
    this.#acceptHeld(changes);
    return changes;
  }

  /** @param {Frame} frame */
  resumed(frame) {
    const changes = noChanges();
    const isAnswer = frame.changed !== undefined || !frame.ok;
    if (!frame.ok) return this.#refused(frame, changes);
    if (isAnswer) this.#sync = null;
    if (frame.doubt) this.doubt = frame.doubt;
    if (frame.epoch !== this.epoch || frame.from > this.last) {
      this.#needsSync = true;
      return changes;
    }
    const revBefore = this.rev;
    for (const [seq, reason] of frame.gone) this.#drop(seq, reason, changes);
    this.#compare(/** @type {any} */ (frame), changes);
    for (const message of frame.messages) if (message.seq > this.last) this.#accept(message, changes);
    this.last = Math.max(this.last, frame.upto);
    for (const message of frame.changed ?? []) this.#replace(message, changes);
    if (isAnswer) this.#forgetHeld(frame.top);
    if (isAnswer) this.rev = Math.max(this.rev ?? 0, frame.rev);
    this.#acceptHeld(changes);
    const moved = frame.upto > frame.from || this.rev !== revBefore;
    if (isAnswer) this.#cutAt = frame.more ? frame.upto : Infinity;
    if (isAnswer && frame.more && moved) this.#needsSync = true;
    return changes;
  }

  /** @param {Frame} frame */
  edited(frame) {
    const changes = noChanges();
    if (!this.#nextChange(frame)) return changes;
    this.#change(frame.seq, { body: frame.body, edited_at: frame.edited_at, expires_at: frame.expires_at }, changes);
    return changes;
  }

  /** @param {Frame} frame */
  deleted(frame) {
    const changes = noChanges();
    if (this.#nextChange(frame)) this.#drop(frame.seq, "deleted", changes);
    return changes;
  }

  /** @param {Frame} frame */
  expired(frame) {
    const changes = noChanges();
    if (frame.epoch !== this.epoch) return changes;
    for (const seq of frame.seqs) this.#drop(seq, "expired", changes);
    return changes;
  }

  /** @param {Frame} frame */
  position(frame) {
    const changes = noChanges();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, changes);
    if (frame.top > this.last || frame.rev > (this.rev ?? 0)) this.#needsSync = true;
    return changes;
  }

  /** Ask for the page below `floor`; null while one is unanswered or nothing is left. @param {number} limit */
  nextPage(limit) {
    if (this.paging || !this.hasMore) return null;
    this.paging = { before: this.floor + 1, late: new Map() };
    return { room: this.room, before: this.paging.before, limit };
  }

  pageFailed() {
    this.paging = null;
  }

  /** @param {Frame} frame */
  history(frame) {
    const changes = noChanges();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, changes);
    if (this.paging?.before !== frame.before) return changes;
    const late = this.paging?.late ?? new Map();
    this.paging = null;
    for (const message of frame.messages) {
      const change = late.get(message.seq);
      if (message.seq <= this.floor && change !== null) this.#insert({ ...message, ...change }, changes);
    }
    const lowest = frame.messages[0]?.seq;
    this.floor = frame.more && lowest !== undefined ? lowest - 1 : 0;
    return changes;
  }

  /** Remove the messages whose own `expires_at` has passed. @param {number} nowMs */
  expireUntil(nowMs) {
    const changes = noChanges();
    for (const message of this.list) if (message.expires_at <= nowMs) this.#drop(message.seq, "expired", changes);
    return changes;
  }

  /** Keep the newest `count` messages; paging back brings the others again. @param {number} count */
  trim(count) {
    const extra = this.list.slice(0, Math.max(0, this.list.length - count));
    for (const message of extra) this.#remove(message);
    if (!extra.length) return extra;
    this.floor = extra[extra.length - 1].seq;
    this.paging = null; // its page would leave a hole below the new floor
    this.#sorted = null;
    return extra;
  }

  /** @param {string} epoch @param {number} last @param {number | null} rev */
  #start(epoch, last, rev) {
    this.epoch = epoch;
    this.last = last;
    this.rev = rev;
    this.floor = last;
    this.#acked = last;
    this.#ackAgain = false;
    this.#late = [];
    this.#held.clear();
    this.messages.clear();
    this.#seqs.clear();
    this.#sorted = null;
    this.#sync = null;
    this.#cutAt = rev === null ? 0 : Infinity;
    this.paging = null;
  }

  /**
   * The log has a new epoch: the messages of the old one are not part of it.
   *
   * @param {string} epoch
   * @param {LogChanges} changes
   */
  #restart(epoch, changes) {
    changes.removed = this.list.map((message) => ({ message, reason: "epoch" }));
    this.#start(epoch, 0, null);
    this.#needsSync = true;
    changes.reset = true;
    return changes;
  }

  /** @param {Frame} frame @param {LogChanges} changes */
  #refused(frame, changes) {
    if (frame.why === "not_member") {
      this.#sync = null;
      changes.left = true;
      return changes;
    }
    // The answer to a request from before a restart does not concern the new epoch.
    if (!this.#sync || frame.from !== this.#sync.since) return changes;
    return this.#restart(frame.epoch, changes);
  }

  /** @param {Message} message */
  #follows({ seq, after }) {
    return seq === this.last + 1 || (after !== undefined && after !== null && after <= this.last);
  }

  /** @param {Message} message @param {LogChanges} changes */
  #accept(message, changes) {
    this.last = message.seq;
    this.#held.delete(message.seq);
    if (message.expires_at <= this.#now()) this.#late.push(message.seq);
    this.#insert(message, changes);
  }

  /** @param {LogChanges} changes */
  #acceptHeld(changes) {
    for (const [seq, message] of [...this.#held].sort(([a], [b]) => a - b)) {
      if (seq <= this.last) this.#held.delete(seq);
      else if (this.#follows(message)) this.#accept(message, changes);
      else this.#needsSync = true;
    }
  }

  /**
   * A message that came while the answer was under way may be in an older state than the answer, and the answer's `rev` is
   * about to be taken over. So the range of the answer is made equal to the answer.
   *
   * @param {{from: number, upto: number, messages: Message[]}} answer
   * @param {LogChanges} changes
   */
  #compare({ from, upto, messages }, changes) {
    const read = new Map(messages.map((message) => [message.seq, message]));
    for (const { seq, expires_at } of this.list.filter((message) => message.seq > from && message.seq <= upto)) {
      const message = read.get(seq);
      if (message) this.#replace(message, changes);
      else this.#drop(seq, expires_at <= this.#now() ? "expired" : "deleted", changes);
    }
  }

  /** Held from before the answer and not part of it: the next `sync` brings it in its new state. @param {number} top */
  #forgetHeld(top) {
    for (const seq of this.#held.keys()) if (seq <= top) this.#held.delete(seq);
  }

  /** @param {Message} message @param {LogChanges} changes */
  #insert(message, changes) {
    if (message.expires_at <= this.#now()) return;
    const former = message.unshowable ? undefined : this.find(message.from?.id, message.id);
    if (former && former.seq > message.seq) return;
    if (former && former.seq < message.seq) this.#drop(former.seq, "moved", changes);
    this.messages.set(message.seq, message);
    this.#seqs.set(nameOf(message.from?.id, message.id), message.seq);
    this.#sorted = null;
    changes.added.push(message);
  }

  /** @param {Message} message */
  #remove(message) {
    this.messages.delete(message.seq);
    if (this.find(message.from?.id, message.id) === undefined) this.#seqs.delete(nameOf(message.from?.id, message.id));
  }

  /** @param {Frame} frame */
  #nextChange({ epoch, rev }) {
    if (epoch !== this.epoch || this.rev === null || rev > this.rev + 1) {
      this.#needsSync = true;
      return false;
    }
    if (rev <= this.rev) return false;
    this.rev = rev;
    return true;
  }

  /** @param {Message} message @param {LogChanges} changes */
  #replace(message, changes) {
    const held = this.messages.get(message.seq);
    if (held && (held.edited_at ?? 0) <= (message.edited_at ?? 0)) this.#change(message.seq, message, changes);
    else if (!held && message.seq > this.floor) this.#insert(message, changes);
  }

  /** @param {number} seq @param {Partial<Message>} fields @param {LogChanges} changes */
  #change(seq, fields, changes) {
    const values = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));
    if (this.paging && this.paging.late.get(seq) !== null) this.paging.late.set(seq, { ...this.paging.late.get(seq), ...values });
    const home = this.messages.has(seq) ? this.messages : this.#held;
    const old = home.get(seq);
    if (!old) return;
    const message = { ...old, ...values };
    home.set(seq, message);
    this.#sorted = null;
    if (home === this.messages) changes.changed.push(message);
  }

  /** @param {number} seq @param {string} reason @param {LogChanges} changes */
  #drop(seq, reason, changes) {
    if (reason === "not_for_you") return;
    this.paging?.late.set(seq, null);
    const held = this.#held.get(seq);
    if (held) this.#held.set(seq, { ...held, expires_at: 0 }); // still moves `last`
    const message = this.messages.get(seq);
    if (!message) return;
    this.#remove(message);
    this.#sorted = null;
    changes.removed.push({ message, reason });
  }
}
