import assert from "node:assert/strict";
import { test } from "node:test";
import { choices, extensionOf, presetsUpTo } from "../../static/js/model/lifetime-choices.js";

test("the menu lists the presets, the room's own and the longest lifetime, and allows those within both bounds", () => {
  const listed = choices({ own: 600, least: 60, longest: 86_400 });
  assert.deepEqual(
    listed.map(({ seconds, allowed, note }) => [seconds, allowed, note]),
    [
      [300, true, null],
      [600, true, "own"],
      [3600, true, null],
      [28_800, true, null],
      [86_400, true, "longest"],
      [604_800, false, "over"],
      [2_419_200, false, "over"],
    ],
  );
});

test("an extension is as long as the message's own life, within the longest allowed", () => {
  const message = { sent_at: 0, expires_at: 3600_000 };
  assert.deepEqual(extensionOf(message, { now: 3000_000, longest: 86_400 }), { by: 3600, ttl: 600 + 3600 });
  assert.deepEqual(extensionOf(message, { now: 3000_000, longest: 4000 }), { by: 3600, ttl: 4000 });
});

test("a select offers the presets up to the longest, and the current lifetime", () => {
  assert.deepEqual(presetsUpTo({ current: 600, longest: 3600 }), [30, 300, 600, 3600]);
});
