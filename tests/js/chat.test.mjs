import assert from "node:assert/strict";
import { test } from "node:test";
import { Chat } from "../../static/js/model/chat.js";
import { ServerClock } from "../../static/js/model/server-clock.js";
import { entriesOf } from "../../static/js/model/timeline-entries.js";
import { Outbox } from "../../static/js/model/outbox.js";
import { OwnLog } from "../../static/js/model/own-log.js";
import { MemoryStore } from "../../static/js/device/outbox-store.js";
import { Tombstones } from "../../static/js/model/tombstones.js";
import * as phrases from "../../static/js/phrases.js";
import { FakeClock, settle } from "./fake-clock.mjs";

const ADA = { id: 1, name: "ada" };
const GRACE = { id: 2, name: "grace" };
const HOUR = 3_600_000;
const LIMITS = { body: 4000, frame: 65_536, ttl_min: 10, ttl_max: 2_419_200, unsent: 1000, id_s: 86_400 };

class MemoryStorage {
  #items = new Map();
  getItem = (key) => this.#items.get(key) ?? null;
  setItem = (key, value) => this.#items.set(key, value);
}

function world({ top = 0, delivered = 0, read = 0, unread = 0 } = {}) {
  const clock = new FakeClock();
  const serverClock = new ServerClock(clock.now);
  const storage = new MemoryStorage();
  const tombstones = new Tombstones({ storage, user: 1, now: () => serverClock.now() });
  const sent = [];
  const events = [];
  const w = { clock, storage, sent, events, hidden: false, up: true };
  let ids = 0;
  const newId = () => `id${++ids}`;
  const ownLog = new OwnLog({ store: new MemoryStore(), clock, serverNow: clock.now, on: { ask() {}, offer: async () => {} } });
  const chat = new Chat({ me: ADA, clock, serverClock, newId, ownLog, tombstones, hidden: () => w.hidden });
  const transmit = (frame) => w.up && sent.push(frame) > 0;
  const outbox = new Outbox({
    store: new MemoryStore(),
    clock,
    serverNow: clock.now,
    newId,
    ownLog,
    random: () => 0,
    transmit: (item) => (transmit({ type: "send", id: item.id, room: item.room, body: item.body }) ? "sent" : "offline"),
    on: { changed() {}, settled: (item, frame) => chat.settled(item, frame) },
  });
  outbox.becomeSender();
  chat.join({ outbox, transmit });
  for (const name of ["room", "rooms", "notices", "problem", "left"]) chat.on(name, (detail) => events.push([name, detail]));
  const info = {
    room: "r",
    name: "Atlas",
    kind: "public",
    role: "member",
    epoch: "e",
    top,
    rev: 0,
    delivered,
    read,
    unread,
    ttl: 3600,
    ttl_max: 86_400,
    online: [1, 2],
  };
  w.welcome = (rooms = [info]) => {
    chat.greeting();
    chat.receive({ type: "welcome", v: 1, connection: "c", user: ADA, now: clock.now(), store: "s", limits: LIMITS, rooms });
    outbox.connected(LIMITS);
    chat.connected();
    for (const { room, delivered: from } of rooms)
      chat.receive({
        type: "resumed",
        room,
        epoch: "e",
        ok: true,
        from,
        upto: from,
        top: from,
        rev: 0,
        more: false,
        messages: [],
        gone: [],
        changed: [],
      });
  };
  w.message = (seq, fields = {}) => ({
    type: "message",
    room: "r",
    epoch: "e",
    seq,
    id: `m${seq}`,
    from: GRACE,
    body: `body ${seq}`,
    sent_at: clock.now(),
    expires_at: clock.now() + HOUR,
    ...fields,
  });
  w.types = () => sent.map(({ type }) => type);
  w.cut = () => {
    chat.disconnected();
    outbox.disconnected(1006);
  };
  return Object.assign(w, { chat, outbox, tombstones, info, room: () => chat.rooms.get("r") });
}

