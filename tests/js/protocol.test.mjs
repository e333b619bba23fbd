import assert from "node:assert/strict";
import { test } from "node:test";
import * as protocol from "../../static/js/model/protocol.js";

const message = {
  type: "message",
  room: "r",
  epoch: "e",
  seq: 7,
  id: "a",
  from: { id: 1, name: "ada" },
  body: "hi",
  sent_at: 1,
  expires_at: 2,
};

test("length is counted in code points, as the server does", () => {
  assert.equal(protocol.codePoints("a🙂林"), 3);
});

test("a body loses NUL and lone surrogates, which the store refuses", () => {
  assert.equal(protocol.cleanBody("  a\u0000b\ud800c 🙂\n"), "ab\ufffdc 🙂");
});

test("an array of frames is read in order and unknown types are skipped", () => {
  const frames = protocol.parse(JSON.stringify([{ type: "later" }, message, { type: "pong", n: 1 }]));
  assert.deepEqual(
    frames.map((frame) => frame.type),
    ["message", "pong"],
  );
});

for (const [name, data] of Object.entries({
  "not JSON": "{",
  "a number": "3",
  null: "null",
  "no type": "{}",
  "a type from the prototype": '{"type":"constructor"}',
  "a message without a place": JSON.stringify({ ...message, seq: "7" }),
  "a fractional seq": JSON.stringify({ ...message, seq: 1.5 }),
  "a resumed without from": JSON.stringify({ type: "resumed", room: "r", epoch: "e", ok: true }),
})) {
  test(`${name} is dropped`, () => assert.deepEqual(protocol.parse(data), []));
}

test("a message of which only the place is readable is returned as unshowable", () => {
  const [frame] = protocol.parse(JSON.stringify({ ...message, body: { html: "x" } }));
  assert.equal(frame.unshowable, true);
  assert.deepEqual([frame.room, frame.epoch, frame.seq, frame.body, frame.from.name], ["r", "e", 7, "", "ada"]);
});

test("an unreadable message inside resumed keeps its place", () => {
  const [frame] = protocol.parse(
    JSON.stringify({
      type: "resumed",
      room: "r",
      epoch: "e",
      ok: true,
      from: 0,
      upto: 7,
      top: 7,
      rev: 0,
      more: false,
      messages: [{ seq: 7 }],
      gone: [],
      changed: [],
    }),
  );
  assert.equal(frame.messages[0].unshowable, true);
});

test("a frame over the limit is not encoded, counted in bytes", () => {
  assert.equal(protocol.encode({ body: "林".repeat(30_000) }, 65_536), null);
  assert.ok(protocol.encode({ body: "a".repeat(60_000) }, 65_536));
});

test("absent fields are left out of send", () => {
  assert.deepEqual(protocol.send({ id: "a", room: "r", body: "hi", ttl: null }), { type: "send", id: "a", room: "r", body: "hi" });
});

test("only the contract's codes prevent a reconnect", () => {
  const codes = [1001, 1006, 1011, 1012, 1013, 4400, 4402, 4408, 4429, 4501, 4503, 4504];
  assert.deepEqual(
    codes.filter((code) => !protocol.mayReconnect(code)),
    [4501, 4503, 4504],
  );
  assert.deepEqual(
    codes.filter((code) => !protocol.mayResetBackoff(code)),
    [4400, 4429],
  );
});

const data = {
  room: "r",
  epoch: "e",
  seq: 1,
  id: "x",
  sent_at: 1,
  expired_at: 2,
  delivered: 1,
  total: 2,
  missing: [{ user: 3, name: "bob", reason: "offline", attempts: 0 }],
  missing_total: 1,
  resendable: true,
};
const told = (fields) =>
  protocol.parse(JSON.stringify({ type: "notice", notice: "n", kind: "undelivered", at: 1, data, dismissed: false, ...fields }));

test("a notice lists the recipients who missed a message, row by row", () => {
  assert.deepEqual(told({})[0].data, data);
  assert.deepEqual(told({ data: { ...data, missing: [...data.missing, { user: "4" }, null] } })[0].data, data);
  assert.equal(told({ kind: "summary", data: { messages: 240, from_at: 1, to_at: 2, rooms: { r: 240 } } }).length, 1);
});

test("an unreadable notice is dropped, a dismissed one needs only its name", () => {
  assert.deepEqual(
    [told({ kind: "news" }), told({ data: {} }), told({ data: { ...data, missing: "bob" } }), told({ kind: "summary" })],
    [[], [], [], []],
  );
  assert.equal(told({ data: {}, dismissed: true })[0].notice, "n");
});
