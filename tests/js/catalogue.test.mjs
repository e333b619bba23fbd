import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, root), "utf8");

/** {msgid: msgstr}; the catalogue has each on its own line. */
function catalogue(text) {
  const entries = text.split("\n\n").map((block) => [block.match(/^msgid (".*")$/m)?.[1], block.match(/^msgstr(?:\[0\])? (".*")$/m)?.[1]]);
  return new Map(
    entries.filter(([id, translation]) => id && translation).map(([id, translation]) => [JSON.parse(id), JSON.parse(translation)]),
  );
}

const chinese = catalogue(read("locale/zh_Hans/LC_MESSAGES/djangojs.po"));
const page = readdirSync(new URL("static/js/", root), { recursive: true }).filter(
  (name) => name.endsWith(".js") && !name.startsWith("admin/"),
);
const literals = page.flatMap((name) =>
  [...read(`static/js/${name}`).matchAll(/\bn?gettext\(\s*("(?:[^"\\]|\\.)*")/g)].map((match) => JSON.parse(match[1])),
);

test("every phrase of the scripts has a Simplified Chinese translation", () => {
  assert.ok(literals.length > 150);
  assert.deepEqual(
    [...new Set(literals)].filter((phrase) => !chinese.get(phrase)),
    [],
  );
});

test("no translation uses a value that its phrase does not have", () => {
  const values = (text) => [...text.matchAll(/%\((\w+)\)s/g)].map((match) => match[1]);
  const more = { "%(first)s, %(second)s and %(n)s other are typing": ["all"] };
  const wrong = [...chinese]
    .filter(([id]) => id)
    .filter(([id, translation]) => values(translation).some((name) => ![...values(id), ...(more[id] ?? [])].includes(name)));
  assert.deepEqual(wrong, []);
});

test("no script of the page parses markup", () => {
  for (const name of page)
    assert.doesNotMatch(
      read(`static/js/${name}`),
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\(|new Function/,
      name,
    );
});

test("modules import by relative paths with an extension and a semicolon, which the static storage rewrites", () => {
  for (const name of page)
    for (const [line, from] of read(`static/js/${name}`).matchAll(/^import .* from (.*)$/gm))
      assert.match(from, /^"\.{1,2}\/(?:[a-z0-9-]+\/)*[a-z0-9-]+\.js";$/, `${name}: ${line}`);
});