test("acknowledgements of 250 ms are sent as one", () => {
  const w = world();
  w.welcome();
  for (const seq of [1, 2, 3]) w.chat.receive(w.message(seq));
  w.clock.advance(249);
  assert.deepEqual(w.sent, []);
  w.clock.advance(1);
  assert.deepEqual(w.sent, [{ type: "ack", rooms: [{ room: "r", epoch: "e", delivered: 3, late: [] }] }]);
});

test("a hidden tab acknowledges from the receive handler, once for all frames", () => {
  const w = world();
  w.welcome();
  w.hidden = true;
  for (const seq of [1, 2, 3]) w.chat.receive(w.message(seq));
  w.chat.batch();
  assert.deepEqual(w.sent, [{ type: "ack", rooms: [{ room: "r", epoch: "e", delivered: 3, late: [] }] }]);
});

test("the read cursor is sent with the acknowledgement and never above the last message", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1));
  w.chat.read("r", 99);
  w.clock.advance(250);
  assert.deepEqual(w.sent.at(-1).rooms, [{ room: "r", epoch: "e", delivered: 1, late: [], read: 1 }]);
});

test("unread counts others' messages above what was read, and mentions by whole name", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1));
  w.chat.receive(w.message(2, { from: ADA }));
  w.chat.receive(w.message(3, { body: "@Ada look, @adam too" }));
  w.chat.receive(w.message(4, { body: "@adam only" }));
  assert.deepEqual([w.room().unread.count, w.room().mentions], [3, 1]);
  w.chat.read("r", 3);
  assert.deepEqual([w.room().unread.count, w.room().mentions], [1, 0]);
});

test("messages below the log are counted by the server", () => {
  const w = world({ top: 50, delivered: 50, read: 10, unread: 40 });
  w.welcome();
  w.chat.receive(w.message(51));
  assert.deepEqual(w.room().unread, { count: 41, atLeast: false });
});

test("a receipt never goes backwards", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 3, 1, 5]] });
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 2, 0, 5]] });
  assert.deepEqual(w.room().receipts.get(1), { delivered: 3, read: 1, total: 5 });
});

test("the message itself settles the outbox if `sent` was lost", async () => {
  const w = world();
  w.welcome();
  const item = await w.outbox.add({ room: "r", body: "mine", life_s: 3600 });
  w.chat.receive(w.message(1, { id: item.id, from: ADA, body: "mine" }));
  assert.equal(w.outbox.items.size, 0);
  assert.equal(w.room().accepted.size, 0);
});

test("a `sent` before the message keeps it shown, once", async () => {
  const w = world();
  w.welcome();
  const item = await w.outbox.add({ room: "r", body: "mine", life_s: 3600 });
  w.chat.receive({
    type: "sent",
    id: item.id,
    room: "r",
    epoch: "e",
    seq: 1,
    sent_at: w.clock.now(),
    expires_at: w.clock.now() + HOUR,
    duplicate: false,
  });
  assert.deepEqual([...w.room().accepted.keys()], [item.id]);
  w.chat.receive(w.message(1, { id: item.id, from: ADA, body: "mine" }));
  assert.deepEqual([w.room().accepted.size, w.room().log.list.length], [0, 1]);
});

test("a duplicate of an expired message leaves nothing behind", async () => {
  const w = world({ top: 9, delivered: 9, read: 9 });
  w.welcome();
  const item = await w.outbox.add({ room: "r", body: "mine", life_s: 3600 });
  w.chat.receive({ type: "sent", id: item.id, room: "r", epoch: "e", seq: 4, sent_at: 1, expires_at: 2, duplicate: true });
  assert.deepEqual([w.room().accepted.size, w.outbox.items.size], [0, 0]);
});

test("an own message that expires leaves a tombstone with counts and without its text", async () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA, body: "secret", expires_at: w.clock.now() + 1000 }));
  w.chat.receive(w.message(2, { body: "of grace", expires_at: w.clock.now() + 1000 }));
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 3, 1, 5]] });
  w.clock.advance(1000);
  w.chat.expire();
  assert.equal(w.room().log.list.length, 0);
  const [tombstone, ...more] = w.chat.tombstones(w.room());
  assert.deepEqual([tombstone.seq, tombstone.why, tombstone.delivered, tombstone.total, more.length], [1, "expired", 3, 5, 0]);
  await settle();
  const kept = w.storage.getItem("chat.tombstones.1");
  assert.equal(kept.includes('"delivered":3'), true);
  assert.equal(kept.includes("secret"), false);
});

