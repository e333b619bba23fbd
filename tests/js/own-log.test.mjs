import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryStore } from "../../static/js/device/outbox-store.js";
import { Chat } from "../../static/js/model/chat.js";
import { Outbox } from "../../static/js/model/outbox.js";
import { OwnLog } from "../../static/js/model/own-log.js";
import * as protocol from "../../static/js/model/protocol.js";
import { entriesOf } from "../../static/js/model/timeline-entries.js";
import { Tombstones } from "../../static/js/model/tombstones.js";
import { FakeClock, settle } from "./fake-clock.mjs";

const ADA = { id: 1, name: "ada" };
const BOB = { id: 2, name: "bob" };
const HOUR_S = 3600;
const LIMITS = { body: 4000, frame: 65_536, ttl_min: 10, ttl_max: 2_419_200, unsent: 1000, id_s: 86_400 };

/** A server with one room. It answers as docs/protocol.md describes, and loses data when a test says so. */
class Server {
  epoch = "e1";
  store = "s1";
  top = 0;
  rev = 0;
  tracked = true;
  delivered = 0;
  log = new Map(); // seq -> message
  ids = new Map(); // user and id -> the first answer
  pages = [];

  constructor(clock) {
    this.clock = clock;
  }

  /** Another life of the store, which has the log only up to a seq. */
  restart(upto = this.top) {
    this.store += "+";
    for (const seq of this.log.keys()) if (seq > upto) this.log.delete(seq);
    for (const [key, { seq }] of this.ids) if (seq > upto) this.ids.delete(key);
    this.top = upto;
  }

  /** The room has a new epoch, and the messages up to a seq. */
  renew(upto = this.top) {
    this.restart(upto);
    this.epoch += "+";
  }

  /** The room has a new log. The ids may be remembered. */
  empty({ ids = false } = {}) {
    this.epoch += "+";
    this.top = this.rev = 0;
    this.log.clear();
    if (!ids) this.ids.clear();
  }

  skip() {
    this.top += 1000;
  }

  get room() {
    const { epoch, top, rev, tracked } = this;
    return {
      room: "r",
      name: "Atlas",
      kind: "public",
      role: "member",
      epoch,
      top,
      rev,
      delivered: this.delivered,
      read: 0,
      unread: 0,
      ttl: HOUR_S,
      ttl_max: 86_400,
      tracked,
    };
  }

  publish(frame) {
    for (const page of this.pages) page.receive(frame);
  }

  get bodies() {
    return [...this.log.values()].map(({ body }) => body);
  }

  answer(page, frame) {
    const { epoch, top, rev } = this;
    const place = { room: "r", epoch };
    if (frame.type === "send") return this.#accept(page, frame);
    if (frame.type === "sync") {
      const ok = frame.epoch === epoch && frame.since <= top;
      const messages = ok ? [...this.log.values()].filter(({ seq }) => seq > frame.since) : [];
      const rest = { from: frame.since, upto: ok ? top : frame.since, top, rev, more: false, messages, gone: [], changed: [] };
      return page.receive({ type: "resumed", ...place, ok, ...rest, ...(ok ? {} : { why: "epoch" }) });
    }
    if (frame.type === "history") {
      const messages = [...this.log.values()].filter(({ seq }) => seq < frame.before).slice(-frame.limit);
      return page.receive({ type: "history", ...place, before: frame.before, messages, more: false });
    }
    if (frame.type === "edit") {
      const edited_at = this.clock.now();
      Object.assign(this.log.get(frame.seq), { body: frame.body, edited_at });
      this.publish({ type: "edited", ...place, rev: ++this.rev, seq: frame.seq, body: frame.body, edited_at });
    }
    if (frame.type === "delete") {
      this.log.delete(frame.seq);
      this.publish({ type: "deleted", ...place, rev: ++this.rev, seq: frame.seq });
    }
  }

  #accept(page, { id, body, ttl = HOUR_S, reply_to }) {
    const key = `${page.me.id}|${id}`;
    const first = this.ids.get(key);
    if (first && first.body !== body)
      return page.receive({ type: "error", code: "id_reused", detail: "", retryable: false, of: "send", id, room: "r" });
    if (first) return page.receive({ type: "sent", ...first, duplicate: true });
    const now = this.clock.now();
    const after = [...this.log.keys()].at(-1) ?? 0;
    const times = { seq: ++this.top, id, sent_at: now, expires_at: now + ttl * 1000 };
    const answer = { room: "r", epoch: this.epoch, ...times };
    this.ids.set(key, { ...answer, body });
    const message = { ...times, from: page.me, body, ...(reply_to ? { reply_to } : {}), after };
    this.log.set(times.seq, message);
    this.publish({ type: "message", room: "r", epoch: this.epoch, ...message });
    page.receive({ type: "sent", ...answer, duplicate: false });
  }
}

