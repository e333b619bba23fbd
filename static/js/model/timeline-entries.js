/**
 * The entries of a room's timeline, in order: days, the divider, messages, tombstones, lifetime changes, then the messages in
 * the outbox. Pure: the state of the page in, a list of entries with stable keys out. An entry's `shown` is everything that the
 * view needs; the screen changes only where it differs.
 */
import { fill, gettext, ngettext } from "../i18n.js";
import { offersExtend, outboxState, stateOf } from "./delivery-state.js";
import * as phrases from "../phrases.js";

/** @import { Message, Person } from "./protocol.js" */
/** @import { OutboxItem } from "./outbox.js" */
/** @import { Receipt } from "./delivery-state.js" */
/** @import { Room } from "./room.js" */
/** @import { Tombstone } from "./tombstones.js" */

/**
 * outbox: the room's. leaving: messages that fade out. divider: the first seq below the "New messages" line. linked: the seq of
 * a permalink. undelivered(seq): the first recipients who do not have it, null until known. extended: seq -> the extension that
 * was made. limit: of a message's text. now: the server's time; localNow: this machine's; both epoch ms.
 *
 * @typedef {{
 *   room: Room, now: number, localNow: number, me: Person, online: boolean, limit: number, outbox: OutboxItem[],
 *   inFlight: (id: string) => boolean, tombstones: Tombstone[], leaving: Message[], divider: number | null,
 *   linked: number | null, problems: Map<number, {code: string}>, undelivered: (seq: number) => {name: string}[] | null,
 *   extended: Map<number, {by: number, until: number}>, resending: (seq: number) => boolean, changing: (seq: number) => boolean,
 * }} Context
 *
 * A line below a message: its problem, its wait or its near end, and what can be done about it.
 * @typedef {{kind: string, icon?: string, text: string, actions: string[]}} Aside
 *
 * kind: day, since, event, message, tombstone or outbox. Which other fields it has depends on the kind.
 * @typedef {{
 *   kind: string, key: string, shown: any, seq: number, at: number, own?: boolean, author?: number | "tombstone",
 *   message?: Message, item?: OutboxItem, tombstone?: Tombstone,
 * }} Entry
 */

const RUN_MS = 10 * 60_000; // messages of one author within it share one avatar

/** @param {Context} context @returns {Entry[]} */
export function entriesOf(context) {
  return withDividers([...logEntries(context), ...outboxEntries(context)], context);
}

/** @param {Context} context @returns {Entry[]} */
function logEntries(context) {
  const { room, leaving, now, me } = context;
  const failed = context.outbox.filter(({ state }) => state === "failed").map(({ id }) => room.log.find(me.id, id)?.seq);
  const ended = new Set([...context.tombstones.map(({ seq }) => seq), ...failed]);
  const accepted = [...room.accepted.values()].filter((message) => message.expires_at > now && !room.log.messages.has(message.seq));
  const live = [...room.log.list, ...accepted].filter(({ seq }) => !ended.has(seq));
  const messages = [...live, ...leaving.filter(({ seq }) => !room.log.messages.has(seq))].map((message) => messageEntry(message, context));
  const tombstones = context.tombstones
    .filter(({ seq }) => (seq > room.log.floor || !room.log.hasMore) && !room.log.messages.has(seq))
    .map((tombstone) => tombstoneEntry(tombstone, context));
  const entries = [...messages, ...tombstones].sort((a, b) => a.seq - b.seq);
  return [...entries, ...eventEntries(entries, context)].sort((a, b) => a.seq - b.seq || a.at - b.at);
}

/**
 * Changes of the lifetime, and the period in which messages may be missing. Each is placed by its time. An event from before the
 * loaded messages comes with the page that it belongs to.
 *
 * @param {Entry[]} entries
 * @param {Context} context
 * @returns {Entry[]}
 */
function eventEntries(entries, { room, now }) {
  const events = [...room.lifetimes, ...doubtOf(room, now)];
  return events.flatMap((event) => {
    const before = entries.findLast(({ at }) => at > 0 && at <= event.at);
    if (!before && room.log.hasMore) return [];
    return [{ kind: "event", key: `event${event.at}`, seq: (before?.seq ?? 0) + 0.5, at: event.at, shown: event }];
  });
}

/** @param {Room} room @param {number} now */
function doubtOf({ log: { doubt } }, now) {
  return doubt ? [{ at: doubt[1], text: phrases.doubt(...doubt, now) }] : [];
}

