/** Every phrase that depends on a value: times, durations, reasons, errors by code. Pure except for the catalogue. */
import { fill, gettext, language, ngettext } from "./i18n.js";

/** @import { Receipt } from "./model/delivery-state.js" */

/** @typedef {{reason: string | null, attempts?: number | null}} Reason */

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const WEEK = 7 * DAY;

/** By language and options: making one takes longer than anything else that a message needs. @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** @param {Intl.DateTimeFormatOptions} options */
function format(options) {
  const key = `${language()} ${JSON.stringify(options)}`;
  const format = formats.get(key) ?? new Intl.DateTimeFormat(language(), options);
  formats.set(key, format);
  return format;
}

/** @param {string} first @param {string} second */
export const sentences = (first, second) => fill(gettext("%(first)s %(second)s"), { first, second });
/** @param {number} n */
export const number = (n) => n.toLocaleString(language());
/** @param {number} ms  epoch ms, as in all of these */
export const clockTime = (ms) => format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(ms);
/** @param {number} ms */
export const clockSeconds = (ms) => format({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(ms);

/** 2026-11-23, in the reader's time zone. @param {number} ms */
export function isoDay(ms) {
  const date = new Date(ms);
  return [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
}

/** Whole calendar days from now to ms, in the reader's time zone. @param {number} now @param {number} ms */
function daysFrom(now, ms) {
  const midnight = (/** @type {number} */ value) => new Date(value).setHours(0, 0, 0, 0);
  return Math.round((midnight(ms) - midnight(now)) / DAY);
}

/** @param {number} ms @param {number} now */
export function dayName(ms, now) {
  const days = daysFrom(now, ms);
  const date = format({ day: "numeric", month: "long" }).format(ms);
  if (days === 0) return fill(gettext("Today, %(date)s"), { date });
  if (days === -1) return fill(gettext("Yesterday, %(date)s"), { date });
  return format({ weekday: "long", day: "numeric", month: "long" }).format(ms);
}

/** The short form in the list of rooms: 14:24, Sun, 3 Nov. @param {number} ms @param {number} now */
export function shortDate(ms, now) {
  const days = daysFrom(now, ms);
  if (days === 0) return clockTime(ms);
  if (days > -7) return format({ weekday: "short" }).format(ms);
  return format({ day: "numeric", month: "short" }).format(ms);
}

/** @param {number} ms @param {number} now */
export function expiresTitle(ms, now) {
  const time = clockTime(ms);
  const days = daysFrom(now, ms);
  if (days === 0) return fill(gettext("Expires today at %(time)s"), { time });
  if (days === 1) return fill(gettext("Expires tomorrow at %(time)s"), { time });
  return fill(gettext("Expires on %(date)s at %(time)s"), { date: format({ day: "numeric", month: "long" }).format(ms), time });
}

/** The remaining time in a short form: 4 weeks, 6 days, 7 h, 1 h 12 min, 57 min, 41 s. @param {number} ms */
export function remaining(ms) {
  const nearly = ms + MINUTE; // a lifetime of a week, or of 8 hours, is shown as such in its first minute
  if (nearly >= 2 * WEEK) return count("week", Math.floor(nearly / WEEK));
  if (nearly >= 2 * DAY) return count("day", Math.floor(nearly / DAY));
  if (ms >= 2 * HOUR) return fill(gettext("%(n)s h"), { n: Math.floor(nearly / HOUR) });
  if (ms > HOUR) return hoursAndMinutes(ms);
  if (ms > MINUTE) return fill(gettext("%(n)s min"), { n: Math.floor(ms / MINUTE) });
  return fill(gettext("%(n)s s"), { n: Math.max(0, Math.ceil(ms / 1000)) });
}

/** @param {number} ms */
function hoursAndMinutes(ms) {
  const minutes = Math.floor((ms % HOUR) / MINUTE);
  const hours = Math.floor(ms / HOUR);
  return minutes ? fill(gettext("%(hours)s h %(minutes)s min"), { hours, minutes }) : fill(gettext("%(n)s h"), { n: hours });
}

/** How long until `remaining` changes, in ms. @param {number} ms */
export function nextTick(ms) {
  if (ms <= MINUTE) return ms % 1000 || 1000;
  return Math.min(ms - MINUTE, ms % MINUTE || MINUTE);
}

/** @param {"second" | "minute" | "hour" | "day" | "week"} unit @param {number} n */
function count(unit, n) {
  const forms = {
    second: ngettext("%(n)s second", "%(n)s seconds", n),
    minute: ngettext("%(n)s minute", "%(n)s minutes", n),
    hour: ngettext("%(n)s hour", "%(n)s hours", n),
    day: ngettext("%(n)s day", "%(n)s days", n),
    week: ngettext("%(n)s week", "%(n)s weeks", n),
  };
  return fill(forms[unit], { n: number(n) });
}

/** @type {["second" | "minute" | "hour" | "day" | "week", number][]} */
const UNITS = [
  ["week", 7 * 86_400],
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];

/** A lifetime in the largest unit that divides it: 1 week, 8 hours, 90 seconds. @param {number} seconds */
export function duration(seconds) {
  const [unit, size] = UNITS.find(([, length]) => seconds % length === 0) ?? ["second", 1];
  return count(unit, seconds / size);
}

/** The same, shorter for unusual lifetimes: 30 s, 5 min. @param {number} seconds */
export function shortDuration(seconds) {
  if (seconds % 60) return fill(gettext("%(n)s s"), { n: number(seconds) });
  if (seconds % 3600) return fill(gettext("%(n)s min"), { n: number(seconds / 60) });
  return duration(seconds);
}

/** Names as in a sentence. more: "and 5 more" follows them. @param {string[]} list */
export function names(list, { more = false } = {}) {
  if (more) return list.join(gettext(", "));
  if (list.length < 2) return list.join();
  return fill(gettext("%(names)s and %(last)s"), { names: list.slice(0, -1).join(gettext(", ")), last: list[list.length - 1] });
}

/** The line about a loss of the server. from 0: unknown. @param {number} from @param {number} to @param {number} now */
export function doubt(from, to, now) {
  const time = (/** @type {number} */ ms) => (daysFrom(now, ms) === 0 ? clockTime(ms) : `${shortDate(ms, now)} ${clockTime(ms)}`);
  if (!from) return fill(gettext("Messages from before %(to)s may be missing: the server lost data."), { to: time(to) });
  const times = { from: time(from), to: time(to) };
  return fill(gettext("Messages between %(from)s and %(to)s may be missing: the server lost data."), times);
}

/** @param {Reason} missed @returns {string} */
export function reason({ reason: why, attempts }) {
  if (why === "no_ack") return fill(ngettext("no answer, %(n)s try", "no answer, %(n)s tries", attempts ?? 0), { n: attempts ?? 0 });
  /** @type {Record<string, string>} */
  const texts = {
    offline: gettext("offline"),
    late: gettext("received it too late"),
    client_rejected: gettext("their device could not show it"),
    left_room: gettext("left the room"),
    expired: gettext("expired"),
  };
  return texts[why ?? ""] ?? why ?? "";
}

/** The same for the notices, where there is more space. @param {Reason} missing */
export const longReason = (missing) => (missing.reason === "offline" ? gettext("offline the whole time") : reason(missing));

/** Why a live message is undelivered to a recipient. @param {Reason} recipient */
export function undelivered(recipient) {
  if (recipient.reason === "offline") return gettext("offline, will be sent when they reconnect");
  if (recipient.reason || recipient.attempts) return reason({ ...recipient, reason: recipient.reason ?? "no_ack" });
  return gettext("on its way");
}

/** Why a message was not sent. @param {string | null} code  of the server or of the outbox */
export function notSent(code, limit = 4000) {
  const doubt = gettext("The server lost data while this message was under way. Some recipients may have missed it.");
  /** @type {Record<string, string>} */
  const texts = {
    body_too_long: fill(gettext("Not sent: longer than %(n)s characters"), { n: number(limit) }),
    body_empty: gettext("Not sent: empty"),
    bad_ttl: gettext("Not sent: its lifetime is not allowed here"),
    not_member: gettext("Not sent: you are not a member of this room"),
    forbidden: gettext("Not sent: not allowed"),
    no_such_message: gettext("Not sent: the message it replies to no longer exists"),
    too_old: gettext("Not sent: too old to send without asking you"),
    cannot_be_sent: gettext("Not sent: the connection closed at every attempt"),
    in_doubt: sentences(doubt, gettext("Send it again?")),
    ended_in_doubt: doubt,
  };
  return texts[code ?? ""] ?? gettext("Not sent");
}

/** Why a message waits until it is sent again automatically. @param {string | null} code @param {number} seconds */
export function waitsFor(code, seconds) {
  if (code === "rate_limited")
    return seconds > 0
      ? fill(gettext("Too many messages at once. Trying again in %(n)s s"), { n: seconds })
      : gettext("Too many messages at once. Trying again");
  if (code) return gettext("The server cannot store messages right now. Trying again");
  return gettext("Waiting for the connection");
}

/** Why an edit, a deletion, an extension or a resend was refused. @param {string} code */
export function refused(code) {
  /** @type {Record<string, string>} */
  const texts = {
    too_late: gettext("Too late: this message has expired"),
    forbidden: gettext("Not allowed"),
    not_member: gettext("You are not a member of this room"),
    no_such_message: gettext("This message no longer exists"),
    nobody_missed_it: gettext("Nobody missed this message"),
    body_empty: gettext("A message cannot be empty"),
    body_too_long: gettext("This is too long"),
    bad_ttl: gettext("This lifetime is not allowed here"),
    name_taken: gettext("This name is already taken."),
    no_such_user: gettext("There is no user with this name"),
    removed: gettext("You were removed from this room. A moderator can add you again"),
    not_addable: gettext("One of these people cannot be added to more rooms now. Try again tomorrow"),
    too_many_rooms: gettext("You are in too many rooms. Leave some first"),
    rate_limited: gettext("Too many requests. Try again later"),
    unknown_type: gettext("The server cannot do this yet"),
    unreachable: gettext("The server cannot be reached. Try again"),
  };
  return texts[code] ?? gettext("Something went wrong. Try again");
}

/** Why an expired message was not sent again. @param {string} code */
export function notResent(code) {
  /** @type {Record<string, string>} */
  const texts = {
    too_late: gettext("Its text is no longer kept, so it cannot be resent"),
    no_such_message: gettext("Its text is no longer kept, so it cannot be resent"),
    nobody_missed_it: gettext("No remaining recipient can be reached"),
  };
  return texts[code] ?? refused(code);
}

/** The bounds of an allowed lifetime, in seconds. @param {number} least @param {number} most */
export const lifetimeBounds = (least, most) =>
  fill(gettext("From %(least)s to %(most)s"), { least: duration(least), most: duration(most) });

/** The effect that shortening would have on the messages of a room. @param {{looked: number, shortened: number, ended: number}} counts */
export function wouldShorten({ looked, shortened, ended }) {
  const all = fill(
    ngettext("%(n)s of %(looked)s messages would expire sooner.", "%(n)s of %(looked)s messages would expire sooner.", shortened),
    { n: number(shortened), looked: number(looked) },
  );
  return ended
    ? sentences(all, fill(ngettext("%(n)s of them immediately.", "%(n)s of them immediately.", ended), { n: number(ended) }))
    : all;
}

/** The effect that shortening had. @param {{shortened: number, ended: number}} counts */
export function hasShortened({ shortened: n, ended }) {
  const all = fill(ngettext("%(n)s message expires sooner.", "%(n)s messages expire sooner.", n), { n: number(n) });
  return ended
    ? sentences(all, fill(ngettext("%(n)s of them has expired.", "%(n)s of them have expired.", ended), { n: number(ended) }))
    : all;
}

/** @param {string} state @param {Receipt} [receipt] */
export function stateText(state, receipt) {
  /** @type {Record<string, string>} */
  const texts = {
    sending: gettext("Sending"),
    waiting: gettext("Waiting for the connection"),
    sent: gettext("Sent"),
    delivered: gettext("Delivered to all"),
    read: gettext("Read by all"),
    failed: gettext("Not sent"),
    in_doubt: gettext("Possibly lost"),
  };
  if (state === "delivering" && receipt) return fill(gettext("Delivered %(delivered)s/%(total)s"), receipt);
  return texts[state];
}

/** @param {string[]} people */
export function typing(people) {
  if (people.length === 1) return fill(gettext("%(name)s is typing"), { name: people[0] });
  if (people.length === 2) return fill(gettext("%(first)s and %(second)s are typing"), { first: people[0], second: people[1] });
  const others = people.length - 2;
  return fill(ngettext("%(first)s, %(second)s and %(n)s other are typing", "%(first)s, %(second)s and %(n)s others are typing", others), {
    first: people[0],
    second: people[1],
    n: others,
    all: people.length,
  });
}

/** @param {{delivered?: number, total?: number}} counts */
export function reached({ delivered = 0, total }) {
  if (!total) return null;
  return delivered >= total ? gettext("reached everyone") : fill(gettext("reached %(delivered)s of %(total)s"), { delivered, total });
}

/** @param {number} n */
export const unread = (n) => fill(ngettext("%(n)s unread", "%(n)s unread", n), { n });
/** @param {number} n */
export const mentions = (n) => fill(ngettext("%(n)s mention", "%(n)s mentions", n), { n });
/** @param {number} n */
export const messagesNotSent = (n) => fill(ngettext("%(n)s message not sent", "%(n)s messages not sent", n), { n });

/** @param {number} members @param {number | null} online */
export function membersLine(members, online) {
  const all = fill(ngettext("%(n)s member", "%(n)s members", members), { n: number(members) });
  return online === null ? all : fill(gettext("%(members)s, %(n)s online"), { members: all, n: online });
}

/** @param {string} name */
export function role(name) {
  /** @type {Record<string, string>} */
  const texts = { owner: gettext("owner"), moderator: gettext("moderator"), member: gettext("member") };
  return texts[name] ?? name;
}