/** One tab. Its frames are answered by `run`. */
class Page {
  sent = []; // the frames that the server got
  #queue = [];
  #isUp = false;

  constructor(server, { me = ADA, stores, clock = server.clock, isSender = true } = {}) {
    Object.assign(this, { server, me, clock, stores: stores ?? { outbox: new MemoryStore(), ownLog: new MemoryStore() } });
    let n = 0;
    const newId = () => `id${++n}`;
    const serverClock = { now: clock.now, set() {} };
    const tombstones = new Tombstones({ storage: null, user: me.id, now: clock.now });
    const transmit = (frame) => this.#isUp && this.#queue.push(frame) > 0;
    this.ownLog = new OwnLog({
      store: this.stores.ownLog,
      clock,
      serverNow: clock.now,
      on: {
        ask: (room, before) => transmit(protocol.history(room, before, 1)),
        reread: (room) => this.chat.reread(room),
        offer: (lost) => this.outbox.offer(lost),
      },
    });
    this.chat = new Chat({ me, clock, serverClock, newId, ownLog: this.ownLog, tombstones, hidden: () => false });
    this.outbox = new Outbox({
      store: this.stores.outbox,
      clock,
      serverNow: clock.now,
      random: () => 0,
      newId,
      ownLog: this.ownLog,
      transmit: (item) => (transmit(protocol.send(item)) ? "sent" : "offline"),
      on: { changed() {}, settled: (item, frame) => this.chat.settled(item, frame) },
    });
    this.chat.join({ outbox: this.outbox, transmit });
    this.isSender = isSender;
  }

  /** As main.js does. */
  async start() {
    if (this.isSender) await this.takeOver();
    await this.outbox.load();
    await this.connect();
    return this;
  }

  async takeOver() {
    await this.ownLog.load();
    this.chat.compareOwnLog();
    this.outbox.becomeSender();
    await this.run();
  }

  async connect() {
    const { server } = this;
    const rows = new Map(this.chat.greeting().map((row) => [row.room, row]));
    this.#isUp = true;
    server.pages.push(this);
    const { room, store } = server;
    this.receive({ type: "welcome", v: 1, connection: "c", user: this.me, now: this.clock.now(), store, limits: LIMITS, rooms: [room] });
    this.outbox.connected(LIMITS);
    this.chat.connected();
    server.answer(this, { type: "sync", ...(rows.get("r") ?? { epoch: room.epoch, since: room.delivered }) });
    await this.run();
  }

  disconnect() {
    this.#isUp = false;
    this.#queue.length = 0;
    this.server.pages = this.server.pages.filter((page) => page !== this);
    this.chat.disconnected();
    this.outbox.disconnected(1006);
  }

  receive(frame) {
    this.chat.receive(structuredClone(frame));
    this.shown; // never twice, after no frame
  }

  async run() {
    for (let turn = 0; turn < 5; turn += 1) {
      for (let frame = this.#queue.shift(); frame; frame = this.#queue.shift()) {
        this.sent.push(frame);
        this.server.answer(this, frame);
      }
      await settle();
    }
  }

  async write(body, fields = {}) {
    const item = await this.outbox.add({ room: "r", body, ttl: null, reply_to: null, life_s: HOUR_S, ...fields });
    await this.run();
    return item.id;
  }

  get room() {
    return this.chat.rooms.get("r");
  }

  get sends() {
    return this.sent.filter(({ type }) => type === "send").map(({ id, body }) => `${id} ${body}`);
  }

  get entries() {
    return [...this.ownLog.entries.values()].map(({ body }) => body);
  }

