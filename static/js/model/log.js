/**
 * A room's log as this page holds it: every live message with floor < seq <= last.
 *
 * `last` is the only thing that is acknowledged, so it moves only where the contract says nothing lies between:
 * the next seq, a message whose `after` is at or below it, or a `resumed` that begins at or below it. Anything else is a
 * gap and asks for a `sync`; one is under way at a time. Knows no socket and no DOM: each taker returns what changed on
 * the page, `nextSync` and `nextAck` say what is to be sent.
 */

const HELD_MOST = 1000; // a `sync` brings them again, so the rest need no place
const nothing = () => ({ added: [], changed: [], removed: [], reset: false, left: false });

export class RoomLog {
  epoch;
  last;
  rev;
  floor;
  messages = new Map();
  paging = null;
  #now;
  #held = new Map();
  #acked;
  #ack_again = false;
  #sync = null; // {since} of the one under way
  #wanted = false;
  #cut_at = Infinity; // up to here the last answer told all changes; `last` may have passed it meanwhile
  #sorted = null;

  /** place: {epoch, delivered, rev} of the room object in `welcome` or `room`. */
  constructor({ room, place, now }) {
    this.room = room;
    this.#now = now;
    this.#start(place.epoch, place.delivered, place.rev);
    this.#sync = { since: this.last }; // `hello` or the joining asked for it
  }

  /** Ascending by seq. */
  get list() {
    this.#sorted ??= [...this.messages.values()].sort((a, b) => a.seq - b.seq);
    return this.#sorted;
  }

  get hasMore() {
    return this.floor > 0;
  }

  /** An answer is under way that may bring what came before. */
  get isCatchingUp() {
    return this.#sync !== null || this.#wanted;
  }

