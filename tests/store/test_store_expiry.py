"""The operations at the end of a message: claim, missed recipients, finalize; and messages for some or owed by nobody."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec
import pytest

from messaging.errors import NoSuchMessage
from messaging.store import Store, expiry
from messaging.store.records import Counts, Due, Held, Missed, Overdue, Read, RoomKey, Slice, idempotency_key
from tests.store.test_store import FAR_AWAY, NEXT_DOOR, STRANGER, heard
from tests.store.test_store_changes import changed, delete, edit, extend, kept, process
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    HOUR_MS,
    ROOM,
    accept,
    acknowledge,
    due,
    dump,
    expire,
    message,
    missing,
    new_id,
    read,
    vanish,
)

MANY, HERE = 10_000, 100
TEXT = "c0ffee-5eba5713-17f1e1d-0b501e7e"

End = Callable[..., Awaitable[None]]
both_ends = pytest.mark.parametrize("end", [expire, vanish])


async def over(store: Store, *seqs: int, room: RoomKey = ROOM) -> None:
    """Let messages have ended long enough ago for the job to look."""
    await expire(store, *seqs, room=room)
    await due(store, *seqs, room=room)


async def tick(store: Store) -> None:
    """Wait for the next millisecond of the store: two claims in one would have the same score, unlike real leases."""
    now_ms = await store.now_ms()
    while await store.now_ms() == now_ms:
        pass


async def score(store: Store, seq: int, room: RoomKey = ROOM) -> int | None:
    records = await store.client.zscore(f"{room.prefix}expiring", f"{room.id}|{seq}")
    return None if records is None else int(records)


async def counts(store: Store, unit: Literal["minute", "day"] = "day") -> Counts:
    """Return the present counts, also when a new minute or day has begun."""
    before, now = map(dataclasses.asdict, await store.stats.counts(unit, 2))
    return Counts(**{name: before[name] + now[name] for name in now})


class Counting:
    """Counts the scripts and the round trips of plain commands of a store."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scripts: Counter[str] = Counter()
        self.round_trips = 0
        run, pipeline = store.scripts.run, store.scripts.pipeline

        async def counting_run(calls: list[tuple[str, tuple[object, ...]]], **options: bool) -> list[object]:
            self.scripts.update(name for name, _ in calls)
            return await run(calls, **options)

        async def counting_pipeline(commands: list[tuple[object, ...]]) -> list[object]:
            self.round_trips += 1
            return await pipeline(commands)

        monkeypatch.setattr(store.scripts, "run", counting_run)
        monkeypatch.setattr(store.scripts, "pipeline", counting_pipeline)


