import assert from "node:assert/strict";
import { test } from "node:test";
import { RoomLog } from "../../static/js/model/log.js";

const NEVER = Number.MAX_SAFE_INTEGER;
const message = (seq, fields = {}) => ({
  type: "message",
  room: "r",
  epoch: "e",
  seq,
  id: `m${seq}`,
  from: { id: 2, name: "grace" },
  body: `${seq}`,
  sent_at: 0,
  expires_at: NEVER,
  ...fields,
});
const resumed = (from, upto, fields = {}) => ({
  type: "resumed",
  room: "r",
  epoch: "e",
  ok: true,
  from,
  upto,
  top: upto,
  rev: 0,
  more: false,
  messages: [],
  gone: [],
  changed: [],
  ...fields,
});

function open({ delivered = 0, rev = 0, now = () => 0 } = {}) {
  const log = new RoomLog({ room: "r", place: { epoch: "e", delivered, rev }, now });
  log.resumed(resumed(delivered, delivered, { rev }));
  return log;
}

const seqs = (log) => log.list.map(({ seq }) => seq);

test("the next seq is accepted and due for acknowledgement", () => {
  const log = open();
  assert.equal(log.message(message(1)).added.length, 1);
  assert.deepEqual(log.nextAck(), { room: "r", epoch: "e", delivered: 1, late: [] });
  assert.equal(log.nextAck(), null);
});

test("a known seq is dropped and acknowledged again", () => {
  const log = open();
  log.message(message(1));
  log.nextAck();
  assert.equal(log.message(message(1)).added.length, 0);
  assert.deepEqual(log.nextAck(), { room: "r", epoch: "e", delivered: 1, late: [] });
});

test("a message above a gap is held, the gap is synced once, and it is never acknowledged", () => {
  const log = open();
  assert.equal(log.message(message(2)).added.length, 0);
  assert.deepEqual(log.nextSync(), { room: "r", epoch: "e", since: 0, rev: 0 });
  log.message(message(3));
  assert.equal(log.nextSync(), null);
  assert.equal(log.nextAck(), null);
  log.resumed(resumed(0, 1, { messages: [message(1)] }));
  assert.deepEqual(seqs(log), [1, 2, 3]);
});

test("`after` guarantees that nothing lies between", () => {
  const log = open();
  log.message(message(1));
  log.message(message(1_048_578, { after: 1 }));
  assert.deepEqual(seqs(log), [1, 1_048_578]);
  assert.equal(log.nextSync(), null);
});

test("an `after` above the last is a gap", () => {
  const log = open();
  log.message(message(9, { after: 5 }));
  assert.deepEqual(seqs(log), []);
  assert.ok(log.nextSync());
});

test("a message of another epoch empties the room and syncs from 0", () => {
  const log = open();
  log.message(message(1));
  const out = log.message(message(5, { epoch: "f" }));
  assert.equal(out.reset, true);
  assert.deepEqual(log.nextSync(), { room: "r", epoch: "f", since: 0, rev: null });
});

test("a `resumed` that begins above the last is not applied", () => {
  const log = open();
  log.resumed(resumed(4, 5, { messages: [message(5)], changed: undefined }));
  assert.deepEqual([log.last, seqs(log)], [0, []]);
  assert.ok(log.nextSync());
});

test("a `resumed` without a request covers a message for others", () => {
  const log = open();
  log.message(message(1));
  log.resumed(resumed(1, 2, { changed: undefined, rev: 7 }));
  assert.deepEqual([log.last, log.rev], [2, 0]);
  assert.equal(log.nextSync(), null);
});

test("holes below `upto` mean nothing", () => {
  const log = open();
  log.resumed(resumed(0, 9, { messages: [message(3), message(8)] }));
  assert.deepEqual([log.last, seqs(log)], [9, [3, 8]]);
});

test("`more` syncs again from the cut", () => {
  const log = open();
  log.greet();
  log.resumed(resumed(0, 2, { top: 5, more: true, messages: [message(1), message(2)] }));
  assert.equal(log.nextSync().since, 2);
});

test("`more` without progress does not sync for ever", () => {
  const log = open();
  log.greet();
  log.resumed(resumed(0, 0, { top: 5, more: true }));
  assert.equal(log.nextSync(), null);
});

test("`ok: false` for the epoch drops the messages and syncs from 0 of the current epoch", () => {
  const log = open();
  log.message(message(1));
  log.greet();
  log.resumed({ ...resumed(1, 1), ok: false, why: "epoch", epoch: "f" });
  assert.deepEqual(seqs(log), []);
  assert.deepEqual(log.nextSync(), { room: "r", epoch: "f", since: 0, rev: null });
});

