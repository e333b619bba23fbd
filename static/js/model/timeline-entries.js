/**
 * What a room's timeline shows, in order: days, the divider, messages, tombstones, events, then what waits in the outbox.
 * Pure: everything that is known goes in, a list of entries with stable keys comes out. An entry's `shown` is all that the
 * view needs, and only when it differs is anything on the screen touched.
 */
import { fill, gettext, ngettext } from "../i18n.js";
import { offersExtend, outboxState, stateOf } from "./delivery-state.js";
import * as words from "../phrases.js";

const RUN_MS = 10 * 60_000; // a run of one author keeps one avatar

/**
 * context: {room, now, me, outbox: items, online, inFlight(id), stones, leaving: messages, divider, linked, problems:
 * Map(seq -> {code}), lacking(seq): [{name}]|null, extended: Map(seq -> at), resending(seq), changing(seq), limit}.
 */
export function entriesOf(context) {
  const lines = [...logLines(context), ...outboxLines(context)];
  return withDividers(lines, context);
}

function logLines(context) {
  const { room, stones, leaving } = context;
  const buried = new Set(stones.map((stone) => stone.seq));
  const accepted = [...room.accepted.values()].filter((message) => message.expires_at > context.now && !room.log.messages.has(message.seq));
  const alive = [...room.log.list, ...accepted].filter((message) => !buried.has(message.seq));
  const messages = [...alive, ...leaving.filter((message) => !room.log.messages.has(message.seq))].map((message) => messageLine(message, context));
  const graves = stones.filter((stone) => stone.seq > room.log.floor || !room.log.hasMore).filter((stone) => !room.log.messages.has(stone.seq)).map((stone) => tombstoneLine(stone, context));
  const lines = [...messages, ...graves].sort((a, b) => a.seq - b.seq);
  return [...lines, ...lifetimeLines(lines, room)].sort((a, b) => a.seq - b.seq || a.at - b.at);
}

/** Where the time of each change falls; one from before what is loaded comes with the page it belongs to. */
function lifetimeLines(lines, room) {
  return room.lifetimes.flatMap((change) => {
    const before = lines.findLast(({ at }) => at > 0 && at <= change.at);
    if (!before && room.log.hasMore) return [];
    return [{ kind: "event", key: `event${change.at}`, seq: (before?.seq ?? 0) + 0.5, at: change.at, shown: change }];
  });
}

const keyOf = (message, own) => (own && message.id ? `own:${message.id}` : `seq:${message.seq}`);

function messageLine(message, context) {
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
    expires_title: words.expiresTitle(message.expires_at, now),
    resent: Boolean(message.resends),
    edited: Boolean(message.edited_at),
    state,
    state_text: state && words.stateText(state, receipt),
    receipt: receipt ?? null,
    quote: quoteOf(message, context),
    linked: linked === message.seq,
    actions: actionsOf(message, own, context),
    aside: own ? asideOf(message, receipt, context) : problemOf(message, context),
  };
  return { kind: "message", key: keyOf(message, own), seq: message.seq, at: message.sent_at, message, own, author: author.id, shown };
}

function tombstoneLine(stone, { resending, linked }) {
  const missed = stone.why === "expired" && stone.missing?.length > 0;
  const shown = { seq: stone.seq, own: true, stone, linked: linked === stone.seq, resendable: Boolean(missed && stone.resendable && !stone.resent_at), resending: resending(stone.seq) };
  return { kind: "tombstone", key: stone.id ? `own:${stone.id}` : `seq:${stone.seq}`, seq: stone.seq, at: stone.sent_at, stone, own: true, author: "stone", shown };
}

function outboxLines(context) {
  const { outbox, online, inFlight, me, room } = context;
  return outbox.filter((item) => !room.accepted.has(item.id)).map((item) => {
    const state = outboxState(item, inFlight(item.id), online);
    const shown = {
      seq: null,
      own: true,
      author: me,
      me: me.name,
      body: item.body,
      unshowable: false,
      sent_at: item.created_at,
      expires_at: 0,
      expires_title: null,
      resent: false,
      edited: false,
      state,
      state_text: words.stateText(item.reason && state === "waiting" ? "sending" : state),
      receipt: null,
      quote: quoteOf(item, context),
      linked: false,
      actions: [],
      aside: outboxAside(item, state, context),
    };
    return { kind: "outbox", key: `own:${item.id}`, seq: Infinity, at: item.created_at, item, own: true, author: me.id, shown };
  });
}

