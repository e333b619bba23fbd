import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, root), "utf8");

/** {msgid: msgstr}; the catalogue keeps each on a line of its own. */
function catalogue(text) {
  const entries = text.split("\n\n").map((block) => [block.match(/^msgid (".*")$/m)?.[1], block.match(/^msgstr(?:\[0\])? (".*")$/m)?.[1]]);
  return new Map(entries.filter(([id, said]) => id && said).map(([id, said]) => [JSON.parse(id), JSON.parse(said)]));
}

const chinese = catalogue(read("locale/zh_Hans/LC_MESSAGES/djangojs.po"));
const scripts = readdirSync(new URL("static/js/", root)).filter((name) => name.endsWith(".js"));
const literals = scripts.flatMap((name) => [...read(`static/js/${name}`).matchAll(/\bn?gettext\(("(?:[^"\\]|\\.)*")/g)].map((match) => JSON.parse(match[1])));

test("every phrase of the scripts is said in Simplified Chinese", () => {
  assert.ok(literals.length > 150);
  assert.deepEqual([...new Set(literals)].filter((phrase) => !chinese.get(phrase)), []);
});

test("no translation names a value that its phrase does not have", () => {
  const places = (text) => [...text.matchAll(/%\((\w+)\)s/g)].map((match) => match[1]);
  const more = { "%(first)s, %(second)s and %(n)s other are typing": ["all"] };
  const wrong = [...chinese].filter(([id]) => id).filter(([id, said]) => places(said).some((name) => ![...places(id), ...(more[id] ?? [])].includes(name)));
  assert.deepEqual(wrong, []);
});

test("text reaches the screen as text: no script parses markup", () => {
  for (const name of scripts) assert.doesNotMatch(read(`static/js/${name}`), /innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\(|new Function/, name);
});

test("modules import by relative paths with an extension and a semicolon, as the static storage rewrites them", () => {
  for (const name of scripts) for (const [line, from] of read(`static/js/${name}`).matchAll(/^import .* from (.*)$/gm)) assert.match(from, /^"\.\/[a-z0-9-]+\.js";$/, `${name}: ${line}`);
});
