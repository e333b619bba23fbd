import assert from "node:assert/strict";
import { test } from "node:test";
import { newId } from "../../static/js/device/new-id.js";
import { Preferences } from "../../static/js/device/preferences.js";

const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

test("a new id is a random UUID of version 4, with and without crypto.randomUUID", () => {
  assert.match(newId(), UUID4);
  const withoutUuid = { getRandomValues: (bytes) => crypto.getRandomValues(bytes) };
  const ids = new Set(Array.from({ length: 100 }, () => newId(withoutUuid)));
  assert.equal(ids.size, 100);
  for (const id of ids) assert.match(id, UUID4);
});

function storage() {
  const values = new Map();
  return {
    values,
    getItem: (key) => values.get(key) ?? null,
    setItem: (key, value) => values.set(key, value),
    removeItem: (key) => values.delete(key),
  };
}

test("preferences are stored for each user, and empty ones are deleted", () => {
  const kept = storage();
  const ada = new Preferences({ storage: kept, user: 1 });
  const grace = new Preferences({ storage: kept, user: 2 });
  ada.setDraft("r", "half a");
  ada.setMuted("r", true);
  ada.enterKey = "newline";
  assert.deepEqual([ada.draft("r"), ada.isMuted("r"), ada.enterKey], ["half a", true, "newline"]);
  assert.deepEqual([grace.draft("r"), grace.isMuted("r"), grace.enterKey], ["", false, ""]);
  assert.deepEqual([...kept.values.keys()], ["chat.1.draft.r", "chat.1.muted.r", "chat.1.enter"]);
  ada.setDraft("r", "  ");
  ada.setMuted("r", false);
  ada.enterKey = "";
  assert.equal(kept.values.size, 0);
});

test("without a storage, and with one that refuses, preferences are empty", () => {
  const refuse = () => {
    throw new Error("refused");
  };
  for (const refused of [null, { getItem: refuse, setItem: refuse, removeItem: refuse }]) {
    const preferences = new Preferences({ storage: refused, user: 1 });
    preferences.setDraft("r", "lost");
    assert.equal(preferences.draft("r"), "");
  }
});
