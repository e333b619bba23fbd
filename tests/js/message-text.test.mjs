import assert from "node:assert/strict";
import { test } from "node:test";
import { parts } from "../../static/js/model/message-text.js";

const kinds = (text) => parts(text).map(({ kind, text: shown }) => [kind, shown]);

for (const text of [
  "<script>alert(1)</script>",
  "javascript:alert(1)",
  "JAVASCRIPT:alert(1)//https",
  "<img src=x onerror=alert(1)>",
  "&lt;b&gt;",
  "data:text/html,x",
  "http://",
  "https:// nothing",
  "ada@example.org",
]) {
  test(`${text} stays text`, () =>
    assert.deepEqual(
      parts(text).every(({ kind }) => kind === "text"),
      true,
    ));
}

test("addresses become links, without the punctuation of the sentence", () => {
  assert.deepEqual(kinds("See https://example.org/a_(b)?x=1#y, or (http://b.example)."), [
    ["text", "See "],
    ["link", "https://example.org/a_(b)?x=1#y"],
    ["text", ", or ("],
    ["link", "http://b.example"],
    ["text", ")."],
  ]);
});

test("an address ends at Chinese punctuation", () => {
  assert.deepEqual(kinds("见https://example.org/路径，谢谢"), [
    ["text", "见"],
    ["link", "https://example.org/路径"],
    ["text", "，谢谢"],
  ]);
});

test("mentions and code are parts of their own kind", () => {
  assert.deepEqual(kinds("@ada run `a <b>` @小林。"), [
    ["mention", "@ada"],
    ["text", " run "],
    ["code", "a <b>"],
    ["text", " "],
    ["mention", "@小林"],
    ["text", "。"],
  ]);
});

test("the parts contain the whole text", () => {
  const text = "a @b `c` https://d.example/e. `f";
  assert.equal(
    parts(text)
      .map(({ kind, text: shown }) => (kind === "code" ? `\`${shown}\`` : shown))
      .join(""),
    text,
  );
});