  /** The texts of the timeline. */
  get shown() {
    const { room } = this;
    if (!room) return [];
    const entries = entriesOf({
      room,
      now: this.clock.now(),
      localNow: this.clock.now(),
      me: this.me,
      online: true,
      limit: 4000,
      outbox: this.outbox.inRoom("r"),
      inFlight: () => true,
      tombstones: this.chat.tombstones(room),
      leaving: [],
      divider: null,
      linked: null,
      problems: new Map(),
      undelivered: () => null,
      extended: new Map(),
      resending: () => false,
      changing: () => false,
    });
    const keys = entries.map(({ key }) => key);
    assert.deepEqual(keys, [...new Set(keys)]);
    return entries.filter(({ kind }) => kind === "message" || kind === "outbox").map(({ shown }) => shown.body);
  }
}

async function pages() {
  const server = new Server(new FakeClock());
  return { server, ada: await new Page(server).start(), bob: await new Page(server, { me: BOB }).start() };
}

const THREE = ["one", "two", "three"];

async function writeThree(page) {
  for (const body of THREE) await page.write(body);
}

test("an accepted message is kept until a receipt says that all who owe it have it", async () => {
  const { ada } = await pages();
  await writeThree(ada);
  assert.deepEqual(ada.entries, THREE);
  assert.equal(ada.outbox.items.size, 0);
  const receipt = (...receipts) => ada.receive({ type: "receipt", room: "r", epoch: "e1", receipts });
  receipt([1, 1, 1, 2], [2, 2, 0, 2]);
  assert.deepEqual(ada.entries, ["one", "three"]);
  ada.chat.takeReceipts(ada.room, [[1, 2, 1, 2]]); // loaded over HTTP
  assert.deepEqual(ada.entries, ["three"]);
  assert.deepEqual(
    (await ada.stores.ownLog.all()).map(({ body }) => body),
    ["three"],
  );
});

test("a message that was deleted, expired or reported is not kept", async () => {
  const { ada } = await pages();
  await writeThree(ada);
  const id = await ada.write("four");
  ada.chat.delete(ada.room, 1);
  await ada.run();
  ada.receive({ type: "expired", room: "r", epoch: "e1", seqs: [2] });
  assert.deepEqual(ada.entries, ["three", "four"]);
  const gone = { ok: true, from: 4, upto: 4, top: 4, rev: 1, more: false, messages: [], gone: [[3, "deleted"]], changed: [] };
  ada.receive({ type: "resumed", room: "r", epoch: "e1", ...gone });
  assert.deepEqual(ada.entries, ["four"]);
  const data = { room: "r", epoch: "e1", seq: 4, id, sent_at: 1, expired_at: 2, delivered: 0, total: 1 };
  const missing = [{ user: 2, name: "bob", reason: "offline" }];
  ada.receive({
    type: "notice",
    notice: "n",
    kind: "undelivered",
    at: 1,
    dismissed: false,
    data: { ...data, missing, missing_total: 1, resendable: true },
  });
  assert.deepEqual(ada.entries, []);
});

test("a message of an untracked room is not kept", async () => {
  const { server, ada } = await pages();
  ada.receive({ type: "room", ...server.room, tracked: false });
  await ada.write("nobody owes it");
  assert.deepEqual(ada.entries, []);
});

test("a text is deleted at the end of its life, also on the device", async () => {
  const { ada } = await pages();
  await ada.write("short", { ttl: 30 });
  await ada.write("long");
  ada.clock.advance(29_999);
  assert.deepEqual(ada.entries, ["short", "long"]);
  ada.clock.advance(1);
  assert.deepEqual(ada.entries, ["", "long"]);
  assert.doesNotMatch(JSON.stringify(await ada.stores.ownLog.all()), /short/);
});

test("an extension prolongs the life of the text, and a shortening ends it", async () => {
  const { ada } = await pages();
  await ada.write("extended", { ttl: 30 });
  await ada.write("shortened");
  const now = ada.clock.now();
  ada.receive({ type: "edited", room: "r", epoch: "e1", rev: 1, seq: 1, expires_at: now + 60_000 });
  ada.receive({ type: "edited", room: "r", epoch: "e1", rev: 2, seq: 2, expires_at: now + 10_000 });
  ada.clock.advance(40_000);
  assert.deepEqual(ada.entries, ["extended", ""]);
});

