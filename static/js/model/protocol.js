/**
 * The wire contract, version 1 (docs/protocol.md): frames out are built here, frames in are checked here.
 * Knows no socket, no storage, no DOM. A frame that it cannot read is dropped. A message of which only the place can be read
 * is returned with `unshowable`, so that its sender is told instead of waiting.
 */

/**
 * A frame from the server after `parse` has checked it: its fields are those of docs/protocol.md for its `type`.
 *
 * @typedef {{type: string, [field: string]: any}} Frame
 * @typedef {{id: number, name: string}} Person
 * @typedef {{
 *   seq: number, id: string, from: Person | null, body: string, sent_at: number, expires_at: number, after?: number | null,
 *   reply_to?: number | null, edited_at?: number | null, resends?: number | null, unshowable?: boolean,
 * }} Message
 * @typedef {{
 *   room: string, name: string, kind: string, role: string, epoch: string, top: number, rev: number, delivered: number,
 *   read: number, unread: number, ttl: number, ttl_max: number, tracked?: boolean | null, topic?: string | null,
 *   online?: number[] | null,
 * }} RoomInfo
 * @typedef {{room: string, epoch: string, delivered: number, late: number[], read?: number}} AckRow
 *
 * A machine's time and its timers. now(): epoch ms.
 * @typedef {{now: () => number, set: (action: () => void, ms: number) => any, clear: (handle: any) => void}} Clock
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

/**
 * The limits until `welcome` brings others. `body` in code points, `frame` in bytes, `unsent` in messages, the rest in
 * seconds.
 */
export const DEFAULT_LIMITS = Object.freeze({
  body: 4000,
  frame: 64 * 1024,
  ttl_min: 10,
  ttl_max: 28 * 86400,
  unsent: 1000,
  id_s: 86400,
});

/** @type {Set<number>} */
const GIVES_UP = new Set([CLOSE.NO_SESSION, CLOSE.BANNED, CLOSE.OUTDATED]);
/** @type {Set<number>} */
const KEEPS_BACKOFF = new Set([CLOSE.BAD_FRAMES, CLOSE.TOO_SLOW]);

/** code: of a close. @param {number} code */
export const mayReconnect = (code) => !GIVES_UP.has(code);
/** @param {number} code */
export const mayResetBackoff = (code) => !KEEPS_BACKOFF.has(code);

/** Count as the server does: one per code point, so an emoji outside the basic plane is one, not two. @param {string} text */
export function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** Return the text as the store accepts it: no U+0000, no lone surrogate, no blank line at either end. @param {string} text */
export function cleanBody(text) {
  return text
    .replaceAll("\u0000", "")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .trim();
}

/**
 * Encode a frame or an array of frames; null when the server would close the socket because of its size.
 *
 * @param {object} frames
 */
export function encode(frames, limit = DEFAULT_LIMITS.frame) {
  const text = JSON.stringify(frames);
  // A code unit is at most 3 bytes of UTF-8, so most frames need no exact count.
  if (text.length * 3 > limit && new TextEncoder().encode(text).length > limit) return null;
  return text;
}

/** @param {Record<string, any>} fields */
const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));

