import assert from "node:assert/strict";
import { test } from "node:test";
import { Tombstones } from "../../static/js/model/tombstones.js";
import { FakeClock, settle } from "./fake-clock.mjs";

const DAY = 86_400_000;

class CountingStorage {
  writes = 0;
  #text = null;
  getItem = () => this.#text;
  setItem = (_, text) => {
    this.writes += 1;
    this.#text = text;
  };
}

const tombstone = (clock, seq, fields = {}) => ({ room: "r", epoch: "e", seq, ended_at: clock.now(), why: "expired", ...fields });

test("many tombstones at once are written once", async () => {
  const clock = new FakeClock();
  const storage = new CountingStorage();
  const tombstones = new Tombstones({ storage, user: 1, now: clock.now });
  for (let seq = 1; seq <= 100; seq += 1) tombstones.put(tombstone(clock, seq));
  await settle();
  assert.equal(storage.writes, 1);
  assert.equal(new Tombstones({ storage, user: 1, now: clock.now }).inRoom("r", "e").length, 100);
});

test("the tombstones of two tabs are merged", async () => {
  const clock = new FakeClock();
  const storage = new CountingStorage();
  const [one, other] = [1, 2].map(() => new Tombstones({ storage, user: 1, now: clock.now }));
  one.put(tombstone(clock, 1));
  await settle();
  other.put(tombstone(clock, 2));
  await settle();
  assert.deepEqual(
    new Tombstones({ storage, user: 1, now: clock.now }).inRoom("r", "e").map(({ seq }) => seq),
    [1, 2],
  );
});

test("a tombstone is removed a day after the end of its message, to the millisecond", () => {
  const clock = new FakeClock();
  const tombstones = new Tombstones({ storage: new CountingStorage(), user: 1, now: clock.now });
  tombstones.put(tombstone(clock, 1));
  assert.equal(Tombstones.endOf(tombstones.get("r", 1)), clock.now() + DAY);
  clock.advance(DAY - 1);
  assert.equal(tombstones.inRoom("r", "e").length, 1);
  clock.advance(1);
  assert.equal(tombstones.inRoom("r", "e").length, 0);
});

test("the newest thousand are kept", async () => {
  const clock = new FakeClock();
  const tombstones = new Tombstones({ storage: new CountingStorage(), user: 1, now: clock.now });
  for (let seq = 1; seq <= 1001; seq += 1) tombstones.put(tombstone(clock, seq, { ended_at: clock.now() + seq }));
  await settle();
  const kept = tombstones.inRoom("r", "e");
  assert.deepEqual([kept.length, kept[0].seq], [1000, 2]);
});

test("a storage that refuses loses tombstones only at a reload", async () => {
  const clock = new FakeClock();
  const refuse = () => {
    throw new Error("full");
  };
  const tombstones = new Tombstones({ storage: { getItem: refuse, setItem: refuse }, user: 1, now: clock.now });
  tombstones.put(tombstone(clock, 1));
  await settle();
  assert.equal(tombstones.inRoom("r", "e").length, 1);
});