test("tombstones are removed after a day", () => {
  const w = world();
  w.welcome();
  w.tombstones.put({ room: "r", epoch: "e", seq: 1, ended_at: w.clock.now(), why: "expired" });
  w.clock.advance(24 * HOUR + 1);
  assert.deepEqual(w.chat.tombstones(w.room()), []);
});

const notice = (fields = {}, dismissed = false) => ({
  type: "notice",
  notice: "n1",
  kind: "undelivered",
  at: 1,
  dismissed,
  data: {
    room: "r",
    epoch: "e",
    seq: 1,
    id: "x",
    sent_at: 1_000_000,
    expired_at: 1_000_000,
    delivered: 1,
    total: 2,
    missing: [{ user: 3, name: "bob", reason: "offline", attempts: 0 }],
    missing_total: 1,
    resendable: true,
    ...fields,
  },
});

test("a notice names who missed it on the tombstone, until dismissed in the list", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  assert.equal(w.chat.tombstones(w.room())[0].missing[0].name, "bob");
  w.chat.receive(notice({}, true));
  assert.equal(w.chat.notices.size, 0);
  assert.equal(w.chat.tombstones(w.room()).length, 1);
});

test("a resend is sent once, repeated with its id after a lost connection, and its answer dismisses the notice", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.resend({ room: "r", epoch: "e", seq: 1 });
  w.chat.resend({ room: "r", epoch: "e", seq: 1 });
  w.cut();
  w.welcome();
  const asked = w.sent.filter(({ type }) => type === "resend");
  assert.deepEqual(
    asked.map(({ id }) => id),
    [asked[0].id, asked[0].id],
  );
  w.chat.receive({
    type: "sent",
    id: asked[0].id,
    room: "r",
    epoch: "e",
    seq: 7,
    sent_at: w.clock.now(),
    expires_at: w.clock.now() + HOUR,
    duplicate: false,
  });
  assert.equal(w.chat.tombstones(w.room())[0].resent_at, w.clock.now());
  assert.deepEqual(w.sent.at(-1), { type: "dismiss", notice: "n1" });
  assert.equal(w.chat.notices.size, 0);
});

test("a notice dismissed without a connection stays dismissed, and the server is told at the next connect", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.cut();
  w.up = false;
  w.chat.dismiss("n1");
  assert.deepEqual([w.chat.notices.size, w.types()], [0, []]);
  w.up = true;
  w.welcome();
  assert.deepEqual(w.sent, [{ type: "dismiss", notice: "n1" }]);
  w.chat.receive(notice()); // repeated before the server heard
  assert.equal(w.chat.notices.size, 0);
  w.chat.receive(notice({}, true));
  w.cut();
  w.welcome();
  assert.equal(w.sent.length, 1);
});

test("a notice dismissed on another device is removed when it is not repeated after a connect", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.receive({ ...notice({ seq: 2 }), notice: "n2" });
  w.cut();
  w.welcome();
  w.chat.receive({ ...notice({ seq: 2 }), notice: "n2" });
  assert.equal(w.chat.notices.size, 2);
  w.clock.advance(3000);
  assert.deepEqual([...w.chat.notices.keys()], ["n2"]);
});

test("a dismissal with a retryable refusal is sent again, one with a final refusal is dropped", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.dismiss("n1");
  w.chat.receive({ type: "error", code: "unavailable", retryable: true, of: "dismiss", retry_after_ms: 500 });
  w.clock.advance(500);
  assert.deepEqual(w.types(), ["dismiss", "dismiss"]);
  w.chat.receive({ type: "error", code: "no_such_message", retryable: false, of: "dismiss" });
  w.cut();
  w.welcome();
  assert.deepEqual(w.types(), ["dismiss", "dismiss"]);
});