/** @param {object[]} rooms */
export const hello = (rooms) => ({ type: "hello", v: VERSION, rooms });
/** @param {{id: string, room: string, body: string, ttl: number | null, reply_to: number | null}} fields */
export const send = ({ id, room, body, ttl, reply_to }) => given({ type: "send", id, room, body, ttl, reply_to });
/** @param {object[]} rooms */
export const ack = (rooms) => ({ type: "ack", rooms });
/** @param {{room: string, epoch: string, since: number, rev: number | null}} fields */
export const sync = ({ room, epoch, since, rev }) => given({ type: "sync", room, epoch, since, rev });
/** @param {string} room @param {number} before @param {number} limit */
export const history = (room, before, limit) => ({ type: "history", room, before, limit });
/** @param {string} room @param {string} epoch @param {number} seq @param {string} body */
export const edit = (room, epoch, seq, body) => ({ type: "edit", room, epoch, seq, body });
/** @param {string} room @param {string} epoch @param {number} seq */
export const remove = (room, epoch, seq) => ({ type: "delete", room, epoch, seq });
/** @param {string} room @param {string} epoch @param {number} seq @param {number} ttl */
export const extend = (room, epoch, seq, ttl) => ({ type: "extend", room, epoch, seq, ttl });
/** @param {string} room @param {string} epoch @param {number} seq @param {string} id */
export const resend = (room, epoch, seq, id) => ({ type: "resend", room, epoch, seq, id });
/** @param {string} room @param {string} epoch @param {number} seq @param {string} reason */
export const reject = (room, epoch, seq, reason) => ({ type: "reject", room, epoch, seq, reason });
/** @param {string} notice */
export const dismiss = (notice) => ({ type: "dismiss", notice });
/** @param {string} room */
export const typing = (room) => ({ type: "typing", room });
/** @param {number} n */
export const ping = (n) => ({ type: "ping", n });

/** @typedef {(value: any) => boolean} Check */

/** @type {Check} */
const isText = (value) => typeof value === "string";
/** @type {Check} */
const isWhole = (value) => Number.isSafeInteger(value) && value >= 0;
/** @type {Check} */
const isFlag = (value) => typeof value === "boolean";
/** @type {Check} */
const isList = (value) => Array.isArray(value);
/** @type {Check} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
/** @type {Check} */
const isPerson = (value) => isObject(value) && isWhole(value.id) && isText(value.name);
/** @param {Check} check @returns {Check} */
const nullable = (check) => (value) => value === null || check(value);
/** @param {Check} check @returns {Check} */
const optional = (check) => (value) => value === undefined || nullable(check)(value);

const PLACE = { room: isText, epoch: isText, seq: isWhole };
const MESSAGE = {
  seq: isWhole,
  id: isText,
  from: isPerson,
  body: isText,
  sent_at: isWhole,
  expires_at: isWhole,
  reply_to: optional(isWhole),
  edited_at: optional(isWhole),
  resends: optional(isWhole),
};
const ROOM = {
  room: isText,
  name: isText,
  kind: isText,
  role: isText,
  epoch: isText,
  top: isWhole,
  rev: isWhole,
  delivered: isWhole,
  read: isWhole,
  unread: isWhole,
  ttl: isWhole,
  ttl_max: isWhole,
  tracked: optional(isFlag),
  online: optional(isList),
};

const MISSED = { user: isWhole, name: isText, reason: isText, attempts: optional(isWhole) };
/** @type {Record<string, Record<string, Check>>} */
const NOTICES = {
  undelivered: {
    room: isText,
    epoch: isText,
    seq: isWhole,
    id: isText,
    sent_at: isWhole,
    expired_at: isWhole,
    delivered: isWhole,
    total: isWhole,
    missing: isList,
    missing_total: isWhole,
    resendable: isFlag,
  },
  summary: { messages: isWhole, from_at: isWhole, to_at: isWhole, rooms: isObject },
};

/** @type {Record<string, Record<string, Check>>} */
const SHAPES = {
  welcome: { connection: isText, user: isPerson, now: isWhole, store: isText, limits: isObject, rooms: isList },
  resumed: {
    room: isText,
    epoch: nullable(isText),
    ok: isFlag,
    from: isWhole,
    upto: isWhole,
    top: isWhole,
    rev: isWhole,
    more: isFlag,
    messages: isList,
    gone: isList,
    changed: optional(isList),
  },
  sent: { id: isText, room: isText, epoch: isText, seq: isWhole, sent_at: isWhole, expires_at: isWhole, duplicate: isFlag },
  message: { ...PLACE, ...MESSAGE, after: optional(isWhole) },
  receipt: { room: isText, epoch: isText, receipts: isList },
  edited: { ...PLACE, rev: isWhole, body: optional(isText), edited_at: optional(isWhole), expires_at: optional(isWhole) },
  deleted: { ...PLACE, rev: isWhole },
  expired: { room: isText, epoch: isText, seqs: isList },
  history: { room: isText, epoch: isText, before: isWhole, messages: isList, more: isFlag },
  notice: { notice: isText, kind: isText, at: isWhole, data: isObject, dismissed: isFlag },
  position: { room: isText, epoch: isText, top: isWhole, rev: isWhole },
  presence: { room: isText, user: isWhole, online: isFlag },
  typing: { room: isText, user: isWhole },
  room: { room: isText },
  error: { code: isText },
  pong: {},
  bye: {},
};

