import assert from "node:assert/strict";
import { test } from "node:test";
import { Outbox } from "../../static/js/model/outbox.js";
import { MemoryStore } from "../../static/js/device/outbox-store.js";
import { FakeClock, settle } from "./fake-clock.mjs";

const LIMITS = { id_s: 86_400 };
const HOUR = 3600;

function world({ store = new MemoryStore(), clock = new FakeClock(), leads = true, ids = 0 } = {}) {
  const sent = [];
  const line = { up: true, big: false };
  const settled = [];
  let n = ids;
  const outbox = new Outbox({
    store,
    transmit: (item) => {
      if (line.big) return "too_big";
      if (!line.up) return "offline";
      sent.push({ id: item.id, body: item.body, at: clock.now() });
      return "sent";
    },
    clock,
    serverNow: clock.now,
    random: () => 0,
    newId: () => `id${++n}`,
    ownLog: { holdsBack: () => false, epochOf: () => null },
    on: { changed() {}, settled: (item, frame) => settled.push([item.id, frame.seq]) },
  });
  if (leads) outbox.becomeSender();
  const write = (body, fields = {}) => outbox.add({ room: "r", body, life_s: HOUR, ...fields });
  const accept = (id, fields = {}) => outbox.sent({ id, room: "r", seq: 1, ...fields });
  const refuse = (id, code, fields = {}) => outbox.refused({ id, code, retryable: false, ...fields });
  return {
    outbox,
    store,
    clock,
    sent,
    line,
    settled,
    write,
    accept,
    refuse,
    get bodies() {
      return sent.map(({ body }) => body);
    },
  };
}

/** Make the store wait before each write until stored() is called. */
function gated(store) {
  const put = store.put.bind(store);
  let stored;
  const gate = new Promise((resolve) => (stored = resolve));
  store.put = async (item) => {
    await gate;
    await put(item);
  };
  return { stored };
}

test("a message is on the device before it is sent", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  let kept_first = null;
  const put = w.store.put.bind(w.store);
  w.store.put = async (item) => {
    kept_first ??= w.sent.length === 0;
    await put(item);
  };
  await w.write("one");
  assert.equal(kept_first, true);
  assert.equal(w.sent.length, 1);
});

test("a message that the device is storing is not sent by another event, and the room's order is kept", async () => {
  const w = world();
  const { stored } = gated(w.store);
  w.write("one");
  w.write("two");
  w.outbox.connected(LIMITS);
  w.outbox.pump();
  assert.deepEqual(w.bodies, []);
  stored();
  await settle();
  w.accept("id1");
  assert.deepEqual(w.bodies, ["one", "two"]);
});

test("a device that does not answer delays a message by five seconds", async () => {
  const w = world();
  gated(w.store);
  w.outbox.connected(LIMITS);
  w.write("one");
  await settle();
  w.clock.advance(4999);
  assert.deepEqual(w.bodies, []);
  w.clock.advance(1);
  assert.deepEqual(w.bodies, ["one"]);
});

test("a message that the device refuses is sent from memory", async () => {
  const w = world();
  w.store.put = async () => {
    throw new Error("full");
  };
  await w.write("one");
  await w.outbox.reload();
  w.outbox.connected(LIMITS);
  assert.deepEqual(w.bodies, ["one"]);
});

test("a tab that does not send rejects a message that the device refuses", async () => {
  const w = world({ leads: false });
  w.store.put = async () => {
    throw new Error("full");
  };
  await assert.rejects(w.write("one"), /full/);
  assert.equal(w.outbox.items.size, 0);
});

test("a retry that the device refuses leaves the message failed in a tab that does not send", async () => {
  const w = world({ leads: false });
  const failed = { id: "id0", room: "r", body: "one", life_s: HOUR, created_at: w.clock.now(), order: 1, closes: 0, not_before: 0 };
  await w.store.put({ ...failed, state: "failed", reason: "id_reused" });
  await w.outbox.load();
  w.store.put = async () => {
    throw new Error("full");
  };
  await assert.rejects(w.outbox.retry("id0"), /full/);
  assert.deepEqual(
    w.outbox.failed.map(({ id }) => id),
    ["id0"],
  );
});

test("one unanswered send per room keeps the room's order", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  await w.write("two");
  await w.write("elsewhere", { room: "s" });
  assert.deepEqual(w.bodies, ["one", "elsewhere"]);
  w.accept("id1");
  assert.deepEqual(w.bodies, ["one", "elsewhere", "two"]);
});

test("a message in doubt is sent again first, with the same id", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  await w.write("two");
  w.outbox.disconnected(1006);
  w.outbox.connected(LIMITS);
  assert.deepEqual(
    w.sent.map(({ id }) => id),
    ["id1", "id1"],
  );
});

test("a reload finds the messages that were not accepted, in order", async () => {
  const before = world();
  await before.write("one");
  await before.write("two");
  const after = world({ store: before.store, clock: before.clock, ids: 2 });
  await after.outbox.load();
  after.outbox.connected(LIMITS);
  after.accept("id1");
  assert.deepEqual(after.bodies, ["one", "two"]);
});