test("a `since` above the top of the same epoch drops the messages too", () => {
  const log = open({ delivered: 9 });
  log.greet();
  log.resumed({ ...resumed(9, 0), ok: false, why: "epoch", epoch: "e" });
  assert.deepEqual([log.last, log.nextSync().since], [0, 0]);
});

test("an answer from before a restart changes nothing", () => {
  const log = open({ delivered: 5 });
  log.position({ room: "r", epoch: "e", top: 9, rev: 0 });
  log.nextSync();
  log.message(message(2, { epoch: "f" }));
  log.nextSync();
  const out = log.resumed({ ...resumed(5, 0), ok: false, why: "epoch", epoch: "f" });
  assert.equal(out.reset, false);
});

test("edits are applied in order of `rev`; a jump syncs; an old one is dropped", () => {
  const log = open();
  log.message(message(1));
  assert.equal(log.edited({ room: "r", epoch: "e", rev: 1, seq: 1, body: "new", edited_at: 5 }).changed[0].body, "new");
  assert.equal(log.edited({ room: "r", epoch: "e", rev: 1, seq: 1, body: "old" }).changed.length, 0);
  assert.equal(log.edited({ room: "r", epoch: "e", rev: 3, seq: 1, body: "later" }).changed.length, 0);
  assert.deepEqual(log.nextSync(), { room: "r", epoch: "e", since: 1, rev: 1 });
});

test("missed changes come from `changed` and `gone`, and `rev` is set with them", () => {
  const log = open();
  for (const seq of [1, 2, 3]) log.message(message(seq));
  log.greet();
  const out = log.resumed(resumed(3, 3, { rev: 4, changed: [message(1, { body: "edited" })], gone: [[2, "deleted"]] }));
  assert.deepEqual([out.changed[0].body, out.removed[0].message.seq, log.rev], ["edited", 2, 4]);
});

test("a message that expired on the way moves the cursor and is not shown", () => {
  const log = open({ now: () => 100 });
  log.message(message(1, { expires_at: 100 }));
  assert.deepEqual([log.last, seqs(log)], [1, []]);
});

test("the room removes a message at its own expires_at", () => {
  const log = open();
  log.message(message(1, { expires_at: 50 }));
  log.message(message(2, { expires_at: 60 }));
  assert.deepEqual(
    log.expireUntil(50).removed.map(({ message: { seq }, reason }) => [seq, reason]),
    [[1, "expired"]],
  );
});

test("pages are loaded downwards from the start of the log, one at a time", () => {
  const log = open({ delivered: 100 });
  assert.deepEqual(log.nextPage(50), { room: "r", before: 101, limit: 50 });
  assert.equal(log.nextPage(50), null);
  log.history({ room: "r", epoch: "e", before: 101, messages: [message(70), message(99)], more: true });
  assert.deepEqual(log.nextPage(50), { room: "r", before: 70, limit: 50 });
  log.history({ room: "r", epoch: "e", before: 70, messages: [], more: false });
  assert.equal(log.hasMore, false);
});

test("a page from before an edit or a deletion does not bring the old text back", () => {
  const log = open({ delivered: 3 });
  log.nextPage(50);
  log.edited({ room: "r", epoch: "e", rev: 1, seq: 2, body: "new" });
  log.deleted({ room: "r", epoch: "e", rev: 2, seq: 3 });
  log.history({ room: "r", epoch: "e", before: 4, messages: [message(1), message(2), message(3)], more: false });
  assert.deepEqual(
    log.list.map(({ seq, body }) => [seq, body]),
    [
      [1, "1"],
      [2, "new"],
    ],
  );
});

test("a position above the last syncs", () => {
  const log = open();
  log.position({ room: "r", epoch: "e", top: 1, rev: 0 });
  assert.equal(log.nextSync().since, 0);
});

test("trimming raises the floor, so that paging brings the messages back", () => {
  const log = open();
  for (let seq = 1; seq <= 5; seq += 1) log.message(message(seq));
  log.trim(2);
  assert.deepEqual([seqs(log), log.nextPage(50).before], [[4, 5], 4]);
});

test("`not_member` leaves the room", () => {
  const log = open();
  log.greet();
  assert.equal(log.resumed({ ...resumed(0, 0), ok: false, why: "not_member", epoch: null }).left, true);
});