test("a room with a new epoch gets its messages again with the same ids, in their order, and shows each once", async () => {
  const { server, ada, bob } = await pages();
  bob.disconnect();
  await writeThree(ada);
  server.empty();
  ada.receive({ type: "position", room: "r", epoch: server.epoch, top: 0, rev: 0 });
  await ada.run();
  assert.deepEqual(ada.sends, ["id1 one", "id2 two", "id3 three", "id1 one", "id2 two", "id3 three"]);
  assert.deepEqual(server.bodies, THREE);
  assert.deepEqual(ada.shown, THREE);
  assert.deepEqual([ada.entries, ada.outbox.items.size], [THREE, 0]);
  await bob.connect();
  assert.deepEqual(bob.shown, THREE);
  ada.receive({ type: "receipt", room: "r", epoch: server.epoch, receipts: [[1, 1, 0, 1]] });
  assert.deepEqual(ada.entries, ["two", "three"]);
});

test("lost messages are shown as being sent until the server accepts them", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  server.empty();
  server.answer = () => {}; // the sync is answered below, the sends are not
  ada.receive({ type: "position", room: "r", epoch: "e2", top: 0, rev: 0 });
  assert.deepEqual(ada.shown, []);
  const rest = { ok: true, from: 0, upto: 0, top: 0, rev: 0, more: false, messages: [], gone: [], changed: [] };
  ada.receive({ type: "resumed", room: "r", epoch: "e2", ...rest });
  assert.deepEqual(ada.shown, THREE);
});

test("lost messages are sent before the newer messages of the outbox", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  await ada.write("written offline");
  server.empty();
  await ada.connect();
  assert.deepEqual(server.bodies, [...THREE, "written offline"]);
});

test("a message that the new log has already is not sent again", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty();
  server.top = 9;
  server.log.set(9, { seq: 9, id: "id2", from: ADA, body: "two", sent_at: 1, expires_at: ada.clock.now() + 60_000 });
  await ada.connect();
  assert.deepEqual(ada.sends.slice(3), ["id1 one", "id3 three"]);
});

for (const [upto, isOpen] of [
  [3, true],
  [1, true],
  [3, false],
  [1, false],
]) {
  test(`a room with a new epoch and ${upto} old messages gets only the others from a page ${isOpen ? "that was open" : "opened later"}`, async () => {
    const { server, ada } = await pages();
    await writeThree(ada);
    ada.disconnect();
    server.renew(upto);
    server.delivered = upto;
    const page = isOpen ? ada : new Page(server, { stores: ada.stores });
    page.sent.length = 0;
    await (isOpen ? page.connect() : page.start());
    assert.deepEqual(
      page.sends.map((send) => send.split(" ")[1]),
      THREE.slice(upto),
    );
    assert.deepEqual([server.bodies, page.shown, page.entries, page.outbox.items.size], [THREE, THREE, THREE, 0]);
  });
}

test("another life of a store that lost nothing costs one `history`, and no message is sent again", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.restart();
  ada.sent.length = 0;
  await ada.connect();
  assert.deepEqual(ada.sent, [{ type: "history", room: "r", before: 4, limit: 1 }]);
  ada.disconnect();
  await ada.connect();
  assert.equal(ada.sent.length, 1);
});

test("a store that lost the end of a log gets just the lost messages again", async () => {
  const { server, ada, bob } = await pages();
  await writeThree(ada);
  for (const page of [ada, bob]) page.disconnect();
  server.restart(1);
  server.skip(); // no seq is given twice
  await ada.connect();
  assert.deepEqual(ada.sends.slice(3), ["id2 two", "id3 three"]);
  assert.deepEqual(ada.shown, THREE);
  await bob.connect();
  assert.deepEqual(bob.shown, THREE, "a page that had them shows them once");
  assert.deepEqual(ada.entries, THREE);
});

test("a client ahead of a log that lost its end follows it and offers its messages again", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.restart(1);
  await ada.connect();
  assert.deepEqual([server.bodies, ada.shown], [THREE, THREE]);
  assert.deepEqual(ada.sends.slice(3), ["id2 two", "id3 three"]);
});

test("a refused `history` is asked again", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.restart(2);
  server.skip();
  const answer = server.answer.bind(server);
  server.answer = (page, frame) =>
    frame.type === "history"
      ? page.receive({ type: "error", code: "rate_limited", detail: "", retryable: true, retry_after_ms: 500, of: "history", room: "r" })
      : answer(page, frame);
  await ada.connect();
  server.answer = answer;
  ada.clock.advance(500);
  await ada.run();
  assert.deepEqual(server.bodies, THREE);
});

