import assert from "node:assert/strict";
import { test } from "node:test";
import { Ledger, bodyOf } from "../../bench/load/ledger.mjs";

function room() {
  const ledger = new Ledger();
  ledger.measuring = true;
  const members = ["ada", "grace"].map((room, sender) => ledger.open({ room, sender, probe: true }));
  return { ledger, members, ada: members[0], grace: members[1] };
}

test("the generator's ledger counts a message that came once and in order", () => {
  const { ledger, members, ada } = room();
  ledger.sent(ada);
  for (const member of members) ledger.delivered(member, bodyOf(0, 0), members);
  assert.equal(ledger.deliveries, 2);
  assert.equal(ledger.missing([members]), 0);
  assert.deepEqual([ledger.twice, ledger.unordered], [0, 0]);
});

test("the ledger counts a lost message", () => {
  const { ledger, members, ada } = room();
  ledger.sent(ada);
  ledger.delivered(ada, bodyOf(0, 0), members);
  assert.equal(ledger.missing([members]), 1);
});

test("the ledger counts a duplicate", () => {
  const { ledger, members, ada, grace } = room();
  ledger.sent(ada);
  for (let i = 0; i < 2; i++) ledger.delivered(grace, bodyOf(0, 0), members);
  assert.equal(ledger.twice, 1);
});

test("the ledger counts messages out of order", () => {
  const { ledger, members, ada, grace } = room();
  for (let i = 0; i < 2; i++) ledger.sent(ada);
  ledger.delivered(grace, bodyOf(0, 1), members);
  ledger.delivered(grace, bodyOf(0, 0), members);
  assert.equal(ledger.unordered, 1);
  assert.equal(ledger.twice, 1);
});