class TestClaim:
    async def test_claim_takes_messages_that_ended_before_the_delay(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(4)), message(room=FAR_AWAY))
        await over(store, 1, 3)
        await expire(store, 2)  # acks may still be in flight
        await over(store, 1, room=FAR_AWAY)
        at = {(room, seq): await score(store, seq, room) for room in (ROOM, FAR_AWAY) for seq in (1, 3)}
        claimed = await store.expiry.claim("t")
        assert {(row.room, row.seq): row.due_at for row in claimed} == {
            place: due_at for place, due_at in at.items() if due_at is not None
        }

    async def test_claim_of_one_room_waits_for_the_delay_too(self, store: Store) -> None:
        await accept(store, message(), message())
        await expire(store, 1, 2)
        assert await store.expiry.claim("t", room=ROOM) == []
        await due(store, 2)
        assert [row.seq for row in await store.expiry.claim("t", room=ROOM)] == [2]

    async def test_claim_is_a_lease(self, store: Store) -> None:
        await accept(store)
        await over(store, 1)
        before_ms = await store.now_ms()
        [first] = await store.expiry.claim("t")
        lease_ms = store.policy.lease_s * 1000
        assert before_ms <= float(first.score) - lease_ms <= await store.now_ms()
        assert await score(store, 1) == float(first.score)
        assert await store.expiry.claim("u") == []
        await due(store, 1)  # the lease has ended
        [second] = await store.expiry.claim("v")
        assert (second.room, second.seq) == (ROOM, 1)
        assert second.due_at < float(first.score)

    async def test_no_room_waits_for_a_room_with_more_messages(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(6)), message(room=FAR_AWAY), message(room=FAR_AWAY))
        await over(store, 1, 2, 3, 4, 5, 6)
        await over(store, 1, 2, room=FAR_AWAY)
        for most, wanted in ((2, [1, 1]), (4, [3, 1]), (9, [2])):
            claimed = await store.expiry.claim(f"most {most}", limit=most)
            taken = Counter(row.room for row in claimed)
            assert [n for n in (taken[ROOM], taken[FAR_AWAY]) if n] == wanted

    async def test_claim_deletes_nothing(self, store: Store) -> None:
        await accept(store)
        await over(store, 1)
        before = await dump(store)
        await store.expiry.claim("t")
        after = await dump(store)
        assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == {
            f"{ROOM.prefix}expiring",
            f"{ROOM.prefix}claim:t",
        }

    @pytest.mark.parametrize("room", [None, ROOM])
    async def test_the_same_token_gets_the_same_rows_and_another_token_none(
        self, store: Store, room: RoomKey | None
    ) -> None:
        await accept(store, *(message() for _ in range(3)), message(room=FAR_AWAY))
        await over(store, 1, 2)
        await over(store, 1, room=FAR_AWAY)
        first = await store.expiry.claim("t", room=room)
        assert len(first) == (3 if room is None else 2)
        await over(store, 3)  # too late for the first
        assert await store.expiry.claim("t", room=room) == first
        [late] = await store.expiry.claim("u", room=ROOM)
        assert late.seq == 3
        assert await store.expiry.claim("v", room=room) == []

    async def test_claim_keeps_its_limit_and_the_next_takes_the_rest(self, store: Store) -> None:
        rooms = [RoomKey(f"r{n}", n) for n in range(4)]
        await accept(store, *(message(room=room) for room in rooms for _ in range(3)))
        for room in rooms:
            await over(store, 1, 2, 3, room=room)
        assert await store.expiry.claim("none", limit=0) == []
        first = await store.expiry.claim("t", limit=7)
        second = await store.expiry.claim("u", limit=7)
        assert (len(first), len(second)) == (7, 5)
        assert {(row.room, row.seq) for row in first + second} == {
            (room, seq) for room in rooms for seq in (1, 2, 3)
        }

    @pytest.mark.parametrize("others", [3, 700])
    async def test_claim_of_one_room_skips_the_others(self, store: Store, others: int) -> None:
        await accept(store, message(), message())
        await store.client.zadd(
            f"{ROOM.prefix}expiring", {f"{NEXT_DOOR.id}|{n}": n for n in range(1, others + 1)}
        )
        await over(store, 1, 2)
        assert [row.seq for row in await store.expiry.due(limit=9, room=ROOM)] == [1, 2]
        assert [row.seq for row in await store.expiry.claim("t", room=ROOM)] == [1, 2]
        assert len(await store.expiry.claim("u", room=NEXT_DOOR, limit=1_000)) == others

    async def test_claim_of_one_room_takes_many_messages_once_each(self, store: Store) -> None:
        await store.client.zadd(f"{ROOM.prefix}expiring", {f"{ROOM.id}|{n}": n for n in range(1, 1_201)})
        for token in ("t", "t"):
            claimed = await store.expiry.claim(token, room=ROOM, limit=1_100)
            assert [row.seq for row in claimed] == list(range(1, 1_101))
        assert [row.seq for row in await store.expiry.claim("u", room=ROOM)] == list(range(1_101, 1_201))

    async def test_rooms_whose_ids_begin_equally_are_distinct(self, store: Store) -> None:
        longer = RoomKey(f"{ROOM.id}-2", ROOM.partition)
        await accept(store, message(room=longer))
        await over(store, 1, room=longer)
        assert await store.expiry.claim("t", room=ROOM) == []

    @pytest.mark.parametrize("ahead_s", [-3_600, 3_600])
    async def test_the_stores_clock_decides(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, ahead_s: int
    ) -> None:
        now, now_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: now() + ahead_s)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + ahead_s * 10**9)
        await accept(store, message(ttl_ms=HOUR_MS // 2), message())
        await over(store, 2)
        assert [row.seq for row in await store.expiry.due(limit=9)] == [2]
        overdue = await store.expiry.overdue()
        assert overdue.due == 1
        assert overdue.oldest_s is not None
        assert 5 <= overdue.oldest_s < 10
        assert [record.due.seq for record in await process(store, "t")] == [2]
        assert [row.seq for row in (await read(store, GRACE)).messages] == [1]
        assert (await store.expiry.overdue()) == Overdue(0, None)


class TestDueExpired:
    async def test_due_returns_the_rows_of_a_claim_and_writes_nothing(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)), message(room=FAR_AWAY))
        await over(store, 1, 2)
        await over(store, 1, room=FAR_AWAY)
        before = await dump(store)
        records = await store.expiry.due(limit=9)
        assert await dump(store) == before
        claimed = await store.expiry.claim("t")
        assert [(row.room, row.seq, row.due_at) for row in records] == [
            (row.room, row.seq, row.due_at) for row in claimed
        ]
        assert await store.expiry.due(limit=9) == []

    async def test_due_keeps_its_limit(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)))
        await over(store, 1, 2, 3)
        assert len(await store.expiry.due(limit=2)) == 2
        assert await store.expiry.due(limit=0) == []

    async def test_rows_of_due_equal_the_rows_that_are_reported(self, store: Store) -> None:
        """Nobody owns the rows of `due`, so finalize clears nothing."""
        await accept(store)
        await over(store, 1)
        seen = await store.expiry.read(await store.expiry.due(limit=9))
        claimed = await store.expiry.read(await store.expiry.claim("t"))
        assert [dataclasses.replace(row, due=claimed[0].due) for row in seen] == claimed
        assert await store.expiry.finalize(seen) == 0
        assert await store.expiry.finalize(claimed) == 1


