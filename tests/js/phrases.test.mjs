import assert from "node:assert/strict";
import { test } from "node:test";
import * as phrases from "../../static/js/phrases.js";

const S = 1000,
  MIN = 60 * S,
  H = 60 * MIN,
  D = 24 * H;

for (const [ms, text] of [
  [28 * D - S, "4 weeks"],
  [7 * D - S, "7 days"],
  [6 * D + H, "6 days"],
  [D + H, "25 h"],
  [8 * H - S, "8 h"],
  [7 * H + MIN, "7 h"],
  [H + 12 * MIN, "1 h 12 min"],
  [H + S, "1 h"],
  [H, "60 min"],
  [57 * MIN + S, "57 min"],
  [61 * S, "1 min"],
  [MIN, "60 s"],
  [41 * S - 1, "41 s"],
  [1, "1 s"],
  [0, "0 s"],
]) {
  test(`${ms} ms left reads ${text}`, () => assert.equal(phrases.remaining(ms), text));
}

test("the remaining time changes once a minute, then once a second", () => {
  assert.equal(phrases.nextTick(57 * MIN + 5 * S), 5 * S);
  assert.equal(phrases.nextTick(MIN + 5), 5);
  assert.equal(phrases.nextTick(30 * S + 20), 20);
  assert.equal(phrases.nextTick(30 * S), S);
});

for (const [seconds, text] of [
  [30, "30 seconds"],
  [90, "90 seconds"],
  [3600, "1 hour"],
  [604_800, "1 week"],
  [2_419_200, "4 weeks"],
]) {
  test(`${seconds} s is called ${text}`, () => assert.equal(phrases.duration(seconds), text));
}

test("every error of the contract has its own sentence or a general one", () => {
  for (const code of ["body_too_long", "body_empty", "bad_ttl", "not_member", "forbidden"])
    assert.match(phrases.notSent(code), /^Not sent: /);
  assert.equal(phrases.notSent("something_new"), "Not sent");
});

test("the typing line names one, two or more people", () => {
  assert.equal(phrases.typing(["Grace"]), "Grace is typing");
  assert.equal(phrases.typing(["Grace", "小林"]), "Grace and 小林 are typing");
  assert.equal(phrases.typing(["Grace", "小林", "a", "b", "c"]), "Grace, 小林 and 3 others are typing");
});