test("the end of a message that is offered again is not later than before", async () => {
  const { server, ada } = await pages();
  await ada.write("one");
  const end = server.log.get(1).expires_at;
  ada.clock.advance(600_500);
  ada.disconnect();
  server.empty();
  await ada.connect();
  assert.equal(ada.sent.at(-1).ttl, 2999);
  assert.ok(server.log.get(1).expires_at <= end);
});

test("an edited message is offered with its newest text, and not as a reply to a seq of another epoch", async () => {
  const { server, ada } = await pages();
  await ada.write("one");
  await ada.write("two", { reply_to: 1 });
  ada.chat.edit(ada.room, 2, "second");
  await ada.run();
  ada.disconnect();
  server.empty();
  await ada.connect();
  assert.deepEqual(
    ada.sent.slice(-2).map(({ body, reply_to }) => [body, reply_to]),
    [
      ["one", undefined],
      ["second", undefined],
    ],
  );
});

test("an id that the store knows with the text from before an edit is known", async () => {
  const { server, ada } = await pages();
  await ada.write("one");
  ada.chat.edit(ada.room, 1, "first");
  await ada.run();
  ada.disconnect();
  server.restart();
  server.log.clear(); // not visible to `history`
  await ada.connect();
  assert.deepEqual([ada.sends.at(-1), ada.outbox.items.size, ada.entries], ["id1 first", 0, ["first"]]);
});

for (const [why, age_s, fields] of [
  ["whose id is too old", 86_401, { ttl: 7 * 86_400 }],
  ["whose life is nearly over", 51, { ttl: 60 }],
]) {
  test(`a lost message ${why} is in doubt: a retry has a new id, a deletion ends it`, async () => {
    const { server, ada } = await pages();
    await ada.write("one", fields);
    await ada.write("two", fields);
    ada.disconnect();
    ada.clock.advance(age_s * 1000);
    server.empty();
    await ada.connect();
    assert.equal(ada.sends.length, 2);
    assert.deepEqual(
      ada.outbox.failed.map(({ reason }) => reason),
      ["in_doubt", "in_doubt"],
    );
    assert.deepEqual(ada.shown, ["one", "two"]);
    await ada.outbox.retry("id1");
    await ada.outbox.discard("id2");
    await ada.run();
    assert.deepEqual(ada.sends.slice(2), ["id3 one"]);
    assert.equal(ada.sent.at(-1).ttl, fields.ttl);
    assert.deepEqual([ada.shown, ada.outbox.items.size], [["one"], 0]);
    assert.deepEqual(
      (await ada.stores.ownLog.all()).map(({ id }) => id),
      ["id3"],
    );
  });
}

test("an old message of a store that lost nothing is not in doubt", async () => {
  const { server, ada } = await pages();
  await ada.write("one", { ttl: 7 * 86_400 });
  ada.disconnect();
  ada.clock.advance(2 * 86_400_000);
  server.restart();
  await ada.connect();
  assert.deepEqual([ada.outbox.items.size, ada.entries, ada.shown], [0, ["one"], ["one"]]);
});

test("a message in doubt whose copy is still on the screen is shown once", async () => {
  const { server, ada } = await pages();
  await ada.write("one", { ttl: 7 * 86_400 });
  ada.disconnect();
  ada.clock.advance(86_401_000);
  server.restart(0);
  server.skip();
  await ada.connect();
  assert.deepEqual([ada.shown, ada.outbox.failed.length], [["one"], 1]);
});

test("a message that ended while its store lost data is in doubt without its text, until it is reported or deleted", async () => {
  const { server, ada } = await pages();
  await ada.write("one", { ttl: 60 });
  await ada.write("two", { ttl: 60 });
  ada.disconnect();
  ada.clock.advance(61_000);
  server.empty();
  await ada.connect();
  assert.deepEqual(
    ada.outbox.failed.map(({ body, reason }) => [body, reason]),
    [
      ["", "ended_in_doubt"],
      ["", "ended_in_doubt"],
    ],
  );
  assert.deepEqual(ada.shown, ["This message has expired", "This message has expired"]);
  await ada.outbox.retry("id1");
  assert.equal(ada.sends.length, 2);
  ada.outbox.reported("id1");
  await ada.outbox.discard("id2");
  assert.equal(ada.outbox.items.size, 0);
});