function outboxAside(item, state, { local_now, limit }) {
  if (state === "failed") return { kind: "failed", text: words.notSent(item.reason, limit), actions: ["retry", "edit", "delete"] };
  if (state !== "waiting") return null;
  return { kind: "waiting", icon: item.reason ? "retry" : "lost", text: waitingText(item, local_now), actions: ["delete"] };
}

export const waitingText = (item, local_now) => words.waitsFor(item.reason, Math.max(0, Math.ceil((item.not_before - local_now) / 1000)));

function quoteOf({ reply_to }, { room, me, now }) {
  if (!reply_to) return null;
  const quoted = room.log.messages.get(reply_to) ?? [...room.accepted.values()].find(({ seq }) => seq === reply_to);
  if (quoted && quoted.expires_at > now) return { seq: reply_to, author: quoted.from?.id === me.id ? gettext("You") : quoted.from?.name ?? "", text: quoted.body };
  // Below the floor nothing is known yet; above it, what is not here is over.
  if (reply_to <= room.log.floor && room.log.hasMore) return { seq: reply_to, author: "", text: gettext("An earlier message") };
  return { seq: reply_to, gone: true, author: "", text: gettext("This message has expired") };
}

function actionsOf(message, own, { room }) {
  if (room.left || message.unshowable) return [];
  return ["reply", own && "edit", own && "details", "link", (own || room.moderates) && "delete"].filter(Boolean);
}

const problemOf = (message, { problems }) => (problems.has(message.seq) ? { kind: "failed", text: words.refused(problems.get(message.seq).code), actions: [] } : null);

/** Never two: what failed comes before what expires. */
function asideOf(message, receipt, context) {
  const problem = problemOf(message, context);
  if (problem) return problem;
  const { now, lacking, extended, online, changing } = context;
  if (!online && changing(message.seq)) return { kind: "waiting", icon: "lost", text: words.stateText("waiting"), actions: [] };
  if (extended.has(message.seq) && !offersExtend(message, receipt, now)) {
    const { by, until } = extended.get(message.seq);
    return { kind: "waiting", icon: "extend", text: fill(gettext("Extended by %(by)s, until %(time)s"), { by: words.duration(by), time: words.clockTime(until) }), actions: [] };
  }
  if (!offersExtend(message, receipt, now)) return null;
  return { kind: "expiring", icon: "warning", text: expiringText(message, receipt, lacking(message.seq), now), actions: ["extend"] };
}

/** people: [{name}], the first of those who lack it, or null. */
export function expiringText(message, receipt, people, now) {
  const left = words.remaining(message.expires_at - now);
  const others = people?.length ? othersWhoLack(receipt, people) : 0;
  const values = { left, names: words.names(people?.map(({ name }) => name) ?? [], { more: others > 0 }), n: words.number(others) };
  if (others) return fill(ngettext("Expires in %(left)s, not with %(names)s and %(n)s more yet", "Expires in %(left)s, not with %(names)s and %(n)s more yet", others), values);
  if (people?.length) return fill(gettext("Expires in %(left)s, not with %(names)s yet"), values);
  return fill(gettext("Expires in %(left)s, delivered %(delivered)s/%(total)s"), { left, ...receipt });
}

/** How many lack a message beside those who are named. */
export function othersWhoLack({ delivered, total }, people) {
  return Math.max(0, total - delivered - people.length);
}

function withDividers(lines, { divider, now }) {
  const out = [];
  let day = null;
  let before = null;
  let divided = divider === null;
  for (const line of lines) {
    const iso = words.isoDay(line.at);
    const its_day = day !== null && iso < day ? day : iso; // two clocks may disagree about midnight; days never go back
    if (its_day !== day) out.push({ kind: "day", key: `day${its_day}`, shown: { iso: its_day, text: words.dayName(line.at, now) } });
    const fresh = !divided && line.seq >= divider && !line.own && line.kind === "message";
    if (fresh) out.push({ kind: "since", key: "since", shown: { text: gettext("New messages") } });
    divided ||= fresh;
    if (line.kind !== "event" && line.kind !== "tombstone") line.shown.follows = its_day === day && !fresh && Boolean(before) && before.author === line.author && line.at - before.at < RUN_MS && !line.shown.quote;
    out.push(line);
    day = its_day;
    before = line.kind === "message" || line.kind === "outbox" ? line : null;
  }
  return out;
}