test("`sent` deletes the message from the device", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  w.accept("id1", { seq: 9 });
  await settle();
  assert.deepEqual(await w.store.all(), []);
  assert.deepEqual(w.settled, [["id1", 9]]);
});

test("the server's wait is kept and delays the room's later messages", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  await w.write("two");
  w.refuse("id1", "rate_limited", { retryable: true, retry_after_ms: 8000 });
  w.clock.advance(7999);
  assert.deepEqual(w.bodies, ["one"]);
  w.clock.advance(1);
  assert.deepEqual(w.bodies, ["one", "one"]);
  assert.equal(w.sent[0].id, w.sent[1].id);
});

test("a message with a retryable error and no wait is sent again after a second", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  w.refuse("id1", "unavailable", { retryable: true });
  w.clock.advance(1000);
  assert.equal(w.sent.length, 2);
});

test("a final error fails one message and the room continues", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  await w.write("two");
  w.refuse("id1", "body_too_long");
  assert.deepEqual(w.bodies, ["one", "two"]);
  assert.deepEqual(
    w.outbox.failed.map(({ id, reason }) => [id, reason]),
    [["id1", "body_too_long"]],
  );
});

test("a message older than its own lifetime is never sent without asking, and a retry gives it a new id", async () => {
  const w = world();
  await w.write("one", { life_s: 30 });
  w.clock.advance(31_000);
  w.outbox.connected(LIMITS);
  assert.deepEqual(w.bodies, []);
  assert.equal(w.outbox.failed[0].reason, "too_old");
  await w.outbox.retry("id1");
  assert.deepEqual(
    w.sent.map(({ id }) => id),
    ["id2"],
  );
  assert.deepEqual(
    (await w.store.all()).map(({ id }) => id),
    ["id2"],
  );
});

test("a message older than the store's memory of ids is never sent without asking", async () => {
  const w = world();
  await w.write("one", { life_s: 30 * 86_400 });
  w.clock.advance(86_401_000);
  w.outbox.connected(LIMITS);
  assert.deepEqual(w.bodies, []);
  assert.equal(w.outbox.failed[0].reason, "too_old");
});

test("a message in flight at three closes in a row fails, and no other", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("poison");
  await w.write("good");
  for (let close = 0; close < 3; close += 1) {
    w.outbox.disconnected(1006);
    w.outbox.connected(LIMITS);
  }
  assert.deepEqual(w.bodies, ["poison", "poison", "poison", "good"]);
  assert.equal(w.outbox.failed[0].reason, "cannot_be_sent");
});

test("the count of closes survives a reload", async () => {
  let w = world();
  await w.write("poison");
  for (let close = 0; close < 3; close += 1) {
    w = world({ store: w.store, clock: w.clock, ids: 5 });
    await w.outbox.load();
    w.outbox.connected(LIMITS);
    w.outbox.disconnected(1006);
    await settle();
  }
  assert.equal((await w.store.all())[0].state, "failed");
});

test("a close with 1009 fails the message at once", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("big");
  w.outbox.disconnected(1009);
  assert.equal(w.outbox.failed.length, 1);
});

test("a message that does not fit into a frame fails before it is sent", async () => {
  const w = world();
  w.line.big = true;
  w.outbox.connected(LIMITS);
  await w.write("big");
  assert.equal(w.outbox.failed[0].reason, "body_too_long");
});

test("a failed message is retried with its id; a reused id is replaced", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  w.refuse("id1", "not_member");
  await w.outbox.retry("id1");
  w.refuse("id1", "id_reused");
  await w.outbox.retry("id1");
  assert.deepEqual(
    w.sent.map(({ id }) => id),
    ["id1", "id1", "id2"],
  );
});

test("a tab without the lock stores and does not send", async () => {
  const w = world({ leads: false });
  w.outbox.connected(LIMITS);
  await w.write("one");
  assert.deepEqual(w.bodies, []);
  assert.equal((await w.store.all()).length, 1);
});

test("the sending tab sends the messages of another tab", async () => {
  const leader = world();
  const other = world({ store: leader.store, clock: leader.clock, leads: false, ids: 10 });
  leader.outbox.connected(LIMITS);
  await other.write("from the other tab");
  await leader.outbox.reload();
  assert.deepEqual(leader.bodies, ["from the other tab"]);
});

test("a reload for another tab does not remove a message that is being stored", async () => {
  const w = world();
  const { stored } = gated(w.store);
  const writing = w.write("one");
  await w.outbox.reload();
  stored();
  await writing;
  assert.equal(w.outbox.items.size, 1);
});

test("discarding the message in flight lets the next one be sent", async () => {
  const w = world();
  w.outbox.connected(LIMITS);
  await w.write("one");
  await w.write("two");
  await w.outbox.discard("id1");
  assert.deepEqual(w.bodies, ["one", "two"]);
});

test("an error with an unknown id is not handled", () => {
  assert.equal(world().refuse("nobody", "forbidden"), false);
});