/** @param {any} frame @param {Record<string, Check>} shape */
const fits = (frame, shape) => Object.entries(shape).every(([field, check]) => check(frame[field]));

/**
 * Return the message, or one that cannot be shown when only its place can be read, else null.
 *
 * @param {any} message
 * @returns {Message | null}
 */
function showable(message) {
  if (!isObject(message) || !isWhole(message.seq)) return null;
  if (fits(message, MESSAGE)) return message;
  return {
    seq: message.seq,
    id: "",
    from: isPerson(message.from) ? message.from : null,
    body: "",
    sent_at: isWhole(message.sent_at) ? message.sent_at : 0,
    expires_at: isWhole(message.expires_at) ? message.expires_at : Number.MAX_SAFE_INTEGER,
    unshowable: true,
  };
}

/** @type {Check} */
const isPair = (row) => isList(row) && isWhole(row[0]);
/** @param {any[]} rows */
const readable = (rows) => rows.map(showable).filter(Boolean);

/** @param {any} frame @returns {Frame | null} */
function check(frame) {
  if (!isObject(frame) || !Object.hasOwn(SHAPES, frame.type)) return null;
  if (frame.type === "message" && fits(frame, PLACE)) {
    const message = showable(frame);
    return message?.unshowable
      ? { ...message, type: "message", room: frame.room, epoch: frame.epoch, after: isWhole(frame.after) ? frame.after : undefined }
      : frame;
  }
  if (!fits(frame, SHAPES[frame.type])) return null;
  if (frame.type === "welcome")
    return { ...frame, rooms: frame.rooms.filter((/** @type {any} */ room) => isObject(room) && fits(room, ROOM)) };
  if (frame.type === "room" && !frame.removed && !fits(frame, ROOM)) return null;
  if (frame.type === "resumed")
    return {
      ...frame,
      messages: readable(frame.messages),
      changed: frame.changed ? readable(frame.changed) : undefined,
      gone: frame.gone.filter(isPair),
    };
  if (frame.type === "history") return { ...frame, messages: readable(frame.messages) };
  if (frame.type === "receipt")
    return { ...frame, receipts: frame.receipts.filter((/** @type {any} */ row) => isList(row) && row.length >= 4 && row.every(isWhole)) };
  if (frame.type === "notice") return noticeOf(frame);
  if (frame.type === "expired") return { ...frame, seqs: frame.seqs.filter(isWhole) };
  return frame;
}

/**
 * A notice of an unknown kind is dropped, because it cannot be shown. A dismissed one needs only its name.
 *
 * @param {any} frame
 * @returns {Frame | null}
 */
function noticeOf(frame) {
  if (frame.dismissed) return frame;
  if (!Object.hasOwn(NOTICES, frame.kind) || !fits(frame.data, NOTICES[frame.kind])) return null;
  if (frame.kind === "summary") return frame;
  return {
    ...frame,
    data: {
      ...frame.data,
      missing: frame.data.missing.filter((/** @type {any} */ recipient) => isObject(recipient) && fits(recipient, MISSED)),
    },
  };
}

/**
 * Parse one WebSocket text: the frames in it that are known and well formed, in order.
 *
 * @param {string} data
 * @returns {Frame[]}
 */
export function parse(data) {
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return [];
  }
  return (Array.isArray(value) ? value : [value]).map(check).filter((frame) => frame !== null);
}
