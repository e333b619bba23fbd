import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageActions } from "../../static/js/view/message-actions.js";

/** Actions whose parts write down each call as [part, method, ...arguments]. */
function world() {
  const calls = [];
  const part = (name) =>
    new Proxy(
      {},
      {
        get:
          (_, method) =>
          (...args) =>
            void calls.push([name, method, ...args]),
      },
    );
  const message = { seq: 7, body: "hello" };
  const room = { id: "r", log: { messages: new Map([[7, message]]) } };
  const parts = Object.fromEntries(["chat", "outbox", "timeline", "composer", "messageDetails"].map((name) => [name, part(name)]));
  const actions = new MessageActions({ ...parts, currentRoom: () => room });
  const made = () => calls.filter(([, method]) => method !== "forgetProblem");
  return { actions, made, message, room };
}

test("the quote in an unsent message leads to the quoted message, and the unsent one is kept", () => {
  const w = world();
  w.actions.act("show", { kind: "outbox", key: "own:x", seq: Infinity, item: { id: "x", body: "unsent" }, target: 7 });
  assert.deepEqual(w.made(), [["timeline", "link", 7]]);
});

test("editing an unsent message takes it out of the outbox and into the message box", async () => {
  const w = world();
  await w.actions.act("edit", { kind: "outbox", key: "own:x", seq: Infinity, item: { id: "x", body: "unsent" } });
  assert.deepEqual(w.made(), [
    ["outbox", "discard", "x"],
    ["composer", "restore", "unsent"],
  ]);
});

test("an action gets the message as it is now", () => {
  const w = world();
  w.actions.act("reply", { kind: "message", key: "seq:7", seq: 7, message: { seq: 7, body: "before the edit" } });
  assert.deepEqual(w.made(), [["composer", "reply", w.message]]);
});

test("a tombstone offers nothing but the resend", () => {
  const w = world();
  const tombstone = { room: "r", epoch: "e", seq: 7 };
  for (const name of ["resend", "reply", "delete"]) w.actions.act(name, { kind: "tombstone", key: "seq:7", seq: 7, tombstone });
  assert.deepEqual(w.made(), [["chat", "resend", tombstone]]);
});
