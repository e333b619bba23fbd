import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { posix } from "node:path";
import { test } from "node:test";

const root = new URL("../../static/js/", import.meta.url);
const names = readdirSync(root, { recursive: true })
  .map((name) => name.replaceAll("\\", "/"))
  .filter((name) => name.endsWith(".js"));
const sources = new Map(names.map((name) => [name, readFileSync(new URL(name, root), "utf8")]));

/** The files that a script loads, as paths below static/js. Imports of types, in comments, load nothing. */
const importsOf = (name) =>
  [...sources.get(name).matchAll(/^import\b[^"]*"([^"]+)";$/gm)].map(([, path]) => posix.join(posix.dirname(name), path));
const typesOf = (name) =>
  [...sources.get(name).matchAll(/(?:@import .* from |import\()"([^"]+)"/g)].map(([, path]) => posix.join(posix.dirname(name), path));
const folderOf = (name) => (name.includes("/") ? name.slice(0, name.indexOf("/")) : name);

const LAYERS = {
  "i18n.js": [],
  "phrases.js": ["i18n.js"],
  model: ["model", "i18n.js", "phrases.js"],
  device: ["device"],
  http: ["http", "model"],
  view: ["view", "http", "model", "i18n.js", "phrases.js"],
  "main.js": ["view", "device", "http", "model"],
  admin: ["admin"],
};

test("each folder imports only from the folders below it", () => {
  const wrong = names.flatMap((name) =>
    importsOf(name)
      .filter((path) => !LAYERS[folderOf(name)]?.includes(folderOf(path)))
      .map((path) => `${name} imports ${path}`),
  );
  assert.deepEqual(wrong, []);
});

test("every import names an existing script", () => {
  const missing = names.flatMap((name) =>
    [...importsOf(name), ...typesOf(name)].filter((path) => !sources.has(path)).map((path) => `${name} imports ${path}`),
  );
  assert.deepEqual(missing, []);
});

test("the model takes no types from other folders", () => {
  const wrong = names
    .filter((name) => folderOf(name) === "model")
    .flatMap((name) =>
      typesOf(name)
        .filter((path) => folderOf(path) !== "model")
        .map((path) => `${name} uses ${path}`),
    );
  assert.deepEqual(wrong, []);
});

test("the model uses no DOM, no storage and no network of the browser", () => {
  const withoutComments = (text) => text.replace(/\/\*[\s\S]*?\*\/|(?<!:)\/\/.*$/gm, "");
  const globals =
    /(?<![.\w#"])(?:globalThis|window|document|navigator|localStorage|sessionStorage|indexedDB|(?:location|history)(?=\.)|(?:fetch|setTimeout|setInterval|requestAnimationFrame)(?=\()|(?<=new )(?:BroadcastChannel|WebSocket|XMLHttpRequest))\b/g;
  const inModel = names.filter((name) => folderOf(name) === "model");
  assert.ok(inModel.length > 10);
  const wrong = inModel.flatMap((name) =>
    [...withoutComments(sources.get(name)).matchAll(globals)].map(([word]) => `${name} uses ${word}`),
  );
  assert.deepEqual(wrong, []);
});

test("no script imports itself through others", () => {
  const finished = new Set();
  const visit = (name, path) => {
    assert.ok(!path.includes(name), [...path, name].join(" -> "));
    if (finished.has(name)) return;
    for (const next of importsOf(name)) visit(next, [...path, name]);
    finished.add(name);
  };
  for (const name of names) visit(name, []);
});
