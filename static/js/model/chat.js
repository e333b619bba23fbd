/**
 * The page's one model: frames in, changes out. Owns the rooms, the notices and the requests that are not answered yet.
 * Informs the views by events and never touches the DOM.
 */
import { Acks } from "./acks.js";
import { Dismissals } from "./dismissals.js";
import { Emitter } from "./emitter.js";
import { extensionOf } from "./lifetime-choices.js";
import { MAX_LATE, noChanges } from "./log.js";
import { Room } from "./room.js";
import * as protocol from "./protocol.js";

/** @import { Clock, Frame, Message, Person, RoomInfo } from "./protocol.js" */
/** @import { LogChanges } from "./log.js" */
/** @import { Outbox, OutboxItem } from "./outbox.js" */
/** @import { OwnLog } from "./own-log.js" */
/** @import { ServerClock } from "./server-clock.js" */
/** @import { Tombstone, Tombstones } from "./tombstones.js" */

/**
 * What changed in a room. info: its name, role or lifetime. resumed, paged: an answer to `sync` or `history`. receipts: the
 * seqs with new counts. own: an own message was accepted.
 *
 * @typedef {LogChanges & {room: Room, info?: boolean, resumed?: boolean, paged?: boolean, receipts?: number[], own?: boolean}} RoomChanges
 *
 * body: the text of a refused edit.
 * @typedef {{room: Room | undefined, seq: number, code: string, of: string, body?: string}} Problem
 *
 * rooms: the list changed, or the counts in it. welcome: the connection is established.
 * @typedef {{
 *   welcome: null, rooms: null, notices: null, room: RoomChanges, problem: Problem, left: {room: Room}, presence: {room: Room},
 *   typing: {room: Room},
 * }} ChatEvents
 */

const PAGE = 50;
const TYPING_EVERY_MS = 3000;
const RETRY_MS = 1000;
const MAX_NAMED = 5; // on a tombstone; the notice names more
export const MAX_REPEATED = 100; // notices that the server repeats after `welcome`, the newest ones
const NOTICES_WITHIN_MS = 3000; // after `welcome`; a notice that is not repeated by then was dismissed on another device

const NEVER_RESENT = ["too_late", "nobody_missed_it", "no_such_message"];
const DELETED_ALREADY = ["no_such_message", "too_late"];

/** @param {string} room @param {number} seq */
const placeOf = (room, seq) => `${room}|${seq}`;

/** @extends {Emitter<ChatEvents>} */
export class Chat extends Emitter {
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** @type {Map<string, Frame>} */
  notices = new Map();
  me;
  limits = protocol.DEFAULT_LIMITS;
  #clock;
  #serverClock;
  #newId;
  #ownLog;
  /** @type {Pick<Outbox, "sent" | "refused" | "reported">} */
  #outbox = { sent: () => {}, refused: () => false, reported: () => {} };
  #tombstones;
  /** @type {(frames: object) => boolean} */
  #transmit = () => false;
  #acks;
  /** @type {Map<string, any>} */
  #changes = new Map(); // key -> frame of an edit, delete or extend that waits for its answer
  /** @type {Set<string>} */
  #deletions = new Set(); // "room|seq" of messages that this page asked to delete
  /** @type {Map<string, any>} */
  #resends = new Map(); // id -> frame
  #dismissals;
  /** @type {Set<string>} */
  #unrepeated = new Set(); // notices that this connection has not sent yet
  #repeated = { count: 0, oldest: Infinity }; // those that it has sent; oldest: epoch ms
  /** @type {any} */
  #noticesTimer = null;
  /** @type {Map<string, number>} */
  #typedAt = new Map();