// ---- any interleaving of loss, cuts, edits, deletions, jumps of the seq and new epochs

function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A server that keeps the contract over a fan-out that loses what it likes. */
class Server {
  epoch = "e0";
  top = 0;
  rev = 0;
  delivered = 0;
  messages = new Map();
  changes = [];

  append(mine, jump) {
    const before = this.top;
    this.top += jump;
    if (!mine)
      return {
        type: "resumed",
        room: "r",
        epoch: this.epoch,
        ok: true,
        from: before,
        upto: this.top,
        top: this.top,
        rev: this.rev,
        more: false,
        messages: [],
        gone: [],
      };
    const one = message(this.top, { epoch: this.epoch, ...(jump > 1 ? { after: before } : {}) });
    this.messages.set(this.top, one);
    return one;
  }

  edit(seq) {
    this.rev += 1;
    const one = { ...this.messages.get(seq), body: `rev ${this.rev}`, edited_at: this.rev };
    this.messages.set(seq, one);
    this.changes.push({ rev: this.rev, seq });
    return { type: "edited", room: "r", epoch: this.epoch, rev: this.rev, seq, body: one.body, edited_at: one.edited_at };
  }

  delete(seq) {
    this.rev += 1;
    this.messages.delete(seq);
    this.changes.push({ rev: this.rev, seq });
    return { type: "deleted", room: "r", epoch: this.epoch, rev: this.rev, seq };
  }

  lose() {
    this.epoch = `${this.epoch}'`;
    this.top = this.rev = this.delivered = 0;
    this.messages.clear();
    this.changes = [];
  }

  read({ epoch, since, rev = null }, limit) {
    const refused = {
      type: "resumed",
      room: "r",
      epoch: this.epoch,
      ok: false,
      why: "epoch",
      from: since,
      upto: 0,
      top: this.top,
      rev: this.rev,
      more: false,
      messages: [],
      gone: [],
      changed: [],
    };
    if (epoch !== this.epoch || since > this.top) return refused;
    const after = [...this.messages.values()].filter(({ seq }) => seq > since).sort((a, b) => a.seq - b.seq);
    const messages = after.slice(0, limit);
    const upto = after.length > limit ? messages.at(-1).seq : this.top;
    const news = rev === null ? [] : this.changes.filter((change) => change.rev > rev && change.seq <= since);
    const cut = news.slice(0, limit);
    const touched = [...new Set(cut.map(({ seq }) => seq))];
    const reached = news.length > cut.length ? cut.at(-1).rev : this.rev;
    return {
      type: "resumed",
      room: "r",
      epoch: this.epoch,
      ok: true,
      from: since,
      upto,
      top: this.top,
      rev: reached,
      more: upto < this.top || news.length > cut.length,
      messages,
      gone: touched.filter((seq) => !this.messages.has(seq)).map((seq) => [seq, "deleted"]),
      changed: touched.filter((seq) => this.messages.has(seq)).map((seq) => this.messages.get(seq)),
    };
  }

  acknowledge({ epoch, delivered }) {
    if (epoch === this.epoch) this.delivered = Math.max(this.delivered, delivered);
  }
}