/** @param {Message} message @param {boolean} own */
const keyOf = (message, own) => (own && message.id ? `own:${message.id}` : `seq:${message.seq}`);

/** @param {Message} message @param {Context} context @returns {Entry} */
function messageEntry(message, context) {
  const { room, now, me, linked } = context;
  const own = message.from?.id === me.id;
  const receipt = own ? room.receipts.get(message.seq) : undefined;
  const state = own ? stateOf(receipt) : null;
  const author = message.from ?? { id: 0, name: "" };
  const shown = {
    seq: message.seq,
    own,
    author: { id: author.id, name: author.name },
    me: me.name,
    body: message.body,
    unshowable: Boolean(message.unshowable),
    sent_at: message.sent_at,
    expires_at: message.expires_at < Number.MAX_SAFE_INTEGER ? message.expires_at : 0,
    expiresTitle: phrases.expiresTitle(message.expires_at, now),
    resent: Boolean(message.resends),
    edited: Boolean(message.edited_at),
    state,
    stateText: state && phrases.stateText(state, receipt),
    receipt: receipt ?? null,
    quote: quoteOf(message, context),
    linked: linked === message.seq,
    actions: actionsOf(message, own, context),
    aside: own ? asideOf(message, receipt, context) : problemOf(message, context),
  };
  return { kind: "message", key: keyOf(message, own), seq: message.seq, at: message.sent_at, message, own, author: author.id, shown };
}

/** @param {Tombstone} tombstone @param {Context} context @returns {Entry} */
function tombstoneEntry(tombstone, { resending, linked }) {
  const { seq, id, sent_at, why, missing, resendable, resent_at } = tombstone;
  const missed = why === "expired" && Boolean(missing?.length);
  const shown = {
    seq,
    own: true,
    tombstone,
    linked: linked === seq,
    resendable: Boolean(missed && resendable && !resent_at),
    resending: resending(seq),
  };
  return { kind: "tombstone", key: id ? `own:${id}` : `seq:${seq}`, seq, at: sent_at, tombstone, own: true, author: "tombstone", shown };
}

/** @param {Context} context @returns {Entry[]} */
function outboxEntries(context) {
  const { outbox, online, inFlight, me, room } = context;
  return outbox
    .filter(({ id, state }) => state === "failed" || !(room.accepted.has(id) || room.log.find(me.id, id)))
    .map((item) => {
      const state = outboxState(item, inFlight(item.id), online);
      const shown = {
        seq: null,
        own: true,
        author: me,
        me: me.name,
        body: item.body || gettext("This message has expired"),
        unshowable: false,
        sent_at: item.created_at,
        expires_at: 0,
        expiresTitle: null,
        resent: false,
        edited: false,
        state,
        stateText: stateTextOf(item, state),
        receipt: null,
        quote: quoteOf(item, context),
        linked: false,
        actions: [],
        aside: outboxAside(item, state, context),
      };
      return { kind: "outbox", key: `own:${item.id}`, seq: Infinity, at: item.created_at, item, own: true, author: me.id, shown };
    });
}

/** @param {OutboxItem} item @param {string} state */
function stateTextOf({ reason, accepted }, state) {
  if (state === "failed" && accepted) return phrases.stateText("in_doubt");
  return phrases.stateText(reason && state === "waiting" ? "sending" : state);
}

/** @param {OutboxItem} item @param {string} state @param {Context} context @returns {Aside | null} */
function outboxAside(item, state, { localNow, limit }) {
  const actions = item.body ? ["retry", "edit", "delete"] : ["delete"];
  if (state === "failed") return { kind: "failed", text: phrases.notSent(item.reason, limit), actions };
  if (state !== "waiting") return null;
  return { kind: "waiting", icon: item.reason ? "retry" : "lost", text: waitingText(item, localNow), actions: ["delete"] };
}

/** @param {OutboxItem} item @param {number} localNow */
export const waitingText = (item, localNow) => phrases.waitsFor(item.reason, Math.max(0, Math.ceil((item.not_before - localNow) / 1000)));

/** @param {{reply_to?: number | null}} message @param {Context} context */
function quoteOf({ reply_to }, { room, me, now }) {
  if (!reply_to) return null;
  const quoted = room.log.messages.get(reply_to) ?? [...room.accepted.values()].find(({ seq }) => seq === reply_to);
  if (quoted && quoted.expires_at > now)
    return { seq: reply_to, author: quoted.from?.id === me.id ? gettext("You") : (quoted.from?.name ?? ""), text: quoted.body };
  // Messages below the floor are not loaded; a message above it that is not here has expired.
  if (reply_to <= room.log.floor && room.log.hasMore) return { seq: reply_to, author: "", text: gettext("An earlier message") };
  return { seq: reply_to, gone: true, author: "", text: gettext("This message has expired") };
}