test("older notices than the hundred that a connect repeats stay, and loaded ones are added", () => {
  const w = world();
  w.welcome();
  const told = Array.from({ length: 150 }, (_, i) => ({ ...notice({ seq: i + 1 }), notice: `n${i}`, at: i }));
  for (const one of told.slice(50)) w.chat.receive(one);
  w.chat.addNotices([...told.slice(0, 50), { ...told[0], notice: "gone", dismissed: true }]);
  assert.equal(w.chat.notices.size, 150);
  w.cut();
  w.welcome();
  for (const one of told.slice(50)) w.chat.receive(one);
  w.clock.advance(3000);
  assert.equal(w.chat.notices.size, 150);
});

test("a loaded notice that a summary stands for is not shown beside it", () => {
  const w = world();
  w.welcome();
  const data = { messages: 2, from_at: 5, to_at: 9, rooms: { r: 2 } };
  w.chat.receive({ type: "notice", notice: "s", kind: "summary", at: 9, data, dismissed: false });
  w.chat.addNotices([notice({ expired_at: 7 }), { ...notice({ expired_at: 10 }), notice: "n2" }]);
  assert.deepEqual([...w.chat.notices.keys()], ["s", "n2"]);
});

test("a hundred notices dismissed at once are sent at most twenty at a time", () => {
  const w = world();
  w.welcome();
  const told = Array.from({ length: 100 }, (_, i) => ({ ...notice({ seq: i + 1 }), notice: `n${i}` }));
  for (const one of told) w.chat.receive(one);
  for (const one of told) w.chat.dismiss(one.notice);
  assert.equal(w.sent.length, 20);
  for (let i = 0; i < 20; i += 1)
    w.chat.receive({ type: "error", code: "rate_limited", retryable: true, of: "dismiss", retry_after_ms: 500 });
  w.clock.advance(500);
  assert.equal(w.sent.length, 40);
  for (const one of told) w.chat.receive({ ...one, dismissed: true });
  assert.deepEqual([w.sent.length, new Set(w.sent.map((frame) => frame.notice)).size, w.chat.notices.size], [120, 100, 0]);
});

test("a message that another device or the staff resent cannot be resent here", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.receive(w.message(7, { from: ADA, resends: 1, after: 0 }));
  const [tombstone] = w.chat.tombstones(w.room());
  assert.deepEqual([tombstone.resent_at, tombstone.resendable], [w.clock.now(), false]);
  assert.equal(w.chat.notices.get("n1").data.resendable, false);
});

test("a tombstone names five recipients and counts the rest, so that many tombstones fit into the storage", () => {
  const w = world();
  w.welcome();
  const missing = Array.from({ length: 100 }, (_, i) => ({ user: i, name: `user ${i}`, reason: "offline", attempts: 0 }));
  w.chat.receive(notice({ missing, missing_total: 240 }));
  const [tombstone] = w.chat.tombstones(w.room());
  assert.deepEqual([tombstone.missing.length, tombstone.missing_total], [5, 240]);
});

test("a resend with a final refusal is not offered again", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.resend({ room: "r", epoch: "e", seq: 1 });
  w.chat.receive({ type: "error", code: "too_late", retryable: false, of: "resend", id: w.sent.at(-1).id, room: "r" });
  assert.deepEqual([w.chat.tombstones(w.room())[0].resendable, w.chat.notices.get("n1").data.problem], [false, "too_late"]);
});

test("a refused resend shows the reason on the tombstone", () => {
  const w = world();
  w.welcome();
  w.chat.receive(notice());
  w.chat.resend({ room: "r", epoch: "e", seq: 1 });
  const { id } = w.sent.at(-1);
  w.chat.receive({ type: "error", code: "unknown_type", retryable: false, of: "resend", id, room: "r" });
  assert.equal(w.chat.tombstones(w.room())[0].problem, "unknown_type");
  assert.equal(w.chat.isResending("r", 1), false);
});