class TestWhoMissedIt:
    async def told(self, store: Store, seq: int = 1) -> tuple[int, set[Missed]]:
        [record] = await store.expiry.read([Due(ROOM, seq, 0, "")])
        assert len({missed.user for missed in record.missed}) == len(record.missed), "every member once"
        return record.total, set(record.missed)

    async def test_offline_silent_rejecting_and_departed_members_are_named(self, store: Store) -> None:
        await store.members.join(ROOM, [STRANGER, 10, 11])
        [record] = await accept(store)
        for n in range(2):
            await store.retries.record_attempt(ROOM, ALAN, n, 5.0)
        await store.retries.record_attempt(ROOM, STRANGER, 0, 5.0)
        await store.cursors.reject(ROOM, STRANGER, record.epoch, 1)
        await store.members.leave(ROOM, 10)
        await acknowledge(store, 11, 1)
        assert await self.told(store) == (
            5,
            {
                Missed(GRACE, "offline", 0),
                Missed(ALAN, "no_ack", 2),
                Missed(STRANGER, "client_rejected", 1),
                Missed(10, "left_room", 0),
            },
        )

    async def test_the_sender_is_never_named(self, store: Store) -> None:
        await accept(store, message(), message(user=GRACE))
        assert {missed.user for missed in (await self.told(store, 2))[1]} == {ADA, ALAN}
        await store.members.leave(ROOM, ADA)
        assert {missed.user for missed in (await self.told(store, 1))[1]} == {GRACE, ALAN}

    async def test_nobody_is_named_when_everybody_has_it(self, store: Store) -> None:
        await accept(store)
        for user in (GRACE, ALAN):
            await acknowledge(store, user, 1)
        assert await self.told(store) == (2, set())

    async def test_members_who_joined_later_are_not_named(self, store: Store) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        total, missed = await self.told(store)
        assert (total, {record.user for record in missed}) == (2, {GRACE, ALAN})

    async def test_rejoining_hides_nothing(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        await store.members.join(ROOM, [GRACE])
        await accept(store)
        await acknowledge(store, GRACE, 2, 2)
        assert await self.told(store) == (2, {Missed(GRACE, "left_room", 0), Missed(ALAN, "offline", 0)})
        assert await self.told(store, 2) == (2, {Missed(ALAN, "offline", 0)})

    async def test_member_who_left_twice_is_named_once(self, store: Store) -> None:
        await accept(store)
        for _ in range(2):
            await store.members.leave(ROOM, GRACE)
            await store.members.join(ROOM, [GRACE])
            await accept(store)
        await store.members.leave(ROOM, GRACE)
        total, missed = await self.told(store)
        assert (total, {record.user for record in missed}) == (2, {GRACE, ALAN})

    async def test_member_who_passed_over_it_is_named_although_their_cursor_is_above_it(
        self, store: Store
    ) -> None:
        await accept(store, message(), message())
        await expire(store, 1)
        await read(store, GRACE)
        await acknowledge(store, GRACE, 2)
        assert await self.told(store) == (2, {Missed(GRACE, "offline", 0), Missed(ALAN, "offline", 0)})

    async def test_deleted_message_was_missed_by_nobody(self, store: Store) -> None:
        [record] = await accept(store)
        await store.cursors.reject(ROOM, GRACE, record.epoch, 1)
        await delete(store, ADA, 1)
        assert await self.told(store) == (0, set())

    async def test_messages_missed_by_the_same_members_share_one_value(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)))
        await acknowledge(store, GRACE, 2)
        record, two, three = await store.expiry.read([Due(ROOM, seq, 0, "") for seq in (1, 2, 3)])
        assert record.missed is two.missed
        assert record.missed == (Missed(ALAN, "offline", 0),)
        assert {missed.user for missed in three.missed} == {GRACE, ALAN}

    async def test_large_mostly_offline_room_takes_bounded_calls(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def crowd(room: str) -> list[int]:
            return list(range(1, MANY + 1))

        store.members.members_of = crowd
        await accept(store, *(message() for _ in range(100)))
        for user in range(2, HERE + 2):
            await acknowledge(store, user, 100)
        dues = [Due(ROOM, seq, 0, "") for seq in range(1, 101)]
        counting = Counting(store, monkeypatch)
        records = await store.expiry.read(dues)
        assert {record.total for record in records} == {MANY - 1}
        assert {len(record.missed) for record in records} == {MANY - 1 - HERE}
        assert len({id(record.missed) for record in records}) == 1, "in memory once"
        assert {missed.user for missed in records[0].missed} == set(range(HERE + 2, MANY + 1))
        # Cursors and joinings at 500 members per answer, and a few for the rest.
        assert counting.round_trips <= 2 * (MANY // 500) * 2 + 6
        for_a_hundred, counting.round_trips = counting.round_trips, 0
        await store.expiry.read(dues[:1])
        assert counting.round_trips <= for_a_hundred

    async def test_thousands_of_exceptions_are_all_read(self, store: Store) -> None:
        await accept(store, message(), message())
        rows = {f"1|{user}|client_rejected|0": 1 for user in range(1_000, 2_300)}
        await store.client.zadd(f"{ROOM.key}:outcome", rows)
        total, missed = await self.told(store)
        assert total == len(missed) == 1_302
        assert await self.told(store, 2) == (2, {Missed(GRACE, "offline", 0), Missed(ALAN, "offline", 0)})


class TestWhatItWas:
    async def test_record_has_all_fields(self, store: Store) -> None:
        first = message("a")
        again = msgspec.structs.replace(message("b", user=GRACE, reply_to=1), only=(ALAN,), resends=1)
        answers = await accept(store, first, again)
        edited = await edit(store, ADA, 1, "c")
        dues = [Due(ROOM, 1, 7, "8"), Due(ROOM, 2, 7, "8"), Due(ROOM, 9, 7, "8")]
        record, two, none = await store.expiry.read(dues)
        assert [row.due for row in (record, two, none)] == dues
        assert (record.epoch, record.live, record.sender, record.id) == (edited.epoch, True, ADA, first.id)
        assert (record.name, record.body, record.reply_to, record.resends) == ("ada", "c", None, None)
        assert (record.sent_at, record.expires_at) == (answers[0].sent_at, answers[0].expires_at)
        assert (two.sender, two.name, two.reply_to, two.resends) == (GRACE, "grace", 1, 1)
        assert (none.live, none.total, none.missed) == (False, 0, ())

    async def test_missing_hash_hides_neither_sender_nor_missing_members(self, store: Store) -> None:
        """The TTL ended before any job looked: worker and store were down for longer than the grace period."""
        first = message(TEXT)
        [answer] = await accept(store, first)
        await acknowledge(store, GRACE, 1)
        await vanish(store, 1)
        await due(store, 1)
        [record] = await process(store, "t")
        assert (record.live, record.sender, record.id, record.name, record.body) == (
            True,
            ADA,
            first.id,
            "",
            None,
        )
        assert (record.sent_at, record.expires_at) == (answer.sent_at, answer.expires_at)
        assert record.missed == (Missed(ALAN, "offline", 0),)
        assert (record.total, await store.client.zcard(f"{ROOM.key}:live")) == (2, 0)

    async def test_missing_hash_and_first_answer_leave_the_due_time(self, store: Store) -> None:
        first = message()
        await accept(store, first)
        await vanish(store, 1)
        await store.client.delete(idempotency_key(ROOM, ADA, first.id))
        [record] = await store.expiry.read([Due(ROOM, 1, 1_234, "")])
        assert (record.sent_at, record.expires_at) == (1_234, 1_234)

    async def test_answer_to_another_message_of_the_same_id_is_not_used_for_its_times(
        self, store: Store
    ) -> None:
        first = message()
        await accept(store, first)
        await store.client.delete(idempotency_key(ROOM, ADA, first.id))  # after a day
        [again] = await accept(store, first)
        await vanish(store, 1, again.seq)
        dues = [Due(ROOM, 1, 1_234, ""), Due(ROOM, again.seq, 1_234, "")]
        record, two = await store.expiry.read(dues)
        assert (record.id, record.sent_at, record.expires_at) == (first.id, 1_234, 1_234)
        assert (two.id, two.sent_at, two.expires_at) == (first.id, again.sent_at, again.expires_at)

    async def test_record_is_read_without_a_write(self, store: Store) -> None:
        await accept(store)
        await vanish(store, 1)
        before = await dump(store)
        await store.expiry.read([Due(ROOM, 1, 0, "")])
        assert await dump(store) == before


class TestFinalize:
    async def test_finalize_clears_rows_still_claimed_by_the_caller(self, store: Store) -> None:
        await accept(store, message(), message(), message(room=FAR_AWAY))
        await over(store, 1, 2)
        await over(store, 1, room=FAR_AWAY)
        expired = await store.expiry.read(await store.expiry.claim("t"))
        assert await store.expiry.finalize(expired) == 3
        assert [await score(store, seq, room) for room in (ROOM, FAR_AWAY) for seq in (1, 2)] == [None] * 4
        assert (await read(store, GRACE)).gone == []

    async def test_other_requests_are_served_between_two_batches(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await accept(store, *(message() for _ in range(3)), *(message(room=FAR_AWAY) for _ in range(3)))
        await over(store, 1, 2, 3)
        await over(store, 1, 2, 3, room=FAR_AWAY)
        expired = await store.expiry.read(await store.expiry.claim("t"))
        monkeypatch.setattr(expiry, "FINALIZE_BATCH", 2)
        run, at_once = store.scripts.run, []

        async def counted(calls: Sequence[Any], **options: Any) -> list[Any]:
            answers = await run(calls, **options)
            at_once.append(sum(map(len, answers)))
            return list(answers)

        monkeypatch.setattr(store.scripts, "run", counted)
        assert await store.expiry.finalize(expired) == 6
        assert at_once == [2, 2, 2]
        assert [await score(store, seq, room) for room in (ROOM, FAR_AWAY) for seq in (1, 3)] == [None] * 4

    async def test_rows_claimed_by_another_worker_are_unchanged(self, store: Store) -> None:
        await accept(store, message(), message())
        await over(store, 1, 2)
        first = await store.expiry.read(await store.expiry.claim("t"))
        await tick(store)
        await due(store, 1)  # its lease has ended
        second = await store.expiry.read(await store.expiry.claim("u"))
        assert await store.expiry.finalize(first) == 1
        assert await store.client.exists(f"{ROOM.key}:msg:1")
        assert await missing(store, 1) == {GRACE: "offline", ALAN: "offline"}
        assert await store.expiry.finalize(second) == 1
        assert not await store.client.exists(f"{ROOM.key}:msg:1")

    async def test_second_finalize_changes_nothing(self, store: Store) -> None:
        await accept(store, message(), message())
        await over(store, 1)
        expired = await process(store, "t")
        before = await dump(store)
        assert await store.expiry.finalize(expired) == 0
        assert await dump(store) == before

    async def test_messages_are_counted_once_and_members_by_reason(self, store: Store) -> None:
        [record, *_] = await accept(store, *(message() for _ in range(3)))
        await store.cursors.reject(ROOM, GRACE, record.epoch, 1)
        await acknowledge(store, GRACE, 3)
        await acknowledge(store, ALAN, 1)
        await store.retries.record_attempt(ROOM, ALAN, 0, 5.0)
        await over(store, 1, 2, 3)
        expired = await process(store, "t")
        await store.expiry.finalize(expired)
        units: tuple[Literal["minute", "day"], ...] = ("minute", "day")
        for unit in units:
            counted = await counts(store, unit)
            assert (counted.expired, counted.expired_to_all, counted.expired_missed) == (3, 0, 3)
            assert (counted.missed_offline, counted.missed_no_ack) == (0, 2)
            assert (counted.missed_client_rejected, counted.missed_left_room) == (1, 0)

    async def test_fully_delivered_messages_are_counted_separately(self, store: Store) -> None:
        await accept(store, message(), message())
        await acknowledge(store, GRACE, 2)
        await acknowledge(store, ALAN, 1)
        await store.members.leave(ROOM, ALAN)
        await over(store, 1, 2)
        await process(store, "t")
        counted = await counts(store)
        assert (counted.expired, counted.expired_to_all, counted.expired_missed) == (2, 1, 1)
        assert (counted.missed_left_room, counted.missed_offline) == (1, 0)

    async def test_screens_of_every_room_are_told_once(self, store: Store) -> None:
        [here, _, _, there] = await accept(store, message(), message(), message(), message(room=NEXT_DOOR))
        await over(store, 1, 3)
        await over(store, 1, room=NEXT_DOOR)
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key, NEXT_DOOR.key)
            await process(store, "t")
            lines = {await heard(pubsub), await heard(pubsub)}
            assert lines == {f"X {here.epoch} 1,3", f"X {there.epoch} 1"}
            await delete(store, ADA, 2)
            assert (await heard(pubsub)).startswith("C ")
            await due(store, 2)
            await process(store, "u")
            await accept(store)
            assert (await heard(pubsub)).startswith("M "), "a deleted message is not reported again"

    async def test_very_many_exceptions_are_cleared_in_parts(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await accept(store, message(), message(), message())
        for seq, first in ((1, 10_000), (3, 20_000)):
            rows = {f"{seq}|{user}|offline|0": seq for user in range(first, first + 2_500)}
            await store.client.zadd(f"{ROOM.key}:outcome", rows)
        await over(store, 1, 2)
        claimed = await store.expiry.read(await store.expiry.claim("t"))
        counting = Counting(store, monkeypatch)
        assert await store.expiry.finalize(claimed) == 2
        assert counting.scripts == {"finalize_expired": 3}
        assert await store.client.zcard(f"{ROOM.key}:outcome") == 2_500, "those of the other message stay"
        assert await store.client.zrange(f"{ROOM.key}:live", 0, -1, withscores=True) != []
        counted = await counts(store)
        assert (counted.expired, counted.missed_offline) == (2, 2_500 + 2 + 2)

    async def test_a_partly_cleared_row_remains_for_the_next_worker(self, store: Store) -> None:
        await accept(store)
        rows = {f"1|{user}|offline|0": 1 for user in range(10_000, 11_500)}
        await store.client.zadd(f"{ROOM.key}:outcome", rows)
        await over(store, 1)
        [claimed] = await store.expiry.claim("t")
        args = (ROOM.prefix, ROOM.id, 1, claimed.score, 0, 0, 0, 0, 0)
        assert await store.scripts.run([("finalize_expired", args)]) == [[2]]
        [record] = await store.expiry.read([claimed])
        assert record.live
        assert record.id
        assert await score(store, 1) == float(claimed.score)
        await due(store, 1)
        await process(store, "u")
        assert not await store.client.exists(f"{ROOM.key}:outcome", f"{ROOM.key}:live", f"{ROOM.key}:msg:1")

    async def test_departed_member_is_kept_while_a_message_they_owed_lives(self, store: Store) -> None:
        await accept(store, message(), message())
        await store.members.leave(ROOM, GRACE)
        await accept(store)
        await over(store, 1)
        await process(store, "t")
        assert await store.client.zcard(f"{ROOM.key}:left") == 1
        assert await missing(store, 2) == {GRACE: "left_room", ALAN: "offline"}
        await over(store, 2)
        await process(store, "u")
        assert not await store.client.exists(f"{ROOM.key}:left")

    async def test_index_of_changes_is_deleted_with_the_message(self, store: Store) -> None:
        await accept(store, message(), message())
        for seq in (1, 2):
            await edit(store, ADA, seq)
        await over(store, 1)
        await process(store, "t")
        assert await changed(store) == {2: 2}

    @both_ends
    async def test_no_key_of_the_message_is_left(self, store: Store, plain_dumps: None, end: End) -> None:
        first = message(TEXT)
        [record] = await accept(store, first)
        again = msgspec.structs.replace(message(f"again {TEXT}", reply_to=1), only=(GRACE, ALAN), resends=1)
        await accept(store, again)
        await edit(store, ADA, 1, f"edited {TEXT}")
        await extend(store, ADA, 2)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        await store.cursors.reject(ROOM, ALAN, record.epoch, 2)
        await read(store, GRACE)
        await store.members.leave(ROOM, GRACE)
        assert TEXT in await kept(store)
        assert any(TEXT.encode() in value for value in (await dump(store)).values())
        await end(store, 1, 2)
        await due(store, 1, 2)
        await process(store, "t")
        assert TEXT not in await kept(store)
        assert not any(TEXT.encode() in value for value in (await dump(store)).values())
        ids = (first.id, again.id)
        left = await kept(store)
        assert not any(id_ in left for id_ in ids)
        keys = {key.removeprefix(ROOM.prefix) for key in await dump(store)}
        rest = {key for key in keys if not key.startswith("counts:")}
        assert rest == {
            f"room:{ROOM.id}",
            f"room:{ROOM.id}:joined",
            f"room:{ROOM.id}:delivered",
            f"room:{ROOM.id}:read",
            "unacked",  # until the sweep's next look
            "claim:t",  # room and seq, for one lease
            # so that a repeat is known, for `id_life_s`
            *(idempotency_key(ROOM, ADA, id_).removeprefix(ROOM.prefix) for id_ in ids),
        }

    async def test_a_repeat_of_its_id_still_gets_the_first_answer(self, store: Store) -> None:
        first = message()
        [record] = await accept(store, first)
        await over(store, 1)
        await process(store, "t")
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(record, duplicate=True)
        assert (await read(store, GRACE)).messages == []

    async def test_finalize_continues_in_a_full_store(self, store: Store) -> None:
        await accept(store, message(), message())
        await over(store, 1)
        await store.client.config_set("maxmemory", 1)
        try:
            [record] = await process(store, "t")
        finally:
            await store.client.config_set("maxmemory", 0)
        assert {missed.user for missed in record.missed} == {GRACE, ALAN}
        assert await score(store, 1) is None


@pytest.fixture
async def plain_dumps(store: Store) -> AsyncIterator[None]:
    """Let dumps hold uncompressed texts."""
    await store.client.config_set("rdbcompression", "no")
    yield
    await store.client.config_set("rdbcompression", "yes")


class TestReadersNeedNoJob:
    """A message ends at its own `expires_at`, also when every job has been down for a day."""

    @both_ends
    @pytest.mark.parametrize("leased", [False, True])
    async def test_no_operation_returns_its_text(self, store: Store, end: End, leased: bool) -> None:
        first = message(TEXT)
        [record] = await accept(store, first)
        await accept(store, message("reply", user=GRACE, reply_to=1))
        await edit(store, ADA, 1, f"edited {TEXT}")
        asked = [
            Read(room=ROOM, epoch=record.epoch, since=since, rev=rev, open_history=open_, again=again)
            for since in (0, 1, 2)
            for rev in (None, 0, 1)
            for open_ in (False, True)
            for again in (False, True)
        ]

        async def everything() -> str:
            reads = await store.log.read_after(GRACE, asked) + await store.log.read_after(ADA, asked)
            assert {type(read) for read in reads} == {Slice}
            return repr(
                [
                    reads,
                    await store.log.history(ROOM, GRACE, before=9),
                    await store.log.history(ROOM, ADA, before=2, open_history=True),
                    await store.cursors.receipts([(ROOM, ADA)]),
                    await store.cursors.recipients(ROOM, 2),
                    await store.members.member_positions(GRACE, [(ROOM, Held())]),
                    await store.log.append([first]),
                ]
            )

        assert TEXT in await everything()
        await end(store, 1)
        if leased:
            await due(store, 1)
            assert len(await store.expiry.claim("t")) == 1
        assert TEXT not in await everything()
        with pytest.raises(NoSuchMessage):
            await store.cursors.recipients(ROOM, 1)
        assert (await store.retries.owing(ROOM, record.epoch, [ALAN], mark=1)) == []

    @both_ends
    async def test_returning_member_is_told_that_it_expired(self, store: Store, end: End) -> None:
        await accept(store, message(TEXT), message())
        await edit(store, ADA, 1, TEXT)
        await end(store, 1)
        assert (await read(store, GRACE)).gone == [(1, "expired")]
        assert (await read(store, GRACE, 2, rev=0)).gone == [(1, "expired")]


class TestForSome:
    """`append` with `only`: a resend to those who missed it."""

    @pytest.fixture
    async def resent(self, store: Store) -> Store:
        await accept(store, message("to all"))
        await accept(store, msgspec.structs.replace(message("again"), only=(GRACE,), resends=1))
        return store

    async def test_resend_is_published_with_its_recipients(self, store: Store) -> None:
        await accept(store)
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            again = msgspec.structs.replace(message("again"), only=(GRACE, ALAN), resends=1)
            [_, two, _] = await accept(store, message(), again, message())
            lines = (await heard(pubsub)).split("\n")
        assert [lines[at] for at in (1, 3, 5)] == [
            f"2 1 {ADA} -",
            f"3 2 {ADA} {GRACE},{ALAN}",
            f"4 3 {ADA} -",
        ]
        frame = json.loads(lines[4])
        assert (frame["seq"], frame["resends"], frame["body"]) == (two.seq, 1, "again")
        assert "only" not in frame

    async def test_resend_reaches_its_sender_and_recipients_and_nobody_else(self, resent: Store) -> None:
        for user in (ADA, GRACE):
            rows = (await read(resent, user)).messages
            assert [(row.seq, row.resends) for row in rows] == [(1, None), (2, 1)]
        others = await read(resent, ALAN)
        assert [row.seq for row in others.messages] == [1]
        assert (others.gone, others.upto, others.more) == ([(2, "not_for_you")], 2, False)
        assert [row.seq for row in (await resent.log.history(ROOM, ALAN, before=9)).messages] == [1]

    async def test_only_its_recipients_owe_it(self, resent: Store) -> None:
        [place] = await resent.log.positions([ROOM])
        assert place is not None
        for user in (GRACE, ALAN):
            await acknowledge(resent, user, 1)
        assert [row.user for row in await resent.retries.owing(ROOM, place.epoch, [ADA, GRACE, ALAN])] == [
            GRACE
        ]
        assert (await resent.cursors.receipts([(ROOM, ADA)]))[0][1] == [(1, 2, 0, 2), (2, 0, 0, 1)]
        [record] = await resent.expiry.read([Due(ROOM, 2, 0, "")])
        assert (record.total, record.missed) == (1, (Missed(GRACE, "offline", 0),))
        await acknowledge(resent, GRACE, 2)
        assert await missing(resent, 2) == {}
        assert not await resent.cursors.reject(ROOM, ALAN, place.epoch, 2)

    async def test_recipient_who_is_no_member_does_not_owe_it(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        await store.members.leave(ROOM, ALAN)
        await accept(store, msgspec.structs.replace(message(), only=(ADA, GRACE, ALAN, STRANGER)))
        await store.members.join(ROOM, [STRANGER])
        [record] = await store.expiry.read([Due(ROOM, 1, 0, "")])
        assert (record.total, record.missed) == (1, (Missed(GRACE, "offline", 0),))

    async def test_recipient_who_left_still_missed_it(self, resent: Store) -> None:
        for user in (GRACE, ALAN):
            await resent.members.leave(ROOM, user)
        [record] = await resent.expiry.read([Due(ROOM, 2, 0, "")])
        assert (record.total, record.missed) == (1, (Missed(GRACE, "left_room", 0),))

    async def test_repeated_resend_is_the_same_message(self, store: Store) -> None:
        again = msgspec.structs.replace(message(id_=new_id()), only=(GRACE,), resends=1)
        [record] = await accept(store, again)
        before = await dump(store)
        # The recipients may have changed since; a repetition gets the first answer.
        [two] = await accept(store, msgspec.structs.replace(again, only=(GRACE, ALAN)))
        assert two == msgspec.structs.replace(record, duplicate=True)
        assert await dump(store) == before

    async def test_list_of_recipients_is_deleted_with_the_message(self, resent: Store) -> None:
        await over(resent, 2)
        await process(resent, "t")
        assert not await resent.client.exists(f"{ROOM.key}:only")
        assert [row.seq for row in (await read(resent, ALAN)).messages] == [1]


class TestOwedByNobody:
    """`append` with `tracked=False`: a large public room."""

    @pytest.fixture
    async def untracked(self, store: Store) -> Store:
        await accept(store, msgspec.structs.replace(message(), tracked=False))
        return store

    async def test_everybody_reads_it_and_nobody_owes_it(self, untracked: Store) -> None:
        slice_ = await read(untracked, GRACE)
        assert [row.seq for row in slice_.messages] == [1]
        assert await untracked.retries.owing(ROOM, slice_.epoch, [GRACE, ALAN]) == []
        assert await untracked.cursors.receipts([(ROOM, ADA)]) == [(slice_.epoch, [])]
        records = await untracked.cursors.recipients(ROOM, 1)
        assert [row for row in records.members if row.state == "waiting"] == []
        assert not await untracked.client.exists(f"{ROOM.prefix}unacked"), "no sweep is due for it"

    async def test_nobody_missed_it(self, untracked: Store) -> None:
        await untracked.members.leave(ROOM, ALAN)
        await over(untracked, 1)
        await read(untracked, GRACE)
        assert not await untracked.client.exists(f"{ROOM.key}:outcome")
        [record] = await process(untracked, "t")
        assert (record.live, record.total, record.missed) == (True, 0, ())
        counted = await counts(untracked)
        assert (counted.expired, counted.expired_to_all) == (1, 1)

    async def test_untracked_message_cannot_be_rejected(self, untracked: Store) -> None:
        [place] = await untracked.log.positions([ROOM])
        assert place is not None
        assert not await untracked.cursors.reject(ROOM, GRACE, place.epoch, 1)

    async def test_untracked_message_hides_no_owed_message_below_it(self, store: Store) -> None:
        await accept(store, message(), msgspec.structs.replace(message(), tracked=False))
        slice_: Slice = await read(store, GRACE)
        assert {row.user for row in await store.retries.owing(ROOM, slice_.epoch, [GRACE, ALAN])} == {
            GRACE,
            ALAN,
        }
        assert set(await missing(store, 1)) == {GRACE, ALAN}
        assert await missing(store, 2) == {}