/** @param {Message} message @param {boolean} own @param {Context} context */
function actionsOf(message, own, { room }) {
  if (room.left || message.unshowable) return [];
  return ["reply", own && "edit", own && "details", "link", (own || room.moderates) && "delete"].filter((name) => name !== false);
}

/** @param {Message} message @param {Context} context @returns {Aside | null} */
function problemOf({ seq }, { problems }) {
  const problem = problems.get(seq);
  return problem ? { kind: "failed", text: phrases.refused(problem.code), actions: [] } : null;
}

/**
 * At most one: a failure comes before the near end.
 *
 * @param {Message} message
 * @param {Receipt | undefined} receipt
 * @param {Context} context
 * @returns {Aside | null}
 */
function asideOf(message, receipt, context) {
  const problem = problemOf(message, context);
  if (problem) return problem;
  const { now, undelivered, extended, online, changing } = context;
  if (!online && changing(message.seq)) return { kind: "waiting", icon: "lost", text: phrases.stateText("waiting"), actions: [] };
  if (offersExtend(message, receipt, now))
    return { kind: "expiring", icon: "warning", text: expiringText(message, receipt, undelivered(message.seq), now), actions: ["extend"] };
  const extension = extended.get(message.seq);
  if (!extension) return null;
  return {
    kind: "waiting",
    icon: "extend",
    text: fill(gettext("Extended by %(by)s, until %(time)s"), {
      by: phrases.duration(extension.by),
      time: phrases.clockTime(extension.until),
    }),
    actions: [],
  };
}

/**
 * people: the first recipients who do not have it, or null.
 *
 * @param {Message} message
 * @param {Receipt} receipt
 * @param {{name: string}[] | null} people
 * @param {number} now
 */
export function expiringText(message, receipt, people, now) {
  const left = phrases.remaining(message.expires_at - now);
  const others = people?.length ? unnamed(receipt, people) : 0;
  const values = { left, names: phrases.names(people?.map(({ name }) => name) ?? [], { more: others > 0 }), n: phrases.number(others) };
  if (others)
    return fill(
      ngettext(
        "Expires in %(left)s, not yet received by %(names)s and %(n)s more",
        "Expires in %(left)s, not yet received by %(names)s and %(n)s more",
        others,
      ),
      values,
    );
  if (people?.length) return fill(gettext("Expires in %(left)s, not yet received by %(names)s"), values);
  return fill(gettext("Expires in %(left)s, delivered %(delivered)s/%(total)s"), { left, ...receipt });
}

/** How many recipients do not have a message, besides those who are named. @param {Receipt} receipt @param {object[]} people */
export function unnamed({ delivered, total }, people) {
  return Math.max(0, total - delivered - people.length);
}

/** @param {Entry[]} entries @param {Context} context @returns {Entry[]} */
function withDividers(entries, { divider, now }) {
  /** @type {Entry[]} */
  const result = [];
  /** @type {string | null} */
  let day = null;
  /** @type {Entry | null} */
  let before = null;
  let divided = divider === null;
  for (const entry of entries) {
    const { seq, at } = entry;
    const iso = phrases.isoDay(at);
    /** @type {string} */
    const entryDay = day !== null && iso < day ? day : iso; // two clocks may disagree about midnight; days never go back
    if (entryDay !== day)
      result.push({ kind: "day", key: `day${entryDay}`, seq, at, shown: { iso: entryDay, text: phrases.dayName(at, now) } });
    const isFirstNew = !divided && divider !== null && seq >= divider && !entry.own && entry.kind === "message";
    if (isFirstNew) result.push({ kind: "since", key: "since", seq, at, shown: { text: gettext("New messages") } });
    divided ||= isFirstNew;
    if (entry.kind !== "event" && entry.kind !== "tombstone")
      entry.shown.follows =
        entryDay === day &&
        !isFirstNew &&
        before !== null &&
        before.author === entry.author &&
        at - before.at < RUN_MS &&
        !entry.shown.quote;
    result.push(entry);
    day = entryDay;
    before = entry.kind === "message" || entry.kind === "outbox" ? entry : null;
  }
  return result;
}