test("a message that ended while its store lost nothing is forgotten", async () => {
  const { server, ada } = await pages();
  await ada.write("one", { ttl: 60 });
  ada.disconnect();
  ada.clock.advance(61_000);
  server.log.clear();
  server.restart();
  await ada.connect();
  assert.deepEqual([ada.entries, ada.outbox.items.size], [[], 0]);
});

test("an id that the store knows only from a lost log leaves the message in doubt", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty({ ids: true });
  await ada.connect();
  assert.deepEqual(
    ada.outbox.failed.map(({ reason }) => reason),
    ["in_doubt", "in_doubt", "in_doubt"],
  );
  for (const id of ["id1", "id2", "id3"]) await ada.outbox.retry(id);
  await ada.run();
  assert.deepEqual([server.bodies, ada.shown], [THREE, THREE]);
});

test("the repeats follow the rules of the outbox: the server's wait, one unanswered send, final errors", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty();
  const answer = server.answer.bind(server);
  const refusals = [
    { code: "unavailable", retryable: true, retry_after_ms: 2000 },
    { code: "forbidden", retryable: false },
  ];
  server.answer = (page, frame) => {
    const refusal = frame.type === "send" && refusals.shift();
    if (refusal) page.receive({ type: "error", detail: "", of: "send", id: frame.id, room: "r", ...refusal });
    else answer(page, frame);
  };
  await ada.connect();
  assert.equal(ada.sends.length, 4);
  ada.clock.advance(2000);
  await ada.run();
  assert.deepEqual(server.bodies, ["two", "three"]);
  assert.deepEqual(
    ada.outbox.failed.map(({ body, reason }) => [body, reason]),
    [["one", "forbidden"]],
  );
});

test("a page that was closed finds the lost messages when it is opened again", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty();
  const later = await new Page(server, { stores: ada.stores }).start();
  assert.deepEqual([server.bodies, later.shown], [THREE, THREE]);
  assert.deepEqual(later.sends, ["id1 one", "id2 two", "id3 three"]);
});

test("a connection that is lost before the room was read decides nothing", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  server.renew();
  ada.receive({ type: "position", room: "r", epoch: server.epoch, top: 3, rev: 0 });
  ada.disconnect(); // the `sync` is not answered
  ada.chat.expire();
  assert.deepEqual([ada.outbox.items.size, ada.entries], [0, THREE]);
  await ada.connect();
  assert.equal(ada.sends.length, 3);
});

test("lost messages are sent in the order in which they were accepted", async () => {
  const { server, ada } = await pages();
  const answer = server.answer.bind(server);
  server.answer = (page, { id }) =>
    page.receive({ type: "error", code: "forbidden", detail: "", retryable: false, of: "send", id, room: "r" });
  await ada.write("second");
  server.answer = answer;
  await ada.write("first");
  ada.clock.advance(1);
  await ada.outbox.retry("id1");
  await ada.run();
  ada.disconnect();
  server.empty();
  server.answer = (page, frame) => frame.type !== "send" && answer(page, frame);
  await ada.connect();
  ada.disconnect();
  server.answer = answer;
  const kept = await ada.stores.outbox.all();
  ada.stores.outbox.all = async () => kept.sort((a, b) => a.id.localeCompare(b.id)); // as IndexedDB does
  await new Page(server, { stores: ada.stores }).start();
  assert.deepEqual(server.bodies, ["first", "second"]);
});

test("a message that the outbox has already is not offered to it", async () => {
  const { server, ada } = await pages();
  await ada.write("one", { ttl: 7 * 86_400 });
  ada.disconnect();
  ada.clock.advance(86_401_000);
  server.empty();
  ada.stores.ownLog.delete = async () => {
    throw new Error("full");
  };
  await ada.connect();
  await ada.outbox.retry("id1");
  await ada.run();
  ada.disconnect();
  server.empty();
  const later = await new Page(server, { stores: ada.stores }).start();
  assert.equal(later.outbox.failed.length, 1, "the first id, in the own log only");
  later.disconnect();
  later.outbox.items.get("id1").reason = "cannot_be_sent";
  await later.ownLog.load();
  await later.connect();
  assert.equal(later.outbox.failed[0].reason, "cannot_be_sent");
});

test("lost messages that the outbox cannot store stay in the own log of the device", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty();
  ada.stores.outbox.put = async () => {
    throw new Error("full");
  };
  const answer = server.answer.bind(server);
  server.answer = (page, frame) => frame.type !== "send" && answer(page, frame);
  await ada.connect();
  assert.deepEqual([ada.sends.length, (await ada.stores.ownLog.all()).length], [4, 3]);
});

