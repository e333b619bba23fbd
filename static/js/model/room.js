/** One room as this page knows it: its name and settings, its log, its members, the receipts of own messages. No DOM. */
import { isDelivered, mergeReceipt, onTheWay } from "./delivery-state.js";
import { RoomLog } from "./log.js";

/** @import { AckRow, Frame, Message, Person, RoomInfo } from "./protocol.js" */
/** @import { Receipt } from "./delivery-state.js" */
/** @import { OutboxItem } from "./outbox.js" */

/**
 * @typedef {{user: number, name: string, role: string}} Member
 * @typedef {{at: number, by: Person | null, from: number, to: number}} LifetimeChange
 */

const TYPING_MS = 6000; // a frame comes every 3 s while someone types

export class Room {
  name = "";
  kind = "";
  role = "";
  topic = "";
  ttl = 0; // s
  ttl_max = 0; // s
  tracked = true;
  hasPresence = false;
  muted = false;
  /** @type {Map<number, Receipt>} */
  receipts = new Map(); // by seq
  /** @type {Map<string, Message>} */
  accepted = new Map(); // id -> an own message that has its seq but has not come back yet
  /** @type {LifetimeChange[]} */
  lifetimes = []; // shown as lines between the messages
  lifetimesKnown = false; // whether `lifetimes` is up to date
  /** @type {Set<number>} */
  online = new Set();
  /** @type {Member[] | null} */
  members = null; // null until they are loaded
  /** @type {number | null} */
  membersTotal = null;
  left = false;
  read = 0;
  readSent = 0;
  /** @type {Map<number, number>} */
  #typing = new Map(); // user -> until, epoch ms
  #unreadThen = 0;
  #topThen = 0;

  /** now(): the server's time, epoch ms. @param {{info: RoomInfo, me: Person, now: () => number}} parts */
  constructor({ info, me, now }) {
    this.id = info.room;
    this.me = me;
    this.now = now;
    this.log = new RoomLog({ room: info.room, place: info, now });
    this.update(info);
  }

  /** info: the room object of `welcome` or `room`. @param {RoomInfo} info */
  update(info) {
    if (this.ttl !== info.ttl) this.lifetimesKnown = false;
    Object.assign(this, {
      name: info.name,
      kind: info.kind,
      role: info.role,
      ttl: info.ttl,
      ttl_max: info.ttl_max,
      tracked: info.tracked ?? true,
      topic: info.topic ?? this.topic,
    });
    this.left = false;
    this.read = Math.max(this.read, info.read);
    this.readSent = Math.max(this.readSent, info.read);
    this.#unreadThen = info.unread;
    this.#topThen = info.top;
    if (info.online) this.online = new Set(info.online);
    this.hasPresence = Boolean(info.online);
  }

  get moderates() {
    return this.role === "owner" || this.role === "moderator";
  }

  /** @param {{from: Person | null}} message */
  isOwn(message) {
    return message.from?.id === this.me.id;
  }

  /** {count, atLeast}: exact if the log reaches down to the read cursor, otherwise based on the server's count. */
  get unread() {
    const newSince = (/** @type {number} */ from) => this.log.list.filter((message) => message.seq > from && !this.isOwn(message)).length;
    if (this.log.floor <= this.read || this.read >= this.#topThen) return { count: newSince(this.read), atLeast: false };
    return { count: this.#unreadThen + newSince(Math.max(this.read, this.#topThen)), atLeast: this.#unreadThen >= 100 };
  }

  get mentions() {
    const name = this.me.name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const mention = new RegExp(`(^|[^\\p{L}\\p{N}_])@${name}(?![\\p{L}\\p{N}_])`, "iu");
    return this.log.list.filter((message) => message.seq > this.read && !this.isOwn(message) && mention.test(message.body)).length;
  }

  /** Move the read cursor to what the user has seen; true when it moved. @param {number} seq */
  see(seq) {
    const read = Math.min(seq, this.log.last);
    if (read <= this.read) return false;
    this.read = read;
    return true;
  }

  /** The acknowledgement that is due now, or null. @param {number} maxLate @returns {AckRow | null} */
  takeAck(maxLate) {
    if (this.read <= this.readSent) return this.log.nextAck(maxLate);
    this.readSent = this.read;
    return { ...this.log.ack(maxLate), read: this.read };
  }

  /** rows: [seq, delivered, read, total]. @param {number[][]} rows */
  takeReceipts(rows) {
    for (const row of rows) this.receipts.set(row[0], mergeReceipt(this.receipts.get(row[0]), row));
  }

  /** Whether a member owes this own message. @param {{epoch: string, seq: number}} message */
  isOwed({ epoch, seq }) {
    const receipt = epoch === this.log.epoch ? this.receipts.get(seq) : undefined;
    return this.tracked && !isDelivered(receipt);
  }

  /** Own messages without a receipt, newest first: after a reload the server does not repeat the complete ones. */
  get withoutReceipt() {
    if (!this.tracked) return [];
    return this.log.list.filter((message) => this.isOwn(message) && !this.receipts.has(message.seq)).reverse();
  }

  /** Own messages that are undelivered to someone, oldest first. */
  get onTheWay() {
    return this.log.list.filter((message) => this.isOwn(message) && onTheWay(this.receipts.get(message.seq)));
  }

  /** The newest own message that has not expired, or null. */
  get lastOwn() {
    return this.log.list.findLast((message) => this.isOwn(message) && message.expires_at > this.now()) ?? null;
  }

  /**
   * An own message was accepted before it came back: keep showing it, with its seq.
   *
   * @param {OutboxItem} item
   * @param {Frame} sent
   */
  accept(item, sent) {
    if (sent.epoch !== this.log.epoch || this.log.messages.has(sent.seq) || sent.seq <= this.log.last) return;
    this.accepted.set(item.id, {
      id: item.id,
      seq: sent.seq,
      from: this.me,
      body: item.body,
      sent_at: sent.sent_at,
      expires_at: sent.expires_at,
      reply_to: item.reply_to,
    });
  }

  /** The log has a new epoch: the seqs of the old one mean nothing. */
  restart() {
    this.accepted.clear();
    this.receipts.clear();
  }

  /** Remove the accepted messages that have come back or have expired. */
  settleAccepted() {
    const now = this.now();
    for (const [id, message] of this.accepted) if (message.seq <= this.log.last || message.expires_at <= now) this.accepted.delete(id);
  }

  /** @param {number} user */
  typed(user) {
    this.#typing.set(user, this.now() + TYPING_MS);
  }

  /** True when they were typing. @param {number} user */
  stoppedTyping(user) {
    return this.#typing.delete(user);
  }

  get typing() {
    const now = this.now();
    for (const [user, until] of this.#typing) if (until <= now) this.#typing.delete(user);
    return [...this.#typing.keys()].filter((user) => user !== this.me.id);
  }

  /** The name of a user of this room, or null when neither the members nor the messages have it. @param {number} user */
  nameOf(user) {
    const member = this.members?.find((candidate) => candidate.user === user);
    return member?.name ?? this.log.list.findLast((message) => message.from?.id === user)?.from?.name ?? null;
  }

  /** The other member of a direct room, or null until known. @returns {{user: number, name: string} | null} */
  get partner() {
    if (this.kind !== "direct") return null;
    const member = this.members?.find(({ user }) => user !== this.me.id);
    if (member) return member;
    const message = this.log.list.find(({ from }) => from && from.id !== this.me.id);
    return message?.from ? { user: message.from.id, name: message.from.name } : null;
  }
}
