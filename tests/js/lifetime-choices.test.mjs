import assert from "node:assert/strict";
import { test } from "node:test";
import { choices } from "../../static/js/view/lifetime-picker.js";

test("the menu lists the presets, the room's own and the longest, and allows what is within both bounds", () => {
  const listed = choices({ own: 600, least: 60, longest: 86_400 });
  assert.deepEqual(listed.map(({ seconds, allowed, note }) => [seconds, allowed, note]), [
    [300, true, null],
    [600, true, "own"],
    [3600, true, null],
    [28_800, true, null],
    [86_400, true, "longest"],
    [604_800, false, "over"],
    [2_419_200, false, "over"],
  ]);
});