test("a page that closes in the middle of the repeats leaves the rest to the next one", async () => {
  const { server, ada } = await pages();
  await writeThree(ada);
  ada.disconnect();
  server.empty();
  const answer = server.answer.bind(server);
  server.answer = (page, frame) => frame.type !== "send" && answer(page, frame);
  await ada.connect();
  ada.disconnect();
  server.answer = answer;
  const later = await new Page(server, { stores: ada.stores }).start();
  assert.deepEqual([server.bodies, later.shown, later.entries], [THREE, THREE, THREE]);
  assert.deepEqual(await ada.stores.outbox.all(), []);
});

test("only the tab that sends keeps messages, and the tab that takes over offers them", async () => {
  const { server, ada } = await pages();
  const second = await new Page(server, { stores: ada.stores, isSender: false }).start();
  await writeThree(ada);
  assert.deepEqual([second.entries, second.shown], [[], THREE]);
  ada.disconnect();
  server.empty();
  second.receive({ type: "position", room: "r", epoch: server.epoch, top: 0, rev: 0 });
  await second.run();
  assert.deepEqual(second.sends, []);
  await second.takeOver();
  assert.deepEqual([server.bodies, second.shown, second.entries], [THREE, THREE, THREE]);
});

test("a tab that does not send leaves a stored message to the tab that sends", async () => {
  const { server, ada } = await pages();
  const second = await new Page(server, { stores: ada.stores, isSender: false }).start();
  const sent = [];
  const receive = ada.receive.bind(ada);
  ada.receive = (frame) => sent.push(frame); // its answers are late
  server.publish = (frame) => {
    sent.push(frame);
    second.outbox.reload().then(() => second.receive(frame));
  };
  const id = await ada.write("one");
  await second.outbox.reload();
  assert.deepEqual(second.shown, ["one"]);
  await ada.outbox.reload();
  for (const frame of sent) receive(frame);
  assert.deepEqual([[...ada.ownLog.entries.keys()], second.entries], [[id], []]);
});

test("messages that the device refuses are kept as long as the page", async () => {
  const refuse = async () => {
    throw new Error("full");
  };
  const server = new Server(new FakeClock());
  const ownLog = { all: refuse, put: refuse, delete: refuse };
  const ada = await new Page(server, { stores: { outbox: new MemoryStore(), ownLog } }).start();
  await writeThree(ada);
  server.empty();
  ada.receive({ type: "position", room: "r", epoch: server.epoch, top: 0, rev: 0 });
  await ada.run();
  assert.deepEqual([server.bodies, ada.shown], [THREE, THREE]);
});

test("at most 1,000 messages and 4 MB of text are kept, the newest", async () => {
  const { ada } = await pages();
  const accepted = (n, body) => {
    const item = { id: `i${n}`, room: "r", body, ttl: null, reply_to: null, life_s: HOUR_S, created_at: 0, order: n };
    ada.ownLog.keep(item, { epoch: "e1", seq: n, sent_at: n, expires_at: ada.clock.now() + 1000 });
  };
  for (let n = 1; n <= 1001; n += 1) accepted(n, "short");
  assert.equal(ada.ownLog.entries.size, 1000);
  assert.equal(ada.ownLog.entries.has("i1"), false);
  for (let n = 2001; n <= 2003; n += 1) accepted(n, "x".repeat(1024 * 1024));
  assert.deepEqual([...ada.ownLog.entries.keys()], ["i2002", "i2003"]);
  assert.equal((await ada.stores.ownLog.all()).length, 2);
});

test("the messages of a room that the user has left are not kept", async () => {
  const { ada } = await pages();
  await writeThree(ada);
  ada.receive({ type: "room", room: "r", removed: true });
  assert.deepEqual(ada.entries, []);
});

test("a message with the id of another user's message does not replace it", async () => {
  const { server, ada } = await pages();
  const id = await ada.write("of ada");
  const now = ada.clock.now();
  const message = { seq: 2, id, from: BOB, body: "of bob", sent_at: now, expires_at: now + 1000 };
  server.publish({ type: "message", room: "r", epoch: "e1", ...message });
  assert.deepEqual(ada.shown, ["of ada", "of bob"]);
});
