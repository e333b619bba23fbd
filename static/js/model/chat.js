/**
 * The page's one model: frames in, changes out. Owns the rooms, the notices and what was asked and not yet answered;
 * tells the views by events and never touches the DOM.
 *
 * Events: rooms (the list changed), room {room, ...out} (something in this room changed), notices, problem {room, seq,
 * code, of, body}, left {room}, presence {room}, typing {room}, welcome.
 */
import { Acks } from "./acks.js";
import { Dismissals } from "./dismissals.js";
import { Emitter } from "./emitter.js";
import { Room } from "./room.js";
import * as protocol from "./protocol.js";

const PAGE = 50;
const TYPING_EVERY_MS = 3000;
const ASK_AGAIN_MS = 1000;
const NAMED_MOST = 5; // on a tombstone; the notice names more
const NOTICES_COME_MS = 3000; // after `welcome`; what is not among them was put aside elsewhere

const NEVER_RESENT = ["too_late", "nobody_missed_it", "no_such_message"];
const GONE = ["no_such_message", "too_late"];
const blank = () => ({ added: [], changed: [], removed: [], reset: false, left: false });

export class Chat extends Emitter {
  rooms = new Map();
  notices = new Map();
  me;
  limits = protocol.DEFAULT_LIMITS;
  #clock;
  #server_clock;
  #newId;
  #outbox;
  #tombstones;
  #transmit = () => false;
  #acks;
  #changes = new Map(); // key -> frame of an edit, delete or extend that waits for its answer
  #deletions = new Set(); // "room|seq" of what this page asked to delete
  #resends = new Map(); // id -> frame
  #dismissals;
  #unrepeated = new Set(); // notices that this connection has not told of yet
  #notices_timer = null;
  #typed_at = new Map();

  /** clock: {now, set, clear} of this machine; serverClock: ServerClock. */
  constructor({ me, clock, serverClock, newId, tombstones, hidden }) {
    super();
    this.me = me;
    this.#clock = clock;
    this.#server_clock = serverClock;
    this.#newId = newId;
    this.#tombstones = tombstones;
    this.#dismissals = new Dismissals({ transmit: (frame) => this.#transmit(frame), clock });
    this.#acks = new Acks({ collect: () => this.#collectAcks(), send: (frame) => this.#transmit(frame), clock, hidden });
  }

  /** The two that need this model to exist first. transmit(frames): false when they did not leave. */
  join({ outbox, transmit }) {
    this.#outbox = outbox;
    this.#transmit = transmit;
  }

  // ---- what the socket asks and says

  greeting() {
    const present = [...this.rooms.values()].filter((room) => !room.left);
    // What `hello` cannot name is made anew from `welcome`: resumed from the user's cursor it could not learn its changes.
    for (const room of present.slice(protocol.ROOMS_PER_HELLO)) this.rooms.delete(room.id);
    return present.slice(0, protocol.ROOMS_PER_HELLO).map((room) => room.log.greet());
  }

  take(frame) {
    const taker = TAKERS[frame.type];
    if (taker) this[taker](frame);
  }

