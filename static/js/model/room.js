/** One room as this page knows it: what it is called, its log, who is there, how far own messages have come. No DOM. */
import { mergeReceipt, onTheWay } from "./delivery-state.js";
import { RoomLog } from "./log.js";

const TYPING_MS = 6000; // frames come each 3 s while somebody types

export class Room {
  receipts = new Map(); // seq -> {delivered, read, total}
  accepted = new Map(); // id -> an own message that has its seq but has not come back yet
  lifetimes = []; // its changes of lifetime: {at, by: {id, name}|null, from, to}, lines between messages
  lifetimes_known = false; // up to now
  online = new Set();
  members = null; // [{user, name, role}] once asked
  members_total = null;
  left = false;
  #typing = new Map(); // user -> until, epoch ms
  #unread_then = 0;
  #top_then = 0;

  constructor({ info, me, now }) {
    this.id = info.room;
    this.me = me;
    this.now = now;
    this.log = new RoomLog({ room: info.room, place: info, now });
    this.read = 0;
    this.read_sent = 0;
    this.update(info);
  }

  /** info: the room object of `welcome` or `room`. */
  update(info) {
    if (this.ttl !== info.ttl) this.lifetimes_known = false;
    Object.assign(this, { name: info.name, kind: info.kind, role: info.role, ttl: info.ttl, ttl_max: info.ttl_max, tracked: info.tracked ?? true, topic: info.topic ?? this.topic ?? "" });
    this.left = false;
    this.read = Math.max(this.read, info.read);
    this.read_sent = Math.max(this.read_sent, info.read);
    this.#unread_then = info.unread;
    this.#top_then = info.top;
    if (info.online) this.online = new Set(info.online);
    this.has_presence = Boolean(info.online);
  }

  get moderates() {
    return this.role === "owner" || this.role === "moderator";
  }

  isOwn(message) {
    return message.from?.id === this.me.id;
  }

  /** {count, atLeast}: exact where the log reaches down to the read cursor, else from the server's count. */
  get unread() {
    const fresh = (from) => this.log.list.filter((message) => message.seq > from && !this.isOwn(message)).length;
    if (this.log.floor <= this.read || this.read >= this.#top_then) return { count: fresh(this.read), atLeast: false };
    return { count: this.#unread_then + fresh(Math.max(this.read, this.#top_then)), atLeast: this.#unread_then >= 100 };
  }

  get mentions() {
    const name = this.me.name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const mine = new RegExp(`(^|[^\\p{L}\\p{N}_])@${name}(?![\\p{L}\\p{N}_])`, "iu");
    return this.log.list.filter((message) => message.seq > this.read && !this.isOwn(message) && mine.test(message.body)).length;
  }

  /** The cursor that the user's own eyes have moved; true when it moved. */
  see(seq) {
    const upto = Math.min(seq, this.log.last);
    if (upto <= this.read) return false;
    this.read = upto;
    return true;
  }

  /** What is to be acknowledged now, or null. */
  takeAck() {
    const ack = this.log.nextAck();
    if (this.read <= this.read_sent) return ack;
    this.read_sent = this.read;
    return { room: this.id, epoch: this.log.epoch, delivered: this.log.last, ...ack, read: this.read };
  }

  takeReceipts(rows) {
    for (const row of rows) this.receipts.set(row[0], mergeReceipt(this.receipts.get(row[0]), row));
  }

  /** Own messages of which nothing was told, newest first: after a reload the complete ones are not told again. */
  get untold() {
    if (!this.tracked) return [];
    return this.log.list.filter((message) => this.isOwn(message) && !this.receipts.has(message.seq)).reverse();
  }

  /** Own messages that somebody still lacks, oldest first. */
  get onTheWay() {
    return this.log.list.filter((message) => this.isOwn(message) && onTheWay(this.receipts.get(message.seq)));
  }

  /** An own message was accepted before it came back: keep it in sight under its seq. */
  accept(item, sent) {
    if (sent.epoch !== this.log.epoch || this.log.messages.has(sent.seq) || sent.seq <= this.log.last) return;
    this.accepted.set(item.id, { id: item.id, seq: sent.seq, from: this.me, body: item.body, sent_at: sent.sent_at, expires_at: sent.expires_at, reply_to: item.reply_to });
  }

  /** Drop what has come back, or is over. */
  settleAccepted() {
    const now = this.now();
    for (const [id, message] of this.accepted) if (message.seq <= this.log.last || message.expires_at <= now) this.accepted.delete(id);
  }

  typed(user) {
    this.#typing.set(user, this.now() + TYPING_MS);
  }

  /** True when it was known to type. */
  stoppedTyping(user) {
    return this.#typing.delete(user);
  }

  get typing() {
    const now = this.now();
    for (const [user, until] of this.#typing) if (until <= now) this.#typing.delete(user);
    return [...this.#typing.keys()].filter((user) => user !== this.me.id);
  }

  /** The name of a user of this room, as far as anything here has told it. */
  nameOf(user) {
    const member = this.members?.find((one) => one.user === user);
    return member?.name ?? this.log.list.findLast((message) => message.from?.id === user)?.from.name ?? null;
  }

  /** The other one of a direct room: {user, name}, or null until known. */
  get partner() {
    if (this.kind !== "direct") return null;
    const member = this.members?.find((one) => one.user !== this.me.id);
    if (member) return member;
    const message = this.log.list.find((one) => one.from && !this.isOwn(one));
    if (message) return { user: message.from.id, name: message.from.name };
    return null;
  }
}
