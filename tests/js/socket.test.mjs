import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket, backoffBound } from "../../static/js/model/socket.js";
import { FakeClock, settle } from "./fake-clock.mjs";

function world({ status = 204, random = () => 1 } = {}) {
  const clock = new FakeClock();
  const sockets = [];
  const asked = [];
  const closed = [];
  const frames = [];
  class FakeWebSocket {
    sent = [];
    constructor() {
      sockets.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {
      this.closed = true;
    }
    accept() {
      this.onopen();
      this.say({
        type: "welcome",
        connection: "c",
        user: { id: 1, name: "ada" },
        now: 5,
        store: "s",
        limits: { frame: 65_536 },
        rooms: [],
      });
    }
    say(frame) {
      this.onmessage({ data: JSON.stringify(frame) });
    }
    end(code) {
      this.onclose({ code });
    }
  }
  const answer = { status };
  const socket = new Socket({
    url: "ws://here/ws/chat/",
    WebSocket: FakeWebSocket,
    check: async () => {
      asked.push(clock.now());
      return answer.status;
    },
    clock,
    random,
    rooms: () => [{ room: "r", epoch: "e", since: 3 }],
    user: 1,
    on: { state() {}, frame: (frame) => frames.push(frame), closed: (code) => closed.push(code) },
  });
  return {
    clock,
    sockets,
    socket,
    asked,
    closed,
    frames,
    answer,
    get last() {
      return sockets.at(-1);
    },
  };
}

test("`hello` is the first frame and names the rooms", () => {
  const w = world();
  w.socket.connect();
  w.last.accept();
  assert.deepEqual(w.last.sent[0], { type: "hello", v: 1, rooms: [{ room: "r", epoch: "e", since: 3 }] });
  assert.equal(w.socket.state.name, "open");
});

test("the bound doubles from half a second to thirty seconds", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7, 20].map(backoffBound), [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test("each failure waits longer, and ten healthy seconds reset the backoff", () => {
  const w = world();
  w.socket.connect();
  for (const wait of [500, 1000, 2000]) {
    w.last.accept();
    w.last.end(1006);
    assert.equal(w.socket.state.retryAt - w.clock.now(), wait);
    w.clock.advance(wait);
  }
  w.last.accept();
  w.clock.advance(10_000);
  w.last.end(1012);
  assert.equal(w.socket.state.retryAt - w.clock.now(), 500);
});

for (const code of [4400, 4429]) {
  test(`a close with ${code} does not reset the backoff even after a healthy connection`, () => {
    const w = world();
    w.socket.connect();
    w.last.accept();
    w.last.end(1006);
    w.clock.advance(500);
    w.last.accept();
    w.clock.advance(20_000);
    w.last.end(code);
    assert.equal(w.socket.state.retryAt - w.clock.now(), 1000);
  });
}

for (const [code, why] of [
  [4503, "banned"],
  [4504, "outdated"],
]) {
  test(`${code} ends the connection with its reason`, () => {
    const w = world();
    w.socket.connect();
    w.last.accept();
    w.last.end(code);
    assert.deepEqual(w.socket.state, { name: "ended", why });
    w.socket.wake();
    w.clock.advance(100_000);
    assert.equal(w.sockets.length, 1);
  });
}

test("an ended session ends the connection after the check confirms it", async () => {
  const w = world({ status: 401 });
  w.socket.connect();
  w.last.accept();
  w.last.end(4501);
  assert.deepEqual(w.closed, [4501]);
  w.clock.advance(500);
  await settle();
  assert.deepEqual(w.socket.state, { name: "ended", why: "logged_out" });
  w.socket.wake();
  w.clock.advance(100_000);
  assert.equal(w.sockets.length, 1);
});

test("a session that another tab has renewed continues", async () => {
  const w = world({ status: 503 });
  w.socket.connect();
  w.last.accept();
  w.last.end(4501);
  w.clock.advance(500);
  await settle();
  assert.equal(w.sockets.length, 1); // the check did not know
  w.answer.status = 204;
  w.clock.advance(1000);
  await settle();
  assert.equal(w.sockets.length, 2);
  w.last.accept();
  assert.equal(w.socket.state.name, "open");
});

test("another user's session does not serve this user's page", () => {
  const w = world();
  w.socket.connect();
  w.last.onopen();
  const welcome = {
    type: "welcome",
    connection: "c",
    user: { id: 2, name: "grace" },
    now: 5,
    store: "s",
    limits: { frame: 65_536 },
    rooms: [],
  };
  w.last.onmessage({ data: JSON.stringify([welcome, { type: "typing", room: "r", user: 3 }]) });
  assert.deepEqual(w.frames, []);
  assert.equal(w.socket.send([{ type: "ping", n: 1 }]), false);
  assert.deepEqual(w.socket.state, { name: "ended", why: "logged_out" });
  w.clock.advance(100_000);
  assert.equal(w.sockets.length, 1);
});

test("after a failed handshake the check address is requested before the next attempt", async () => {
  const w = world({ status: 503 });
  w.socket.connect();
  w.last.end(1006);
  w.clock.advance(500);
  await settle();
  assert.equal(w.asked.length, 1);
  assert.equal(w.sockets.length, 1);
  w.answer.status = 204;
  w.clock.advance(1000);
  await settle();
  assert.equal(w.sockets.length, 2);
});

test("an ended session appears only in the check and ends the attempts", async () => {
  const w = world({ status: 401 });
  w.socket.connect();
  w.last.end(1006);
  w.clock.advance(500);
  await settle();
  assert.deepEqual(w.socket.state, { name: "ended", why: "logged_out" });
});

test("a failed handshake does not count as a close: nothing was in flight", () => {
  const w = world();
  w.socket.connect();
  w.last.end(1006);
  assert.deepEqual(w.closed, []);
});

test("waking connects at once", () => {
  const w = world();
  w.socket.connect();
  w.last.accept();
  w.last.end(1006);
  w.socket.wake();
  assert.equal(w.sockets.length, 2);
  assert.equal(w.clock.waits.includes(500), false);
});

test("`bye` bounds the next wait", () => {
  const w = world({ random: () => 0.5 });
  w.socket.connect();
  w.last.accept();
  w.last.say({ type: "bye", code: 1012, after_ms: 3000 });
  w.last.end(1012);
  assert.equal(w.socket.state.retryAt - w.clock.now(), 1500);
});

test("when the browser reports that there is no network, the connection has 3 s to answer", () => {
  for (const answers of [false, true]) {
    const w = world();
    w.socket.connect();
    w.last.accept();
    w.socket.networkLost();
    assert.equal(w.last.sent.at(-1).type, "ping");
    w.clock.advance(2_900);
    if (answers) w.last.say({ type: "pong", n: 1 });
    w.clock.advance(200);
    assert.equal(w.socket.isOpen, answers);
  }
});

test("a silent connection gets a ping and, without an answer, is dropped", () => {
  const w = world();
  w.socket.connect();
  w.last.accept();
  w.clock.advance(25_000);
  assert.equal(w.last.sent.at(-1).type, "ping");
  w.clock.advance(9_999);
  assert.equal(w.socket.state.name, "open");
  w.clock.advance(1);
  assert.equal(w.socket.state.name, "waiting");
  assert.deepEqual(w.closed, [1006]);
  assert.equal(w.sockets[0].closed, true);
});

test("any frame keeps the connection alive", () => {
  const w = world();
  w.socket.connect();
  w.last.accept();
  w.clock.advance(25_000);
  w.last.say({ type: "pong", n: 1 });
  w.clock.advance(24_999);
  assert.equal(w.socket.state.name, "open");
});

test("a connection without `welcome` is dropped", () => {
  const w = world();
  w.socket.connect();
  w.last.onopen();
  w.clock.advance(15_000);
  assert.equal(w.socket.state.name, "waiting");
});

test("no frame is sent before `welcome`, and no frame that is too big", () => {
  const w = world();
  w.socket.connect();
  assert.equal(w.socket.send({ type: "ping", n: 1 }), false);
  w.last.accept();
  assert.equal(w.socket.send({ type: "send", body: "a".repeat(70_000) }), false);
  assert.equal(w.last.sent.length, 1);
});