  /** The socket is open: ask again what the last connection left unanswered. */
  connected() {
    for (const frame of [...this.#changes.values(), ...this.#resends.values()]) this.#transmit(frame);
    this.#dismissals.ask();
  }

  /** One WebSocket text has been taken in full. */
  batch() {
    this.#acks.batch();
  }

  /** The page is about to go: what was seen is not asked about again. */
  leaving() {
    this.#acks.flush();
  }

  disconnected() {
    this.#acks.disconnected();
    this.#dismissals.disconnected();
    for (const room of this.rooms.values()) {
      room.log.disconnected();
      room.lifetimes_known = false;
    }
  }

  // ---- what the user does

  read(room_id, seq) {
    const room = this.rooms.get(room_id);
    if (!room?.see(seq)) return;
    this.#acks.due();
    this.emit("rooms");
  }

  /** Ask for older messages; false when none are left or the connection is away. */
  page(room_id, limit = PAGE) {
    const room = this.rooms.get(room_id);
    const ask = room?.log.nextPage(limit);
    if (!ask) return false;
    if (this.#transmit(protocol.history(ask.room, ask.before, ask.limit))) return true;
    room.log.pageFailed();
    return false;
  }

  typing(room_id) {
    const now = this.#clock.now();
    if (now - (this.#typed_at.get(room_id) ?? -Infinity) < TYPING_EVERY_MS) return;
    this.#typed_at.set(room_id, now);
    this.#transmit(protocol.typing(room_id));
  }

  edit(room, seq, body) {
    this.#ask(`edit|${room.id}|${seq}`, protocol.edit(room.id, room.log.epoch, seq, body));
  }

  delete(room, seq) {
    this.#deletions.add(`${room.id}|${seq}`);
    this.#ask(`delete|${room.id}|${seq}`, protocol.remove(room.id, room.log.epoch, seq));
  }

  /** ttl: seconds from now. */
  extend(room, seq, ttl) {
    this.#ask(`extend|${room.id}|${seq}`, protocol.extend(room.id, room.log.epoch, seq, ttl));
  }

  /** Send an expired message again to those who missed it. Repeated with the same id until answered. */
  resend({ room, epoch, seq }) {
    if ([...this.#resends.values()].some((frame) => frame.room === room && frame.seq === seq)) return;
    const frame = protocol.resend(room, epoch, seq, this.#newId());
    this.#resends.set(frame.id, frame);
    this.#transmit(frame);
    this.emit("notices");
  }

  isResending(room, seq) {
    return [...this.#resends.values()].some((frame) => frame.room === room && frame.seq === seq);
  }

  /** Put a notice aside, here at once and for all devices as soon as the server hears of it. */
  dismiss(notice) {
    this.notices.delete(notice);
    this.#dismissals.add(notice);
    this.emit("notices");
  }

  /** An edit, a deletion or an extension of this message waits for its answer. */
  isChanging(room_id, seq) {
    return ["edit", "delete", "extend"].some((kind) => this.#changes.has(`${kind}|${room_id}|${seq}`));
  }

  /** Everything that its own lifetime has ended. */
  expire(rooms = this.rooms.values()) {
    const now = this.#server_clock.now();
    for (const room of rooms) this.#apply(room, room.log.expireUntil(now));
  }

  tombstones(room) {
    return this.#tombstones.inRoom(room.id, room.log.epoch);
  }

  get unread() {
    let total = 0;
    for (const room of this.rooms.values()) if (!room.left && !room.muted) total += room.unread.count;
    return total;
  }

  // ---- frames

  _welcome(frame) {
    this.#server_clock.set(frame.now);
    this.me = frame.user;
    this.limits = { ...protocol.DEFAULT_LIMITS, ...frame.limits };
    const present = new Set(frame.rooms.map((info) => info.room));
    for (const room of this.rooms.values()) if (!present.has(room.id)) this.#leave(room);
    for (const info of frame.rooms) this.#place(info);
    this.expire(); // the clock may have been set
    this.#awaitNotices();
    this.emit("welcome");
    this.emit("rooms");
  }

  _room(frame) {
    if (frame.removed) {
      const room = this.rooms.get(frame.room);
      if (room) this.#leave(room);
    } else {
      this.#place(frame);
    }
    this.emit("rooms");
  }

  _message(frame) {
    this.#withRoom(frame, (room) => {
      const out = room.log.message(frame);
      this.#apply(room, out);
      if (frame.from && room.stoppedTyping(frame.from.id)) this.emit("typing", { room });
    });
  }

  _resumed(frame) {
    this.#withRoom(frame, (room) => {
      const out = room.log.resumed(frame);
      if (out.left) this.#leave(room);
      this.#apply(room, { ...out, resumed: true });
    });
  }

  _edited(frame) {
    this.#answered(["edit", "extend"], frame);
    this.#withRoom(frame, (room) => this.#apply(room, room.log.edited(frame)));
  }

  _deleted(frame) {
    this.#answered(["delete"], frame);
    this.#withRoom(frame, (room) => this.#apply(room, room.log.deleted(frame)));
  }

  _expired(frame) {
    this.#withRoom(frame, (room) => this.#apply(room, room.log.expired(frame)));
  }

  _position(frame) {
    this.#withRoom(frame, (room) => this.#apply(room, room.log.position(frame)));
  }

  _history(frame) {
    this.#withRoom(frame, (room) => this.#apply(room, { ...room.log.history(frame), paged: true }));
  }

  _receipt(frame) {
    this.#withRoom(frame, (room) => {
      if (frame.epoch !== room.log.epoch) return;
      room.takeReceipts(frame.receipts);
      this.emit("room", { ...blank(), room, receipts: frame.receipts.map(([seq]) => seq) });
      this.emit("rooms");
    });
  }

  _sent(frame) {
    const asked = this.#resends.get(frame.id);
    if (asked) this.#resent(asked, frame);
    else this.#outbox.sent(frame);
  }

  /** Called by the outbox: the item left it because the server has it. */
  settled(item, sent) {
    const room = this.rooms.get(item.room);
    if (!room) return;
    room.accept(item, sent);
    this.emit("room", { ...blank(), room, own: true });
  }

  _notice(frame) {
    this.#unrepeated.delete(frame.notice);
    if (frame.dismissed) this.#dismissals.done(frame.notice);
    if (frame.dismissed || this.#dismissals.has(frame.notice)) this.notices.delete(frame.notice);
    else this.notices.set(frame.notice, frame);
    if (frame.kind === "undelivered" && !frame.dismissed) this.#bury(frame);
    this.emit("notices");
  }

  _presence(frame) {
    this.#withRoom(frame, (room) => {
      if (frame.online) room.online.add(frame.user);
      else room.online.delete(frame.user);
      this.emit("presence", { room });
    });
  }

  _typing(frame) {
    this.#withRoom(frame, (room) => {
      room.typed(frame.user);
      this.emit("typing", { room });
    });
  }

  _error(frame) {
    if (frame.of === "send" && this.#outbox.refused(frame)) return;
    if (frame.of === "resend") return this.#resendRefused(frame);
    if (["edit", "delete", "extend"].includes(frame.of)) return this.#changeRefused(frame);
    if (frame.of === "dismiss") return this.#dismissals.refused(frame);
    const room = this.rooms.get(frame.room);
    if (!room) return;
    if (frame.of === "history") room.log.pageFailed();
    if (frame.of === "sync") this.#later(frame, () => room.log.syncFailed(), room);
    if (frame.code === "ack_too_high") this.#later({ retry_after_ms: 0 }, () => room.log.syncFailed(), room);
  }

  // ---- inside

  #withRoom(frame, action) {
    const room = this.rooms.get(frame.room);
    if (room && !room.left) action(room);
  }

  #place(info) {
    const room = this.rooms.get(info.room);
    if (room && !room.left) {
      room.update(info);
      this.emit("room", { ...blank(), room, info: true });
      return;
    }
    const muted = room?.muted;
    const fresh = new Room({ info, me: this.me, now: () => this.#server_clock.now() });
    fresh.muted = muted;
    this.rooms.set(info.room, fresh);
    this.emit("room", { ...blank(), room: fresh, info: true, reset: true });
  }

  #leave(room) {
    room.left = true;
    this.emit("left", { room });
    this.emit("rooms");
  }

  #apply(room, out) {
    for (const message of [...out.added, ...out.changed]) if (message.unshowable) this.#reject(room, message);
    for (const message of out.added) if (room.isOwn(message)) this.#cameBack(room, message);
    for (const { message, reason } of out.removed) this.#ended(room, message, reason);
    room.settleAccepted();
    this.#askAndAcknowledge(room);
    if (!out.added.length && !out.changed.length && !out.removed.length && !out.reset && !out.resumed && !out.paged) return;
    this.emit("room", { ...out, room });
    this.emit("rooms");
  }