test("an unanswered edit is sent again, and a refused one names its message", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.edit(w.room(), 1, "better");
  w.cut();
  w.welcome([{ ...w.info, delivered: 1, top: 1 }]);
  assert.deepEqual(
    w.sent.filter(({ type }) => type === "edit").map(({ body }) => body),
    ["better", "better"],
  );
  w.chat.receive({ type: "error", code: "too_late", retryable: false, of: "edit", room: "r", seq: 1 });
  const [, problem] = w.events.find(([name]) => name === "problem");
  assert.deepEqual([problem.seq, problem.code, problem.of, problem.body], [1, "too_late", "edit", "better"]);
  assert.equal(w.chat.isChanging("r", 1), false);
});

test("an own deletion is recognized also when a sync brings it", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.delete(w.room(), 1);
  w.chat.receive({ type: "deleted", room: "r", epoch: "e", rev: 2, seq: 1 }); // rev 1 was not heard
  w.chat.receive({
    type: "resumed",
    room: "r",
    epoch: "e",
    ok: true,
    from: 1,
    upto: 1,
    top: 1,
    rev: 2,
    more: false,
    messages: [],
    gone: [[1, "deleted"]],
    changed: [],
  });
  assert.deepEqual(
    w.chat.tombstones(w.room()).map(({ why, own_doing }) => [why, own_doing]),
    [["deleted", true]],
  );
});

test("an unanswered deletion that was done already is no problem", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.delete(w.room(), 1);
  w.cut();
  w.welcome([{ ...w.info, delivered: 1, top: 1 }]);
  w.chat.receive({ type: "error", code: "no_such_message", retryable: false, of: "delete", room: "r", seq: 1 });
  assert.equal(
    w.events.some(([name]) => name === "problem"),
    false,
  );
  assert.equal(w.chat.isChanging("r", 1), false);
});

test("an own deletion leaves a tombstone that is marked as such", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.delete(w.room(), 1);
  w.chat.receive({ type: "deleted", room: "r", epoch: "e", rev: 1, seq: 1 });
  assert.deepEqual(
    w.chat.tombstones(w.room()).map(({ why, own_doing }) => [why, own_doing]),
    [["deleted", true]],
  );
});

test("an unreadable message is rejected, held and acknowledged", () => {
  const w = world();
  w.welcome();
  w.chat.receive({ ...w.message(1), body: "", unshowable: true });
  assert.deepEqual(w.sent, [{ type: "reject", room: "r", epoch: "e", seq: 1, reason: "unreadable" }]);
  w.clock.advance(250);
  assert.equal(w.sent.at(-1).rooms[0].delivered, 1);
});

test("a gap is synced at once, and a refused sync is repeated after the server's wait", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(2));
  assert.deepEqual(w.types(), ["sync"]);
  w.chat.receive({ type: "error", code: "unavailable", retryable: true, of: "sync", room: "r", retry_after_ms: 4000 });
  w.clock.advance(3999);
  assert.deepEqual(w.types(), ["sync"]);
  w.clock.advance(1);
  assert.deepEqual(w.types(), ["sync", "sync"]);
});

test("after a removal no frame is sent or received for the room, and joining again starts from the beginning", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1));
  w.chat.receive({ type: "room", room: "r", removed: true });
  w.chat.receive(w.message(2));
  w.clock.advance(1000);
  assert.deepEqual([w.room().left, w.room().log.last, w.types()], [true, 1, []]);
  w.chat.receive({ type: "room", ...w.info, delivered: 5, top: 5 });
  assert.deepEqual([w.room().left, w.room().log.last], [false, 5]);
});

test("the lifetime changes are loaded again after a change and after a lost connection", () => {
  const w = world();
  w.welcome();
  w.room().lifetimesKnown = true;
  w.chat.receive({ type: "room", ...w.info });
  assert.equal(w.room().lifetimesKnown, true);
  w.chat.receive({ type: "room", ...w.info, ttl: 28_800 });
  assert.equal(w.room().lifetimesKnown, false);
  w.room().lifetimesKnown = true;
  w.cut();
  assert.equal(w.room().lifetimesKnown, false);
});

