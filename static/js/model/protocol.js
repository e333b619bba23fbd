/**
 * The wire contract, version 1 (docs/protocol.md): frames out are built here, frames in are checked here.
 * Knows no socket, no storage, no DOM. What it cannot read it drops; a message of which at least the place is
 * readable comes back with `unshowable`, so that its sender is told instead of waiting.
 */

export const VERSION = 1;
export const FRAMES_PER_ARRAY = 100;
export const ROOMS_PER_HELLO = 500;

export const CLOSE = Object.freeze({
  TOO_BIG: 1009,
  BAD_FRAMES: 4400,
  TOO_SLOW: 4429,
  NO_SESSION: 4501,
  BANNED: 4503,
  OUTDATED: 4504,
});

/** What holds until `welcome` says better. Lengths in code points, `frame` in bytes, the rest in seconds. */
export const DEFAULT_LIMITS = Object.freeze({
  body: 4000,
  frame: 64 * 1024,
  ttl_min: 10,
  ttl_max: 28 * 86400,
  unsent: 1000,
  id_s: 86400,
});

const GIVES_UP = new Set([CLOSE.NO_SESSION, CLOSE.BANNED, CLOSE.OUTDATED]);
const KEEPS_BACKOFF = new Set([CLOSE.BAD_FRAMES, CLOSE.TOO_SLOW]);

export const mayReconnect = (code) => !GIVES_UP.has(code);
export const mayResetBackoff = (code) => !KEEPS_BACKOFF.has(code);

/** Count as the server does: one per code point, so an emoji outside the basic plane is one, not two. */
export function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** Return the text as the store takes it: no U+0000, no lone surrogate, no blank line at either end. */
export function cleanBody(text) {
  return text
    .replaceAll("\u0000", "")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .trim();
}

/** Encode a frame or an array of frames; null when the server would close the socket for its size. */
export function encode(frames, limit = DEFAULT_LIMITS.frame) {
  const text = JSON.stringify(frames);
  // A code unit is at most 3 bytes of UTF-8, so most frames need no exact count.
  if (text.length * 3 > limit && new TextEncoder().encode(text).length > limit) return null;
  return text;
}

const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));

export const hello = (rooms) => ({ type: "hello", v: VERSION, rooms });
export const send = ({ id, room, body, ttl, reply_to }) => given({ type: "send", id, room, body, ttl, reply_to });
export const ack = (rooms) => ({ type: "ack", rooms });
export const sync = ({ room, epoch, since, rev }) => given({ type: "sync", room, epoch, since, rev });
export const history = (room, before, limit) => ({ type: "history", room, before, limit });
export const edit = (room, epoch, seq, body) => ({ type: "edit", room, epoch, seq, body });
export const remove = (room, epoch, seq) => ({ type: "delete", room, epoch, seq });
export const extend = (room, epoch, seq, ttl) => ({ type: "extend", room, epoch, seq, ttl });
export const resend = (room, epoch, seq, id) => ({ type: "resend", room, epoch, seq, id });
export const reject = (room, epoch, seq, reason) => ({ type: "reject", room, epoch, seq, reason });
export const dismiss = (notice) => ({ type: "dismiss", notice });
export const typing = (room) => ({ type: "typing", room });
export const ping = (n) => ({ type: "ping", n });

const text = (value) => typeof value === "string";
const whole = (value) => Number.isSafeInteger(value) && value >= 0;
const flag = (value) => typeof value === "boolean";
const list = (value) => Array.isArray(value);
const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const nullable = (check) => (value) => value === null || check(value);
const maybe = (check) => (value) => value === undefined || value === null || check(value);
const person = (value) => object(value) && whole(value.id) && text(value.name);

const PLACE = { room: text, epoch: text, seq: whole };
const MESSAGE = { seq: whole, id: text, from: person, body: text, sent_at: whole, expires_at: whole, reply_to: maybe(whole), edited_at: maybe(whole), resends: maybe(whole) };
const ROOM = { room: text, name: text, kind: text, role: text, epoch: text, top: whole, rev: whole, delivered: whole, read: whole, unread: whole, ttl: whole, ttl_max: whole, tracked: maybe(flag), online: maybe(list) };