  #askAndAcknowledge(room) {
    const ask = room.log.nextSync();
    if (ask && !this.#transmit(protocol.sync(ask))) room.log.disconnected();
    if (room.log.owesAck) this.#acks.due();
  }

  #collectAcks() {
    return [...this.rooms.values()].filter((room) => !room.left).map((room) => room.takeAck()).filter(Boolean);
  }

  #reject(room, message) {
    this.#transmit(protocol.reject(room.id, room.log.epoch, message.seq, "unreadable"));
  }

  #ended(room, message, reason) {
    const receipt = room.receipts.get(message.seq);
    room.receipts.delete(message.seq);
    const own_doing = this.#deletions.delete(`${room.id}|${message.seq}`);
    if (!room.isOwn(message) || !["expired", "deleted"].includes(reason)) return;
    const ended_at = reason === "expired" ? message.expires_at : this.#server_clock.now();
    this.#tombstones.put({ room: room.id, epoch: room.log.epoch, seq: message.seq, id: message.id, sent_at: message.sent_at, ended_at, why: reason, own_doing, ...receipt });
  }

  /** A notice knows more than the page's own tombstone, and may be the first to tell of the end. */
  #bury({ notice, data }) {
    const { room, epoch, seq, id, sent_at, expired_at, delivered, total, missing, missing_total, resendable } = data;
    if (!this.rooms.has(room)) return;
    this.#tombstones.put({ room, epoch, seq, id, sent_at, ended_at: expired_at, why: "expired", delivered, total, missing: missing.slice(0, NAMED_MOST), missing_total, resendable, notice });
    this.emit("room", { ...blank(), room: this.rooms.get(room) });
  }

  /** Only the newest are repeated at a connect, and none that was put aside meanwhile. */
  #awaitNotices() {
    this.#unrepeated = new Set(this.notices.keys());
    this.#clock.clear(this.#notices_timer);
    this.#notices_timer = this.#clock.set(() => {
      for (const notice of this.#unrepeated) this.notices.delete(notice);
      this.#unrepeated.clear();
      this.emit("notices");
    }, NOTICES_COME_MS);
  }

  #ask(key, frame) {
    this.#changes.set(key, frame);
    if (!this.#transmit(frame)) this.emit("room", { ...blank(), room: this.rooms.get(frame.room) });
  }

  #answered(kinds, { room, seq }) {
    return kinds.map((kind) => this.#changes.delete(`${kind}|${room}|${seq}`)).some(Boolean);
  }

  #changeRefused(frame) {
    const key = [...this.#changes.keys()].find((one) => one.startsWith(`${frame.of}|${frame.room ?? ""}`) && (frame.seq === undefined || one.endsWith(`|${frame.seq}`)));
    if (!key) return;
    const asked = this.#changes.get(key);
    if (frame.retryable) return this.#later(frame, () => this.#changes.has(key) && this.#transmit(asked));
    this.#changes.delete(key);
    if (frame.of === "delete") this.#deletions.delete(`${asked.room}|${asked.seq}`);
    if (frame.of === "delete" && GONE.includes(frame.code)) return; // as it was wished
    this.emit("problem", { room: this.rooms.get(asked.room), seq: asked.seq, code: frame.code, of: frame.of, body: asked.body });
  }

  #resendRefused(frame) {
    const asked = this.#resends.get(frame.id);
    if (!asked) return;
    if (frame.retryable) return this.#later(frame, () => this.#resends.has(asked.id) && this.#transmit(asked));
    this.#resends.delete(frame.id);
    this.#noteResend(asked.room, asked.seq, { problem: frame.code, ...(NEVER_RESENT.includes(frame.code) ? { resendable: false } : {}) });
    this.emit("notices");
    if (this.rooms.has(asked.room)) this.emit("room", { ...blank(), room: this.rooms.get(asked.room) });
  }

  #resent(asked, { sent_at }) {
    this.#resends.delete(asked.id);
    this.#noteResend(asked.room, asked.seq, { resent_at: sent_at, problem: null, resendable: false });
    for (const { notice } of this.#noticesOf(asked.room, asked.seq)) this.dismiss(notice);
    this.emit("notices");
    if (this.rooms.has(asked.room)) this.emit("room", { ...blank(), room: this.rooms.get(asked.room) });
  }

  /** An own message: one that the outbox waits for, or one sent again, here, on another device or by the staff. */
  #cameBack(room, message) {
    this.#outbox.sent({ ...message, room: room.id, epoch: room.log.epoch });
    if (message.resends) this.#noteResend(room.id, message.resends, { resent_at: message.sent_at, problem: null, resendable: false });
  }

  /** known: what is known now of an expired message's resend. */
  #noteResend(room, seq, known) {
    if (this.#tombstones.get(room, seq)) this.#tombstones.put({ room, seq, ...known });
    for (const { data } of this.#noticesOf(room, seq)) Object.assign(data, known);
  }

  #noticesOf(room, seq) {
    return [...this.notices.values()].filter(({ data }) => data.room === room && data.seq === seq);
  }

  #later({ retry_after_ms }, action, room) {
    this.#clock.set(() => {
      action();
      if (room) this.#askAndAcknowledge(room);
    }, retry_after_ms ?? ASK_AGAIN_MS);
  }
}

const TAKERS = Object.fromEntries(
  ["welcome", "room", "message", "resumed", "edited", "deleted", "expired", "position", "history", "receipt", "sent", "notice", "presence", "typing", "error"].map((type) => [type, `_${type}`]),
);