  /** @type {Record<string, (chat: Chat, frame: Frame) => void>} */
  static #HANDLERS = {
    welcome: (chat, frame) => chat.#onWelcome(frame),
    room: (chat, frame) => chat.#onRoom(frame),
    message: (chat, frame) => chat.#onMessage(frame),
    resumed: (chat, frame) => chat.#onResumed(frame),
    edited: (chat, frame) => chat.#onEdited(frame),
    deleted: (chat, frame) => chat.#onDeleted(frame),
    expired: (chat, frame) => chat.#onExpired(frame),
    position: (chat, frame) => chat.#onPosition(frame),
    history: (chat, frame) => chat.#onHistory(frame),
    receipt: (chat, frame) => chat.#onReceipt(frame),
    sent: (chat, frame) => chat.#onSent(frame),
    notice: (chat, frame) => chat.#onNotice(frame),
    presence: (chat, frame) => chat.#onPresence(frame),
    typing: (chat, frame) => chat.#onTyping(frame),
    error: (chat, frame) => chat.#onError(frame),
  };

  /**
   * clock: of this machine. hidden(): nobody sees the page.
   *
   * @param {{
   *   me: Person, clock: Clock, serverClock: ServerClock, newId: () => string, ownLog: OwnLog, tombstones: Tombstones,
   *   hidden: () => boolean,
   * }} parts
   */
  constructor({ me, clock, serverClock, newId, ownLog, tombstones, hidden }) {
    super();
    this.me = me;
    this.#clock = clock;
    this.#serverClock = serverClock;
    this.#newId = newId;
    this.#ownLog = ownLog;
    this.#tombstones = tombstones;
    this.#dismissals = new Dismissals({ transmit: (frame) => this.#transmit(frame), clock });
    this.#acks = new Acks({ collect: () => this.#collectAcks(), send: (frame) => this.#transmit(frame), clock, hidden });
  }

  /**
   * Connect the two parts that need this model to exist first. transmit(frames): false when they were not sent.
   *
   * @param {{outbox: Pick<Outbox, "sent" | "refused" | "reported">, transmit: (frames: object) => boolean}} parts
   */
  join({ outbox, transmit }) {
    this.#outbox = outbox;
    this.#transmit = transmit;
  }

  // ---- the socket

  /** The rooms of `hello`. */
  greeting() {
    const present = [...this.rooms.values()].filter((room) => !room.left);
    // A room that does not fit into `hello` is made again from `welcome`: resumed from the user's cursor, it would miss changes.
    for (const room of present.slice(protocol.ROOMS_PER_HELLO)) this.rooms.delete(room.id);
    const rooms = present.slice(0, protocol.ROOMS_PER_HELLO);
    return Chat.#limitLate(rooms, (room, maxLate) => room.log.greet(maxLate));
  }

  /** @param {Frame} frame */
  receive(frame) {
    if (Object.hasOwn(Chat.#HANDLERS, frame.type)) Chat.#HANDLERS[frame.type](this, frame);
  }

  /** The socket is open: repeat the requests that the last connection left unanswered. */
  connected() {
    for (const frame of [...this.#changes.values(), ...this.#resends.values()]) this.#transmit(frame);
    this.#dismissals.flush();
  }

  /** All frames of one WebSocket text have been received. */
  batch() {
    this.#acks.batch();
  }

  /** The page is about to close: acknowledge now. */
  leaving() {
    this.#acks.flush();
  }

  disconnected() {
    this.#acks.disconnected();
    this.#dismissals.disconnected();
    this.#ownLog.disconnected();
    for (const room of this.rooms.values()) {
      room.log.disconnected();
      room.lifetimesKnown = false;
    }
  }

  // ---- the user's actions

  /** @param {string} roomId @param {number} seq */
  read(roomId, seq) {
    const room = this.rooms.get(roomId);
    if (!room?.see(seq)) return;
    this.#acks.due();
    this.emit("rooms", null);
  }

  /** Ask for older messages; false when there are none or the connection is lost. @param {string} roomId */
  page(roomId, limit = PAGE) {
    const room = this.rooms.get(roomId);
    const page = room?.log.nextPage(limit);
    if (!room || !page) return false;
    if (this.#transmit(protocol.history(page.room, page.before, page.limit))) return true;
    room.log.pageFailed();
    return false;
  }

  /** @param {string} roomId */
  typing(roomId) {
    const now = this.#clock.now();
    if (now - (this.#typedAt.get(roomId) ?? -Infinity) < TYPING_EVERY_MS) return;
    this.#typedAt.set(roomId, now);
    this.#transmit(protocol.typing(roomId));
  }

  /** @param {Room} room @param {number} seq @param {string} body */
  edit(room, seq, body) {
    this.#requestChange(`edit|${placeOf(room.id, seq)}`, protocol.edit(room.id, room.log.epoch, seq, body));
  }

  /** @param {Room} room @param {number} seq */
  delete(room, seq) {
    this.#deletions.add(placeOf(room.id, seq));
    this.#requestChange(`delete|${placeOf(room.id, seq)}`, protocol.remove(room.id, room.log.epoch, seq));
  }

  /** ttl: seconds from now. @param {Room} room @param {number} seq @param {number} ttl */
  extend(room, seq, ttl) {
    this.#requestChange(`extend|${placeOf(room.id, seq)}`, protocol.extend(room.id, room.log.epoch, seq, ttl));
  }

  /** The extension that a message is offered: {by, ttl} in seconds. @param {Room} room @param {Message} message */
  extensionOf(room, message) {
    return extensionOf(message, { now: this.#serverClock.now(), longest: Math.min(room.ttl_max, this.limits.ttl_max) });
  }

  /**
   * Send an expired message again to those who missed it. Repeated with the same id until answered.
   *
   * @param {{room: string, epoch: string, seq: number}} place
   */
  resend({ room, epoch, seq }) {
    if (this.isResending(room, seq)) return;
    const frame = protocol.resend(room, epoch, seq, this.#newId());
    this.#resends.set(frame.id, frame);
    this.#transmit(frame);
    this.emit("notices", null);
  }

  /** @param {string} room @param {number} seq */
  isResending(room, seq) {
    return [...this.#resends.values()].some((frame) => frame.room === room && frame.seq === seq);
  }

  /** Dismiss a notice here at once, and on all devices as soon as the server gets the frame. @param {string} notice */
  dismiss(notice) {
    this.notices.delete(notice);
    this.#dismissals.add(notice);
    this.emit("notices", null);
  }

  /** An edit, a deletion or an extension of this message waits for its answer. @param {string} roomId @param {number} seq */
  isChanging(roomId, seq) {
    return ["edit", "delete", "extend"].some((kind) => this.#changes.has(`${kind}|${placeOf(roomId, seq)}`));
  }

  /** Remove all messages whose lifetime has ended. @param {Iterable<Room>} rooms */
  expire(rooms = this.rooms.values()) {
    const now = this.#serverClock.now();
    for (const room of rooms) this.#apply(room, room.log.expireUntil(now));
  }

  /** @param {Room} room */
  tombstones(room) {
    return this.#tombstones.inRoom(room.id, room.log.epoch);
  }

  get unread() {
    let total = 0;
    for (const room of this.rooms.values()) if (!room.left && !room.muted) total += room.unread.count;
    return total;
  }

  /** Called by the outbox: the server has accepted this item. @param {OutboxItem} item @param {Frame} sent */
  settled(item, sent) {
    const room = this.rooms.get(item.room);
    if (!room) return;
    if (room.isOwed(/** @type {any} */ (sent))) this.#ownLog.keep(item, sent);
    room.accept(item, sent);
    this.emit("room", { ...noChanges(), room, own: true });
  }

  /** rows: [seq, delivered, read, total]. @param {Room} room @param {number[][]} rows */
  takeReceipts(room, rows) {
    room.takeReceipts(rows);
    this.#ownLog.delivered(room.id, room.log.epoch, rows);
  }

  /** The own log needs to know all messages of this room. @param {string} roomId */
  reread(roomId) {
    const room = this.rooms.get(roomId);
    if (room) this.#apply(room, room.log.reread());
  }

  /** The own log was loaded: find the messages in it that the store has lost. */
  compareOwnLog() {
    for (const room of this.rooms.values()) this.#compareOwnLog(room);
  }

  // ---- frames

  /** @param {Frame} frame */
  #onWelcome(frame) {
    this.#serverClock.set(frame.now);
    this.me = frame.user;
    this.limits = { ...protocol.DEFAULT_LIMITS, ...frame.limits };
    const present = new Set(frame.rooms.map((/** @type {RoomInfo} */ info) => info.room));
    this.#ownLog.welcomed(frame.store, [...present]);
    for (const room of this.rooms.values()) if (!present.has(room.id)) this.#leave(room);
    for (const info of frame.rooms) this.#putRoom(info);
    this.expire(); // the clock may have been set
    this.#awaitNotices();
    this.emit("welcome", null);
    this.emit("rooms", null);
  }

  /** @param {Frame} frame */
  #onRoom(frame) {
    const room = this.rooms.get(frame.room);
    if (!frame.removed) this.#putRoom(/** @type {any} */ (frame));
    else if (room) this.#leave(room);
    this.emit("rooms", null);
  }

  /** @param {Frame} frame */
  #onMessage(frame) {
    this.#withRoom(frame, (room) => {
      this.#apply(room, room.log.message(frame));
      if (frame.from && room.stoppedTyping(frame.from.id)) this.emit("typing", { room });
    });
  }

  /** @param {Frame} frame */
  #onResumed(frame) {
    this.#withRoom(frame, (room) => {
      const gone = frame.gone.map((/** @type {[number, string]} */ [seq]) => seq);
      this.#ownLog.ended(room.id, frame.epoch, gone);
      for (const message of frame.changed ?? []) this.#ownLog.changed(room.id, frame.epoch, message);
      const changes = room.log.resumed(frame);
      if (changes.left) this.#leave(room);
      this.#apply(room, { ...changes, resumed: true });
    });
  }

  /** @param {Frame} frame */
  #onEdited(frame) {
    this.#answered(["edit", "extend"], frame);
    this.#ownLog.changed(frame.room, frame.epoch, /** @type {any} */ (frame));
    this.#withRoom(frame, (room) => this.#apply(room, room.log.edited(frame)));
  }

  /** @param {Frame} frame */
  #onDeleted(frame) {
    this.#answered(["delete"], frame);
    this.#ownLog.ended(frame.room, frame.epoch, [frame.seq]);
    this.#withRoom(frame, (room) => this.#apply(room, room.log.deleted(frame)));
  }

  /** @param {Frame} frame */
  #onExpired(frame) {
    this.#ownLog.ended(frame.room, frame.epoch, frame.seqs);
    this.#withRoom(frame, (room) => this.#apply(room, room.log.expired(frame)));
  }

  /** @param {Frame} frame */
  #onPosition(frame) {
    this.#withRoom(frame, (room) => this.#apply(room, room.log.position(frame)));
  }

  /** @param {Frame} frame */
  #onHistory(frame) {
    this.#withRoom(frame, (room) => this.#apply(room, { ...room.log.history(frame), paged: true }));
    this.#ownLog.answered(frame);
  }

  /** @param {Frame} frame */
  #onReceipt(frame) {
    this.#withRoom(frame, (room) => {
      if (frame.epoch !== room.log.epoch) return;
      this.takeReceipts(room, frame.receipts);
      this.emit("room", { ...noChanges(), room, receipts: frame.receipts.map((/** @type {number[]} */ [seq]) => seq) });
      this.emit("rooms", null);
    });
  }

  /** @param {Frame} frame */
  #onSent(frame) {
    const resend = this.#resends.get(frame.id);
    if (resend) this.#resent(resend, frame);
    else this.#outbox.sent(frame);
  }

  /** @param {Frame} frame */
  #onNotice(frame) {
    this.#unrepeated.delete(frame.notice);
    this.#repeated = { count: this.#repeated.count + 1, oldest: Math.min(this.#repeated.oldest, frame.at) };
    this.#putNotice(frame);
    this.emit("notices", null);
  }

  /** Notices that were loaded, because the server does not repeat all of them. Those of a summary stay in it. @param {Frame[]} frames */
  addNotices(frames) {
    const summaries = [...this.notices.values()].filter(({ kind }) => kind === "summary");
    const isSummed = (/** @type {Frame} */ { data }) =>
      summaries.some((summary) => data.expired_at >= summary.data.from_at && data.expired_at <= summary.data.to_at);
    for (const frame of frames) if (frame.kind === "undelivered" && !isSummed(frame)) this.#putNotice(frame);
    this.emit("notices", null);
  }

  /** @param {Frame} frame */
  #putNotice(frame) {
    if (frame.dismissed) this.#dismissals.done(frame.notice);
    if (frame.dismissed || this.#dismissals.has(frame.notice)) this.notices.delete(frame.notice);
    else this.notices.set(frame.notice, frame);
    if (frame.kind === "undelivered" && !frame.dismissed) {
      this.#putTombstone(frame);
      this.#ownLog.reported(frame.data.id);
      this.#outbox.reported(frame.data.id);
    }
  }

  /** @param {Frame} frame */
  #onPresence(frame) {
    this.#withRoom(frame, (room) => {
      if (frame.online) room.online.add(frame.user);
      else room.online.delete(frame.user);
      this.emit("presence", { room });
    });
  }

  /** @param {Frame} frame */
  #onTyping(frame) {
    this.#withRoom(frame, (room) => {
      room.typed(frame.user);
      this.emit("typing", { room });
    });
  }

  /** @param {Frame} frame */
  #onError(frame) {
    if (frame.of === "send" && this.#outbox.refused(frame)) return;
    if (frame.of === "resend") return this.#resendRefused(frame);
    if (["edit", "delete", "extend"].includes(frame.of)) return this.#changeRefused(frame);
    if (frame.of === "dismiss") return this.#dismissals.refused(frame);
    const room = this.rooms.get(frame.room);
    if (!room) return;
    if (frame.of === "history") room.log.pageFailed();
    if (frame.of === "history" && frame.retryable) this.#later(frame.retry_after_ms, () => this.#ownLog.ask(room.id));
    if (frame.of === "sync") this.#syncAgain(room, frame.retry_after_ms);
    if (frame.code === "ack_too_high") this.#syncAgain(room, 0);
  }

  // ---- inside

  /** @param {Frame} frame @param {(room: Room) => void} action */
  #withRoom(frame, action) {
    const room = this.rooms.get(frame.room);
    if (room && !room.left) action(room);
  }

  /** @param {RoomInfo} info */
  #putRoom(info) {
    const room = this.rooms.get(info.room);
    if (room && !room.left) {
      room.update(info);
      this.emit("room", { ...noChanges(), room, info: true });
      return;
    }
    const fresh = new Room({ info, me: this.me, now: () => this.#serverClock.now() });
    fresh.muted = room?.muted ?? false;
    this.rooms.set(info.room, fresh);
    this.emit("room", { ...noChanges(), room: fresh, info: true, reset: true });
  }

  /** @param {Room} room */
  #leave(room) {
    room.left = true;
    this.#ownLog.left(room.id);
    this.emit("left", { room });
    this.emit("rooms", null);
  }

  /** @param {Room} room @param {LogChanges & {resumed?: boolean, paged?: boolean}} changes */
  #apply(room, changes) {
    const { added, changed, removed, reset, resumed, paged } = changes;
    if (reset) {
      this.#ownLog.unread(room.id, true);
      room.restart();
    }
    for (const message of [...added, ...changed]) if (message.unshowable) this.#reject(room, message);
    for (const message of added) if (room.isOwn(message)) this.#cameBack(room, message);
    for (const { message, reason } of removed) this.#ended(room, message, reason);
    room.settleAccepted();
    this.#syncAndAcknowledge(room);
    if (added.length || changed.length || removed.length || reset || resumed || paged) {
      this.emit("room", { ...changes, room });
      this.emit("rooms", null);
    }
    this.#compareOwnLog(room);
  }

  /** @param {Room} room */
  #syncAndAcknowledge(room) {
    const sync = room.log.nextSync();
    if (sync && !this.#transmit(protocol.sync(sync))) room.log.disconnected();
    if (room.log.owesAck) this.#acks.due();
  }

  /** @param {Room} room */
  #compareOwnLog(room) {
    if (!room.left && !room.log.isCatchingUp) this.#ownLog.compare(room.id, room.log.epoch);
  }

  #collectAcks() {
    const rooms = [...this.rooms.values()].filter((room) => !room.left);
    const rows = Chat.#limitLate(rooms, (room, maxLate) => room.takeAck(maxLate));
    if (rooms.some((room) => room.log.owesAck)) this.#acks.due();
    return rows;
  }

  /**
   * The rows of one frame, which together name at most MAX_LATE late messages.
   *
   * @template {{late: number[]}} Row
   * @param {Room[]} rooms
   * @param {(room: Room, maxLate: number) => Row | null} take
   */
  static #limitLate(rooms, take) {
    let maxLate = MAX_LATE;
    /** @type {Row[]} */
    const rows = [];
    for (const room of rooms) {
      const row = take(room, maxLate);
      if (!row) continue;
      maxLate -= row.late.length;
      rows.push(row);
    }
    return rows;
  }

  /** @param {Room} room @param {Message} message */
  #reject(room, message) {
    this.#transmit(protocol.reject(room.id, room.log.epoch, message.seq, "unreadable"));
  }

  /** @param {Room} room @param {Message} message @param {string} reason */
  #ended(room, message, reason) {
    const { seq, id, sent_at } = message;
    const receipt = room.receipts.get(seq);
    room.receipts.delete(seq);
    const own_doing = this.#deletions.delete(placeOf(room.id, seq));
    if (!room.isOwn(message) || (reason !== "expired" && reason !== "deleted")) return;
    const ended_at = reason === "expired" ? message.expires_at : this.#serverClock.now();
    this.#tombstones.put({ room: room.id, epoch: room.log.epoch, seq, id, sent_at, ended_at, why: reason, own_doing, ...receipt });
  }

  /** A notice knows more than the page's own tombstone, and may be the first to report the end. @param {Frame} frame */
  #putTombstone({ notice, data }) {
    const { room, epoch, seq, id, sent_at, expired_at, delivered, total, missing, missing_total, resendable } = data;
    const known = this.rooms.get(room);
    if (!known) return;
    this.#tombstones.put({
      room,
      epoch,
      seq,
      id,
      sent_at,
      ended_at: expired_at,
      why: "expired",
      delivered,
      total,
      missing: missing.slice(0, MAX_NAMED),
      missing_total,
      resendable,
      notice,
    });
    this.emit("room", { ...noChanges(), room: known });
  }

  /** After a connect only the newest notices are repeated, and none that was dismissed in the meantime. */
  #awaitNotices() {
    this.#unrepeated = new Set(this.notices.keys());
    this.#repeated = { count: 0, oldest: Infinity };
    this.#clock.clear(this.#noticesTimer);
    this.#noticesTimer = this.#clock.set(() => {
      const { count, oldest } = this.#repeated;
      const isOlder = (/** @type {string} */ notice) => count >= MAX_REPEATED && (this.notices.get(notice)?.at ?? 0) <= oldest;
      for (const notice of this.#unrepeated) if (!isOlder(notice)) this.notices.delete(notice);
      this.#unrepeated.clear();
      this.emit("notices", null);
    }, NOTICES_WITHIN_MS);
  }

  /** @param {string} key @param {any} frame */
  #requestChange(key, frame) {
    this.#changes.set(key, frame);
    if (!this.#transmit(frame)) this.#emitRoom(frame.room);
  }

  /** @param {string[]} kinds @param {Frame} frame */
  #answered(kinds, { room, seq }) {
    for (const kind of kinds) this.#changes.delete(`${kind}|${placeOf(room, seq)}`);
  }

  /** @param {Frame} frame */
  #changeRefused(frame) {
    const key = [...this.#changes.keys()].find(
      (candidate) =>
        candidate.startsWith(`${frame.of}|${frame.room ?? ""}`) && (frame.seq === undefined || candidate.endsWith(`|${frame.seq}`)),
    );
    if (!key) return;
    const request = this.#changes.get(key);
    if (frame.retryable) return this.#later(frame.retry_after_ms, () => this.#changes.has(key) && this.#transmit(request));
    this.#changes.delete(key);
    if (frame.of === "delete") this.#deletions.delete(placeOf(request.room, request.seq));
    if (frame.of === "delete" && DELETED_ALREADY.includes(frame.code)) return;
    this.emit("problem", { room: this.rooms.get(request.room), seq: request.seq, code: frame.code, of: frame.of, body: request.body });
  }

  /** @param {Frame} frame */
  #resendRefused(frame) {
    const request = this.#resends.get(frame.id);
    if (!request) return;
    if (frame.retryable) return this.#later(frame.retry_after_ms, () => this.#resends.has(request.id) && this.#transmit(request));
    this.#resends.delete(frame.id);
    this.#noteResend(request.room, request.seq, {
      problem: frame.code,
      ...(NEVER_RESENT.includes(frame.code) ? { resendable: false } : {}),
    });
    this.emit("notices", null);
    this.#emitRoom(request.room);
  }

  /** @param {any} request @param {Frame} sent */
  #resent(request, { sent_at }) {
    this.#resends.delete(request.id);
    this.#noteResend(request.room, request.seq, { resent_at: sent_at, problem: null, resendable: false });
    for (const { notice } of this.#noticesOf(request.room, request.seq)) this.dismiss(notice);
    this.emit("notices", null);
    this.#emitRoom(request.room);
  }

  /**
   * An own message arrived: the outbox waits for it, or it was sent again here, on another device or by the staff.
   *
   * @param {Room} room
   * @param {Message} message
   */
  #cameBack(room, message) {
    this.#ownLog.seen(room.id, room.log.epoch, message);
    this.#outbox.sent({ ...message, type: "sent", room: room.id, epoch: room.log.epoch });
    if (message.resends) this.#noteResend(room.id, message.resends, { resent_at: message.sent_at, problem: null, resendable: false });
  }

  /**
   * Add the outcome of an expired message's resend.
   *
   * @param {string} room
   * @param {number} seq
   * @param {Partial<Tombstone>} outcome
   */
  #noteResend(room, seq, outcome) {
    if (this.#tombstones.get(room, seq)) this.#tombstones.put({ room, seq, ...outcome });
    for (const { data } of this.#noticesOf(room, seq)) Object.assign(data, outcome);
  }

  /** @param {string} room @param {number} seq */
  #noticesOf(room, seq) {
    return [...this.notices.values()].filter(({ data }) => data.room === room && data.seq === seq);
  }

  /** @param {string} roomId */
  #emitRoom(roomId) {
    const room = this.rooms.get(roomId);
    if (room) this.emit("room", { ...noChanges(), room });
  }

  /** @param {Room} room @param {number | undefined} afterMs */
  #syncAgain(room, afterMs) {
    this.#later(afterMs, () => {
      room.log.syncFailed();
      this.#syncAndAcknowledge(room);
    });
  }

  /** @param {number | undefined} afterMs @param {() => void} action */
  #later(afterMs, action) {
    this.#clock.set(action, afterMs ?? RETRY_MS);
  }
}