function walk(seed) {
  const chance = random(seed);
  const pick = (list) => list[Math.floor(chance() * list.length)];
  const server = new Server();
  const log = new RoomLog({ room: "r", place: { epoch: server.epoch, delivered: 0, rev: 0 }, now: () => 0 });
  let pipe = []; // frames on their way to the page
  let asked = []; // syncs on their way to the server
  let connected = true;
  let muted = false; // the server holds the room's messages back until a sync reaches the top
  const shown = new Set();
  const trace = [];

  const say = (frame, loss = 0.3) => connected && !muted && chance() >= loss && pipe.push(frame);
  const answer = (ask) => {
    const frame = server.read(ask, 3);
    muted = frame.more;
    pipe.push(frame);
  };
  const after = () => {
    const ask = log.nextSync();
    if (ask && connected) asked.push(ask);
    const ack = log.nextAck();
    if (ack) server.acknowledge(ack);
    for (const one of log.list) shown.add(`${one.epoch ?? log.epoch}|${one.seq}`);
    if (log.epoch !== server.epoch) return;
    for (const one of server.messages.values()) {
      assert.ok(one.seq > log.last || log.messages.has(one.seq), `seed ${seed}: ${one.seq} was passed over`);
      assert.ok(
        one.seq > server.delivered || shown.has(`${server.epoch}|${one.seq}`),
        `seed ${seed}: ${one.seq} was acknowledged and never held`,
      );
    }
  };
  const connect = () => {
    connected = true;
    muted = false;
    pipe = [];
    asked = [];
    answer(log.greet());
  };
  const cut = () => {
    connected = false;
    pipe = [];
    asked = [];
    log.disconnected();
  };
  const deliver = () => {
    const frame = pipe.shift();
    log[{ message: "message", resumed: "resumed", edited: "edited", deleted: "deleted", position: "position" }[frame.type]](frame);
    after();
  };
  const steps = {
    append: () => say(server.append(chance() < 0.85, chance() < 0.05 ? 50 : 1)),
    edit: () => server.messages.size && say(server.edit(pick([...server.messages.keys()]))),
    delete: () => server.messages.size && chance() < 0.4 && say(server.delete(pick([...server.messages.keys()]))),
    deliver: () => pipe.length && deliver(),
    again: () => server.messages.has(server.delivered + 1) && say(server.messages.get(server.delivered + 1)),
    answer: () => asked.length && answer(asked.shift()),
    cut: () => chance() < 0.2 && cut(),
    connect: () => !connected && connect(),
    position: () => say({ type: "position", room: "r", epoch: server.epoch, top: server.top, rev: server.rev }, 0),
    lose: () => chance() < 0.05 && server.lose(),
  };
  after();
  connect();
  for (let step = 0; step < 120; step += 1) {
    const name = pick([
      "append",
      "append",
      "append",
      "edit",
      "delete",
      "deliver",
      "deliver",
      "deliver",
      "deliver",
      "answer",
      "answer",
      "again",
      "cut",
      "connect",
      "position",
      "lose",
    ]);
    trace.push(name);
    steps[name]();
  }
  // Quiet: nothing is lost any more, and a position comes.
  if (!connected) connect();
  for (let turn = 0; turn < 400 && (pipe.length || asked.length || turn < 3); turn += 1) {
    while (pipe.length) deliver();
    while (asked.length) answer(asked.shift());
    if (turn < 3) pipe.push({ type: "position", room: "r", epoch: server.epoch, top: server.top, rev: server.rev });
  }
  const held = log.list.map(({ seq, body }) => [seq, body]);
  const stored = [...server.messages.values()].map(({ seq, body }) => [seq, body]).sort((a, b) => a[0] - b[0]);
  assert.deepEqual([log.epoch, held], [server.epoch, stored], `seed ${seed}: ${trace.join(" ")}`);
  assert.equal(server.delivered, server.top, `seed ${seed}: everything held is acknowledged`);
}

test("after any loss, repetition, cut or restart the page ends with the messages of the store", () => {
  for (let seed = 1; seed <= 3000; seed += 1) walk(seed);
});

test("a message that arrives after its end is not shown, and named as late in every acknowledgement until the log ends", () => {
  const log = open({ now: () => 100 });
  log.message(message(1, { expires_at: 200 }));
  log.message(message(2, { expires_at: 100 }));
  log.message(message(3, { expires_at: 200 }));
  assert.deepEqual(seqs(log), [1, 3]);
  assert.deepEqual(log.nextAck(), { room: "r", epoch: "e", delivered: 3, late: [2] });
  log.message(message(3, { expires_at: 200 }));
  assert.deepEqual(log.nextAck(), { room: "r", epoch: "e", delivered: 3, late: [2] });
  log.disconnected();
  assert.deepEqual(log.greet().late, [2]);
});

test("with more late messages than a frame may name, an acknowledgement reaches only to the last one that it names", () => {
  const log = open({ now: () => 100 });
  for (const seq of [1, 2, 3, 4]) log.message(message(seq, { expires_at: seq === 1 ? 200 : 100 }));
  const rows = [0, 2, 2].map((most) => log.nextAck(most));
  assert.deepEqual(
    rows.map(({ delivered, late }) => [delivered, late]),
    [
      [1, []],
      [3, [2, 3]],
      [4, [3, 4]],
    ],
  );
  assert.equal(log.nextAck(), null);
  log.disconnected();
  const { since, late } = log.greet(1);
  assert.deepEqual([since, late], [3, [3]]);
});

test("an answer tells the period in which messages may be missing", () => {
  const log = open();
  assert.equal(log.doubt, null);
  log.resumed(resumed(0, 0, { doubt: [5, 9] }));
  assert.deepEqual(log.doubt, [5, 9]);
});