  /** The entry of `hello`, which is answered like a `sync` and counts as an acknowledgement. */
  greet() {
    const since = Math.min(this.last, this.#cut_at);
    this.#sync = { since };
    this.#wanted = false;
    this.#acked = since;
    return { room: this.room, epoch: this.epoch, since, ...(this.rev === null ? {} : { rev: this.rev }) };
  }

  /** Nothing asked over the lost connection will be answered. */
  disconnected() {
    this.#sync = null;
    this.#wanted = false;
    this.#held.clear();
    this.paging = null;
  }

  /** A refused `sync` is asked again. */
  syncFailed() {
    this.#sync = null;
    this.#wanted = true;
  }

  nextSync() {
    if (!this.#wanted || this.#sync) return null;
    const since = Math.min(this.last, this.#cut_at);
    this.#wanted = false;
    this.#sync = { since };
    return { room: this.room, epoch: this.epoch, since, rev: this.rev };
  }

  nextAck() {
    if (this.last <= this.#acked && !this.#ack_again) return null;
    this.#acked = this.last;
    this.#ack_again = false;
    return { room: this.room, epoch: this.epoch, delivered: this.last };
  }

  get owesAck() {
    return this.last > this.#acked || this.#ack_again;
  }

  message(frame) {
    const out = nothing();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, out);
    if (frame.seq <= this.last) {
      this.#ack_again = true;
      return out;
    }
    if (!this.#follows(frame)) {
      if (this.#held.size < HELD_MOST) this.#held.set(frame.seq, frame);
      this.#wanted = true;
      return out;
    }
    this.#accept(frame, out);
    this.#acceptHeld(out);
    return out;
  }

  resumed(frame) {
    const out = nothing();
    const answer = frame.changed !== undefined || !frame.ok;
    if (!frame.ok) return this.#refused(frame, out);
    if (answer) this.#sync = null;
    if (frame.epoch !== this.epoch || frame.from > this.last) {
      this.#wanted = true;
      return out;
    }
    const rev_before = this.rev;
    for (const [seq, reason] of frame.gone) this.#drop(seq, reason, out);
    this.#compare(frame, out);
    for (const message of frame.messages) if (message.seq > this.last) this.#accept(message, out);
    this.last = Math.max(this.last, frame.upto);
    for (const message of frame.changed ?? []) this.#replace(message, out);
    if (answer) this.#forgetHeld(frame.top);
    if (answer) this.rev = Math.max(this.rev ?? 0, frame.rev);
    this.#acceptHeld(out);
    const moved = frame.upto > frame.from || this.rev !== rev_before;
    if (answer) this.#cut_at = frame.more ? frame.upto : Infinity;
    if (answer && frame.more && moved) this.#wanted = true;
    return out;
  }

  edited(frame) {
    const out = nothing();
    if (!this.#nextChange(frame)) return out;
    this.#change(frame.seq, { body: frame.body, edited_at: frame.edited_at, expires_at: frame.expires_at }, out);
    return out;
  }

  deleted(frame) {
    const out = nothing();
    if (this.#nextChange(frame)) this.#drop(frame.seq, "deleted", out);
    return out;
  }

  expired(frame) {
    const out = nothing();
    if (frame.epoch !== this.epoch) return out;
    for (const seq of frame.seqs) this.#drop(seq, "expired", out);
    return out;
  }

  position(frame) {
    const out = nothing();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, out);
    if (frame.top > this.last || frame.rev > (this.rev ?? 0)) this.#wanted = true;
    return out;
  }

  /** Ask for the page below `floor`; null while one is under way or nothing is left. */
  nextPage(limit) {
    if (this.paging || !this.hasMore) return null;
    this.paging = { before: this.floor + 1, late: new Map() };
    return { room: this.room, before: this.paging.before, limit };
  }

  pageFailed() {
    this.paging = null;
  }

  history(frame) {
    const out = nothing();
    if (frame.epoch !== this.epoch) return this.#restart(frame.epoch, out);
    if (this.paging?.before !== frame.before) return out;
    const late = this.paging.late;
    this.paging = null;
    for (const message of frame.messages) {
      const change = late.get(message.seq);
      if (message.seq <= this.floor && change !== null) this.#insert({ ...message, ...change }, out);
    }
    const lowest = frame.messages[0]?.seq;
    this.floor = frame.more && lowest !== undefined ? lowest - 1 : 0;
    return out;
  }

  /** Take off the page what its own `expires_at` has ended. */
  expireUntil(now_ms) {
    const out = nothing();
    for (const message of this.list) if (message.expires_at <= now_ms) this.#drop(message.seq, "expired", out);
    return out;
  }

  /** Let the oldest go; paging back brings them again. */
  trim(most) {
    const extra = this.list.slice(0, Math.max(0, this.list.length - most));
    for (const message of extra) this.messages.delete(message.seq);
    if (!extra.length) return extra;
    this.floor = extra.at(-1).seq;
    this.paging = null; // its page would leave a hole below the new floor
    this.#sorted = null;
    return extra;
  }

  #start(epoch, last, rev) {
    this.epoch = epoch;
    this.last = last;
    this.rev = rev;
    this.floor = last;
    this.#acked = last;
    this.#ack_again = false;
    this.#held.clear();
    this.messages.clear();
    this.#sorted = null;
    this.#sync = null;
    this.#cut_at = rev === null ? 0 : Infinity;
    this.paging = null;
  }

  /** Another life of the log: what is held means nothing in it. */
  #restart(epoch, out) {
    out.removed = this.list.map((message) => ({ message, reason: "epoch" }));
    this.#start(epoch, 0, null);
    this.#wanted = true;
    out.reset = true;
    return out;
  }

  #refused(frame, out) {
    if (frame.why === "not_member") {
      this.#sync = null;
      out.left = true;
      return out;
    }
    // An answer to a question that a restart has overtaken says nothing about the new epoch.
    if (!this.#sync || frame.from !== this.#sync.since) return out;
    return this.#restart(frame.epoch, out);
  }

  #follows({ seq, after }) {
    return seq === this.last + 1 || (after !== undefined && after !== null && after <= this.last);
  }

  #accept(message, out) {
    this.last = message.seq;
    this.#held.delete(message.seq);
    if (message.expires_at > this.#now()) this.#insert(message, out);
  }

  #acceptHeld(out) {
    for (const seq of [...this.#held.keys()].sort((a, b) => a - b)) {
      const message = this.#held.get(seq);
      if (seq <= this.last) this.#held.delete(seq);
      else if (this.#follows(message)) this.#accept(message, out);
      else this.#wanted = true;
    }
  }

  /**
   * What came while the answer was under way was accepted in a state that this read may have left behind, and `rev` is
   * about to be taken over: hold the range to what the read says.
   */
  #compare({ from, upto, messages }, out) {
    const read = new Map(messages.map((message) => [message.seq, message]));
    for (const { seq, expires_at } of this.list.filter((message) => message.seq > from && message.seq <= upto)) {
      if (read.has(seq)) this.#replace(read.get(seq), out);
      else this.#drop(seq, expires_at <= this.#now() ? "expired" : "deleted", out);
    }
  }

  /** Held back before the read and not part of it: the next `sync` brings it as it is now. */
  #forgetHeld(top) {
    for (const seq of this.#held.keys()) if (seq <= top) this.#held.delete(seq);
  }

  #insert(message, out) {
    if (message.expires_at <= this.#now()) return;
    this.messages.set(message.seq, message);
    this.#sorted = null;
    out.added.push(message);
  }

  #nextChange({ epoch, rev }) {
    if (epoch !== this.epoch || this.rev === null || rev > this.rev + 1) {
      this.#wanted = true;
      return false;
    }
    if (rev <= this.rev) return false;
    this.rev = rev;
    return true;
  }

  #replace(message, out) {
    const held = this.messages.get(message.seq);
    if (held && (held.edited_at ?? 0) <= (message.edited_at ?? 0)) this.#change(message.seq, message, out);
    else if (!held && message.seq > this.floor) this.#insert(message, out);
  }

  #change(seq, fields, out) {
    const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));
    if (this.paging && this.paging.late.get(seq) !== null) this.paging.late.set(seq, { ...this.paging.late.get(seq), ...given });
    const home = this.messages.has(seq) ? this.messages : this.#held;
    if (!home.has(seq)) return;
    const message = { ...home.get(seq), ...given };
    home.set(seq, message);
    this.#sorted = null;
    if (home === this.messages) out.changed.push(message);
  }

  #drop(seq, reason, out) {
    if (reason === "not_for_you") return;
    this.paging?.late.set(seq, null);
    if (this.#held.has(seq)) this.#held.set(seq, { ...this.#held.get(seq), expires_at: 0 }); // still moves `last`
    const message = this.messages.get(seq);
    if (!message) return;
    this.messages.delete(seq);
    this.#sorted = null;
    out.removed.push({ message, reason });
  }
}