const MISSED = { user: whole, name: text, reason: text, attempts: maybe(whole) };
const NOTICES = {
  undelivered: { room: text, epoch: text, seq: whole, id: text, sent_at: whole, expired_at: whole, delivered: whole, total: whole, missing: list, missing_total: whole, resendable: flag },
  summary: { messages: whole, from_at: whole, to_at: whole, rooms: object },
};

const SHAPES = {
  welcome: { connection: text, user: person, now: whole, store: text, limits: object, rooms: list },
  resumed: { room: text, epoch: nullable(text), ok: flag, from: whole, upto: whole, top: whole, rev: whole, more: flag, messages: list, gone: list, changed: maybe(list) },
  sent: { id: text, room: text, epoch: text, seq: whole, sent_at: whole, expires_at: whole, duplicate: flag },
  message: { ...PLACE, ...MESSAGE, after: maybe(whole) },
  receipt: { room: text, epoch: text, receipts: list },
  edited: { ...PLACE, rev: whole, body: maybe(text), edited_at: maybe(whole), expires_at: maybe(whole) },
  deleted: { ...PLACE, rev: whole },
  expired: { room: text, epoch: text, seqs: list },
  history: { room: text, epoch: text, before: whole, messages: list, more: flag },
  notice: { notice: text, kind: text, at: whole, data: object, dismissed: flag },
  position: { room: text, epoch: text, top: whole, rev: whole },
  presence: { room: text, user: whole, online: flag },
  typing: { room: text, user: whole },
  room: { room: text },
  error: { code: text },
  pong: {},
  bye: {},
};

const fits = (frame, shape) => Object.entries(shape).every(([field, check]) => check(frame[field]));

/** Return the message, or, when only its place can be read, one that says it cannot be shown; else null. */
function showable(message) {
  if (!object(message) || !whole(message.seq)) return null;
  if (fits(message, MESSAGE)) return message;
  return { seq: message.seq, id: "", from: person(message.from) ? message.from : null, body: "", sent_at: whole(message.sent_at) ? message.sent_at : 0, expires_at: whole(message.expires_at) ? message.expires_at : Number.MAX_SAFE_INTEGER, unshowable: true };
}

const pair = (row) => list(row) && whole(row[0]);
const readable = (rows) => rows.map(showable).filter(Boolean);

function check(frame) {
  if (!object(frame) || !Object.hasOwn(SHAPES, frame.type)) return null;
  if (frame.type === "message" && fits(frame, PLACE)) {
    const message = showable(frame);
    return message.unshowable ? { ...message, type: "message", room: frame.room, epoch: frame.epoch, after: whole(frame.after) ? frame.after : undefined } : frame;
  }
  if (!fits(frame, SHAPES[frame.type])) return null;
  if (frame.type === "welcome") return { ...frame, rooms: frame.rooms.filter((room) => object(room) && fits(room, ROOM)) };
  if (frame.type === "room" && !frame.removed && !fits(frame, ROOM)) return null;
  if (frame.type === "resumed") return { ...frame, messages: readable(frame.messages), changed: frame.changed ? readable(frame.changed) : undefined, gone: frame.gone.filter(pair) };
  if (frame.type === "history") return { ...frame, messages: readable(frame.messages) };
  if (frame.type === "receipt") return { ...frame, receipts: frame.receipts.filter((row) => list(row) && row.length >= 4 && row.every(whole)) };
  if (frame.type === "notice") return noticeOf(frame);
  if (frame.type === "expired") return { ...frame, seqs: frame.seqs.filter(whole) };
  return frame;
}

/** A notice of a kind that this page does not know is none that it could show; of one that is put aside the name will do. */
function noticeOf(frame) {
  if (frame.dismissed) return frame;
  if (!Object.hasOwn(NOTICES, frame.kind) || !fits(frame.data, NOTICES[frame.kind])) return null;
  if (frame.kind === "summary") return frame;
  return { ...frame, data: { ...frame.data, missing: frame.data.missing.filter((one) => object(one) && fits(one, MISSED)) } };
}

/** Read one WebSocket text: the frames in it that are known and well formed, in order. */
export function parse(data) {
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return [];
  }
  return (Array.isArray(value) ? value : [value]).map(check).filter(Boolean);
}