test("a room is tracked unless its frame has `tracked: false`", () => {
  const w = world();
  w.welcome();
  assert.equal(w.room().tracked, true);
  w.chat.receive({ type: "room", ...w.info, tracked: false });
  assert.equal(w.room().tracked, false);
});

test("messages expire when the next welcome corrects the clock", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA, expires_at: w.clock.now() + HOUR }));
  w.chat.greeting();
  w.chat.receive({
    type: "welcome",
    v: 1,
    connection: "c",
    user: ADA,
    now: w.clock.now() + HOUR,
    store: "s",
    limits: LIMITS,
    rooms: [{ ...w.info, delivered: 1, top: 1 }],
  });
  assert.equal(w.room().log.list.length, 0);
  assert.equal(w.chat.tombstones(w.room()).length, 1);
});

// ---- the timeline's lines

function lines(w, more = {}) {
  const room = w.room();
  return entriesOf({
    room,
    now: w.clock.now(),
    localNow: w.clock.now(),
    me: ADA,
    online: true,
    limit: 4000,
    outbox: w.outbox.inRoom("r"),
    inFlight: () => true,
    tombstones: w.chat.tombstones(room),
    leaving: [],
    divider: null,
    linked: null,
    problems: new Map(),
    undelivered: () => null,
    extended: new Map(),
    resending: () => false,
    changing: (seq) => w.chat.isChanging("r", seq),
    ...more,
  });
}

const kinds = (list) => list.map(({ kind, seq }) => (kind === "message" || kind === "tombstone" ? `${kind} ${seq}` : kind));

test("days, divider, messages, tombstones and the outbox are in order", async () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1));
  w.chat.receive(w.message(2, { from: ADA, expires_at: w.clock.now() + 1 }));
  w.chat.receive(w.message(3));
  w.clock.advance(1);
  w.chat.expire();
  await w.outbox.add({ room: "r", body: "waiting", life_s: 3600 });
  assert.deepEqual(kinds(lines(w, { divider: 3 })), ["day", "message 1", "tombstone 2", "since", "message 3", "outbox"]);
});

test("consecutive messages of one author share an avatar until a quote, a divider or ten minutes", () => {
  const w = world();
  w.welcome();
  for (const seq of [1, 2]) w.chat.receive(w.message(seq));
  w.chat.receive(w.message(3, { reply_to: 1 }));
  w.clock.advance(600_000);
  w.chat.receive(w.message(4));
  assert.deepEqual(
    lines(w)
      .filter(({ kind }) => kind === "message")
      .map(({ shown }) => shown.follows),
    [false, true, false, false],
  );
});

test("a quote never outlives the quoted text", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { body: "secret", expires_at: w.clock.now() + 10 }));
  w.chat.receive(w.message(2, { reply_to: 1 }));
  assert.equal(lines(w).at(-1).shown.quote.text, "secret");
  w.clock.advance(10);
  assert.equal(JSON.stringify(lines(w).at(-1).shown.quote).includes("secret"), false);
});

test("an extension is offered after four fifths of a life while the message is undelivered, with names when they are known", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 1, 0, 3]] });
  w.clock.advance(0.8 * HOUR - 1);
  assert.equal(lines(w).at(-1).shown.aside, null);
  w.clock.advance(1);
  const aside = (...names) => lines(w, { undelivered: () => names.map((name) => ({ name })) }).at(-1).shown.aside.text;
  assert.equal(aside("bob", "carol"), "Expires in 12 min, not yet received by bob and carol");
  assert.equal(aside("bob"), "Expires in 12 min, not yet received by bob and 1 more", "one who lacks it is counted where he is not named");
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 2, 0, 3]] });
  assert.deepEqual(lines(w, { undelivered: () => [{ name: "bob" }] }).at(-1).shown.aside, {
    kind: "expiring",
    icon: "warning",
    text: "Expires in 12 min, not yet received by bob",
    actions: ["extend"],
  });
  w.chat.receive({ type: "receipt", room: "r", epoch: "e", receipts: [[1, 2, 0, 2]] });
  assert.equal(lines(w).at(-1).shown.aside, null);
});

test("a machine that slept past an expiry does not show the text when it wakes", async () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { body: "secret of grace", expires_at: w.clock.now() + 10 }));
  const item = await w.outbox.add({ room: "r", body: "secret of ada", life_s: 3600 });
  w.chat.receive({
    type: "sent",
    id: item.id,
    room: "r",
    epoch: "e",
    seq: 2,
    sent_at: w.clock.now(),
    expires_at: w.clock.now() + 10,
    duplicate: false,
  });
  assert.match(JSON.stringify(lines(w)), /secret of grace.*secret of ada/);
  w.clock.advance(HOUR); // no timer of the page has run
  w.chat.expire([w.room()]); // what the timeline does before it draws
  assert.doesNotMatch(JSON.stringify(lines(w)), /secret/);
});

for (const wrong of [-HOUR, HOUR]) {
  test(`a browser clock that is ${wrong} ms wrong shows the server's lifetimes`, () => {
    const server_now = 1_000_000_000;
    let local = server_now + wrong;
    const serverClock = new ServerClock(() => local);
    serverClock.set(server_now);
    local += 600_000;
    assert.equal(serverClock.now(), server_now + 600_000);
    assert.equal(phrases.remaining(server_now + HOUR - serverClock.now()), "50 min");
  });
}

test("a clock that is set back, or that stood still during a sleep, does not prolong a life", () => {
  let [local, steady] = [5_000_000, 0];
  const serverClock = new ServerClock(
    () => local,
    () => steady,
  );
  serverClock.set(1_000_000_000);
  steady += 60_000;
  local += 60_000 - HOUR; // set back
  assert.equal(serverClock.now(), 1_000_060_000);
  serverClock.set(1_000_060_000);
  local += HOUR; // slept
  assert.equal(serverClock.now(), 1_000_060_000 + HOUR);
});

const change = (at, fields = {}) => ({ at, by: GRACE, from: 3600, to: 60, ...fields });

test("a lifetime change stands between the messages where its time falls", () => {
  const w = world();
  w.welcome();
  const start = w.clock.now();
  for (const seq of [1, 2, 3]) {
    w.chat.receive(w.message(seq));
    w.clock.advance(1000);
  }
  w.room().lifetimes = [change(start - 1), change(start + 1500), change(start + 9000)];
  assert.deepEqual(kinds(lines(w)), ["day", "event", "message 1", "message 2", "event", "message 3", "event"]);
});

test("the period in which messages may be missing stands between the messages where it ends", () => {
  const w = world();
  w.welcome();
  const start = w.clock.now();
  for (const seq of [1, 2]) {
    w.chat.receive(w.message(seq));
    w.clock.advance(60_000);
  }
  w.room().log.doubt = [start - 60_000, start + 30_000];
  assert.deepEqual(kinds(lines(w)), ["day", "message 1", "event", "message 2"]);
  const { shown } = lines(w).find(({ kind }) => kind === "event");
  assert.match(shown.text, /^Messages between \d\d:\d\d and \d\d:\d\d may be missing/);
});

test("a lifetime change from before the loaded messages comes with its page", () => {
  const w = world({ top: 9, delivered: 9, read: 9 });
  w.welcome();
  w.chat.receive(w.message(10));
  w.room().lifetimes = [change(w.clock.now() - 1)];
  assert.deepEqual(kinds(lines(w)), ["day", "message 10"]);
  w.chat.page("r");
  w.chat.receive({ type: "history", room: "r", epoch: "e", before: 10, messages: [], more: false });
  assert.deepEqual(kinds(lines(w)), ["day", "event", "message 10"]);
});

test("a change that waits for the connection is marked at its message", () => {
  const w = world();
  w.welcome();
  w.chat.receive(w.message(1, { from: ADA }));
  w.cut();
  w.up = false;
  w.chat.edit(w.room(), 1, "better");
  assert.equal(lines(w, { online: false }).at(-1).shown.aside.text, "Waiting for the connection");
  assert.equal(lines(w).at(-1).shown.aside, null);
});
