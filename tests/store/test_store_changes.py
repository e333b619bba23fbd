"""The store's verbs on a message that lives: edit, delete, extend, shorten, and what one who was away learns of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from redis.asyncio.client import PubSub

from messaging.errors import BacklogFull, Forbidden, MessagingError, NoSuchMessage, NotMember, TooLate
from messaging.store import Store
from messaging.store.changes import SHORTEN_BATCH
from messaging.store.records import Changed, Expired, Read, RoomKey, Shortened, Slice
from tests.store.test_store import heard
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
    read,
    vanish,
)

STRANGER = 9
NOWHERE = RoomKey("nowhere", ROOM.partition)
DAY_MS = 24 * HOUR_MS

Change = Callable[..., Awaitable[Changed]]


async def edit(
    store: Store, user: int, seq: int, body: str = "other", *, epoch: str | None = None, open_: bool = False
) -> Changed:
    return await store.changes.edit(ROOM, user, epoch, seq, body, open_history=open_)


async def delete(
    store: Store,
    user: int,
    seq: int,
    *,
    epoch: str | None = None,
    open_: bool = False,
    moderates: bool = False,
) -> Changed:
    return await store.changes.delete(ROOM, user, epoch, seq, open_history=open_, moderates=moderates)


async def extend(
    store: Store,
    user: int,
    seq: int,
    ttl_ms: int = 2 * HOUR_MS,
    *,
    epoch: str | None = None,
    open_: bool = False,
    moderates: bool = False,
) -> Changed:
    return await store.changes.extend(ROOM, user, epoch, seq, ttl_ms, open_history=open_, moderates=moderates)


VERBS: list[Change] = [edit, delete, extend]
every_change = pytest.mark.parametrize("change", VERBS)
every_moderation = pytest.mark.parametrize("change", [delete, extend])
both_ends = pytest.mark.parametrize("end", [expire, vanish])


async def rev(store: Store) -> int:
    [place] = await store.log.positions([ROOM])
    assert place is not None
    return place.rev


async def changed(store: Store, *, room: RoomKey = ROOM) -> dict[int, int]:
    """Return {seq: rev} of the index of changes."""
    rows = await store.client.zrange(f"{room.key}:changed", 0, -1, withscores=True)
    return {int(seq): int(rev) for seq, rev in rows}


async def times(store: Store, seq: int) -> tuple[int, int, int]:
    """Return when a message ends, when its Hash does, and when the job looks."""
    return (
        int(await store.client.hget(f"{ROOM.key}:msg:{seq}", "expires_at")),
        await store.client.pexpiretime(f"{ROOM.key}:msg:{seq}"),
        int(await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|{seq}")),
    )


async def kept(store: Store) -> str:
    """Return everything in the store as text: a dump may be compressed."""
    found = []
    for key in [key async for key in store.client.scan_iter()]:
        match await store.client.type(key):
            case b"hash":
                found.append(await store.client.hgetall(key))
            case b"zset":
                found.append(await store.client.zrange(key, 0, -1))
            case b"string":
                found.append(await store.client.get(key))
    return repr(found)


async def frame(pubsub: PubSub) -> tuple[list[str], dict[str, object]]:
    """Return the words and the frame of a published change."""
    first, header, text = (await heard(pubsub)).split("\n")
    return [*first.split(" "), *header.split(" ")], json.loads(text)


async def process(store: Store, token: str) -> list[Expired]:
    expired = await store.expiry.read(await store.expiry.claim(token))
    assert await store.expiry.finalize(expired) == len(expired)
    return expired


class TestEveryChange:
    @every_change
    async def test_has_the_next_rev_and_is_noted_under_it(self, store: Store, change: Change) -> None:
        accepted = await accept(store, *(message() for _ in range(3)))
        for place, one in enumerate(accepted, start=1):
            answer = await change(store, ADA, one.seq)
            assert (answer.epoch, answer.rev, answer.seq) == (one.epoch, place, one.seq)
        assert await rev(store) == 3
        assert await changed(store) == {1: 1, 2: 2, 3: 3}

    @every_change
    async def test_names_the_message(self, store: Store, change: Change) -> None:
        first = message()
        await accept(store, first)
        assert (await change(store, ADA, 1)).id == first.id

    async def test_another_of_the_same_message_moves_it_up(self, store: Store) -> None:
        await accept(store, message(), message())
        for seq in (1, 2, 1):
            await edit(store, ADA, seq)
        await extend(store, ADA, 1)
        assert await changed(store) == {2: 2, 1: 4}

    async def test_is_told_to_the_room(self, store: Store) -> None:
        body = 'tab\t"quote" \\ / new\nline 中文 😀 </script>\u2028'
        [one, _] = await accept(
            store, message(), msgspec.structs.replace(message(user=GRACE), only=(ADA, ALAN), resends=1)
        )
        same = {"room": ROOM.id, "epoch": one.epoch}
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            edited = await edit(store, ADA, 1, body)
            header, told = await frame(pubsub)
            assert header == ["C", one.epoch, "1", "1", str(ADA), "-"]
            assert told == same | {
                "type": "edited",
                "rev": 1,
                "seq": 1,
                "body": body,
                "edited_at": edited.edited_at,
            }
            extended = await extend(store, GRACE, 2)
            header, told = await frame(pubsub)
            assert header == ["C", one.epoch, "2", "2", str(GRACE), f"{ADA},{ALAN}"]
            assert told == same | {"type": "edited", "rev": 2, "seq": 2, "expires_at": extended.expires_at}
            await delete(store, GRACE, 2)
            header, told = await frame(pubsub)
            assert header == ["C", one.epoch, "3", "2", str(GRACE), f"{ADA},{ALAN}"]
            assert told == same | {"type": "deleted", "rev": 3, "seq": 2}

    @every_change
    async def test_is_refused_to_who_is_no_member(self, store: Store, change: Change) -> None:
        await accept(store, message(user=GRACE))
        await store.members.leave(ROOM, GRACE)
        for user in (STRANGER, GRACE):
            await refused(store, NotMember, change(store, user, 1, open_=True))

    @every_change
    async def test_of_a_seq_that_is_no_message_is_refused(self, store: Store, change: Change) -> None:
        await accept(store)
        for seq in (0, 2, 2**53 - 1):
            await refused(store, NoSuchMessage, change(store, ADA, seq))

    @every_change
    async def test_of_another_life_of_the_log_is_refused(self, store: Store, change: Change) -> None:
        [one] = await accept(store)
        await refused(store, NoSuchMessage, change(store, ADA, 1, epoch="other"))
        assert (await change(store, ADA, 1, epoch=one.epoch)).rev == 1

    @every_change
    async def test_of_anothers_is_forbidden(self, store: Store, change: Change) -> None:
        await accept(store)
        await refused(store, Forbidden, change(store, GRACE, 1))

    @every_change
    async def test_of_what_came_before_the_joining_is_of_no_message_but_in_open_rooms(
        self, store: Store, change: Change
    ) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        await refused(store, NoSuchMessage, change(store, STRANGER, 1))
        await refused(store, Forbidden, change(store, STRANGER, 1, open_=True))

    @every_change
    async def test_of_what_is_for_others_is_of_no_message(self, store: Store, change: Change) -> None:
        await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await refused(store, NoSuchMessage, change(store, ALAN, 1))
        await refused(store, Forbidden, change(store, GRACE, 1))
        assert (await change(store, ADA, 1)).rev == 1

    @every_change
    @both_ends
    async def test_past_its_end_is_too_late_though_no_job_ran(
        self, store: Store, change: Change, end: Callable[..., Awaitable[None]]
    ) -> None:
        await accept(store)
        await end(store, 1)
        await refused(store, TooLate, change(store, ADA, 1))

    @every_change
    async def test_past_its_end_is_too_late_while_a_job_holds_it(self, store: Store, change: Change) -> None:
        await accept(store)
        await expire(store, 1)
        await due(store, 1)
        assert [row.seq for row in await store.expiry.claim("t")] == [1]
        await refused(store, TooLate, change(store, ADA, 1))

    @every_change
    async def test_is_not_too_late_because_the_job_looks_early(self, store: Store, change: Change) -> None:
        await accept(store)
        await due(store, 1)
        await store.expiry.claim("t")
        assert (await change(store, ADA, 1)).rev == 1

    @every_moderation
    async def test_of_anybodys_is_a_moderators(self, store: Store, change: Change) -> None:
        await accept(store)
        assert (await change(store, GRACE, 1, moderates=True)).rev == 1
        await expire(store, 1)
        if change is extend:
            await refused(store, TooLate, change(store, GRACE, 1, moderates=True))

    @every_change
    async def test_of_a_room_without_a_log_is_of_no_message(self, store: Store, change: Change) -> None:
        with pytest.raises(NoSuchMessage):
            await change(store, ADA, 1)
        assert await rev(store) == 0

    async def test_that_needs_memory_is_refused_for_now_by_a_full_store(self, store: Store) -> None:
        await accept(store, message(), message())
        await store.client.config_set("maxmemory", 1)
        try:
            await refused(store, BacklogFull, edit(store, ADA, 1))
            await refused(store, BacklogFull, extend(store, ADA, 1))
            assert (await delete(store, ADA, 2)).rev == 1, "what frees memory goes on"
        finally:
            await store.client.config_set("maxmemory", 0)


async def refused(store: Store, error: type[MessagingError], asked: Awaitable[Changed]) -> None:
    """Ask for what must be refused and change nothing."""
    before = await dump(store)
    with pytest.raises(error):
        await asked
    assert await dump(store) == before


class TestEdit:
    async def test_readers_get_the_new_text_in_the_old_place(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        answer = await edit(store, ADA, 1, "c")
        assert answer.edited_at is not None
        assert abs(await store.now_ms() - answer.edited_at) < 5_000
        for messages in (
            (await read(store, GRACE)).messages,
            (await store.log.history(ROOM, GRACE, before=9)).messages,
        ):
            assert [(row.seq, row.body, row.edited_at) for row in messages] == [
                (1, "c", answer.edited_at),
                (2, "b", None),
            ]
        assert "'a'" not in await kept(store)

    async def test_does_not_extend_its_life(self, store: Store) -> None:
        [one] = await accept(store)
        before = await times(store, 1)
        assert (await edit(store, ADA, 1)).expires_at == one.expires_at
        assert await times(store, 1) == before

    async def test_again_is_one_more(self, store: Store) -> None:
        await accept(store)
        assert [(await edit(store, ADA, 1, "same")).rev for _ in range(2)] == [1, 2]
        assert await changed(store) == {1: 2}

    async def test_leaves_what_is_owed(self, store: Store) -> None:
        [one] = await accept(store)
        await acknowledge(store, GRACE, 1)
        await edit(store, ADA, 1)
        assert [row.user for row in await store.retries.owing(ROOM, one.epoch, [GRACE, ALAN])] == [ALAN]
        assert await missing(store, 1) == {ALAN: "offline"}

    async def test_the_same_id_still_gets_the_first_answer(self, store: Store) -> None:
        first = message()
        [one] = await accept(store, first)
        await edit(store, ADA, 1)
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(one, duplicate=True)


class TestDelete:
    async def test_nothing_of_it_is_left_to_read(self, store: Store) -> None:
        await accept(store, message("a"), message("take me away"), message("c"))
        await delete(store, ADA, 2)
        assert [row.seq for row in (await read(store, GRACE)).messages] == [1, 3]
        assert [row.seq for row in (await store.log.history(ROOM, GRACE, before=9)).messages] == [1, 3]
        assert "take me away" not in await kept(store)
        assert not await store.client.exists(f"{ROOM.key}:msg:2")

    async def test_again_it_gives_the_same_answer_without_the_id(self, store: Store) -> None:
        await accept(store)
        first = await delete(store, ADA, 1)
        before = await dump(store)
        for _ in range(2):
            again = await delete(store, ADA, 1)
            assert (again.epoch, again.rev, again.seq, again.id) == (first.epoch, first.rev, 1, "")
        assert await dump(store) == before
        with pytest.raises(NoSuchMessage):
            await delete(store, ADA, 1, epoch="other")

    async def test_settles_it_is_never_a_miss(self, store: Store) -> None:
        [one, _] = await accept(store, message(), message())
        await acknowledge(store, GRACE, 1)
        await store.cursors.reject(ROOM, GRACE, one.epoch, 2)
        await store.members.leave(ROOM, GRACE)
        for seq in (1, 2):
            await delete(store, ADA, seq)
            assert await missing(store, seq) == {}
        assert await store.retries.owing(ROOM, one.epoch, [GRACE, ALAN]) == []
        assert await store.cursors.receipts([(ROOM, ADA)]) == [(one.epoch, [])]
        [standing] = await store.members.member_positions(ALAN, [(ROOM, "", 0)])
        assert standing is not None
        assert standing.unread == 0
        with pytest.raises(NoSuchMessage):
            await store.cursors.recipients(ROOM, 1)

    async def test_never_blocks_a_cursor(self, store: Store) -> None:
        await accept(store, message(), message())
        await delete(store, ADA, 2)
        slice_ = await read(store, GRACE, 1)
        assert (slice_.messages, slice_.upto, slice_.more) == ([], 2, False)
        assert await acknowledge(store, GRACE, 2) == 1

    async def test_at_its_end_the_rest_goes_and_nobody_missed_it(self, store: Store) -> None:
        await accept(store)
        await delete(store, ADA, 1)
        await due(store, 1)
        [one] = await process(store, "t")
        assert (one.live, one.total, one.missed) == (False, 0, ())
        assert await changed(store) == {}
        assert await store.client.zcard(f"{ROOM.prefix}expiring") == 0
        assert sum(counted.expired for counted in await store.stats.counts("day", 2)) == 0

    async def test_the_list_of_those_it_was_for_goes_with_it(self, store: Store) -> None:
        await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await delete(store, ADA, 1)
        assert not await store.client.exists(f"{ROOM.key}:only")


class TestExtend:
    async def test_it_lives_until_now_and_the_ttl(self, store: Store) -> None:
        await accept(store)
        before_ms = await store.now_ms()
        answer = await extend(store, ADA, 1, DAY_MS)
        assert before_ms <= answer.expires_at - DAY_MS <= await store.now_ms()
        assert answer.edited_at is None
        grace_ms = store.policy.grace_s * 1000
        assert await times(store, 1) == (answer.expires_at, answer.expires_at + grace_ms, answer.expires_at)
        [stored] = (await read(store, GRACE)).messages
        assert (stored.expires_at, stored.edited_at) == (answer.expires_at, None)

    async def test_never_shorter(self, store: Store) -> None:
        [one] = await accept(store)
        before = await times(store, 1)
        assert (await extend(store, ADA, 1, 10_000)).expires_at == one.expires_at
        assert await times(store, 1) == before

    async def test_what_was_about_to_end_is_not_claimed_at_its_former_end(self, store: Store) -> None:
        await accept(store)
        await due(store, 1)
        await extend(store, ADA, 1, DAY_MS)
        assert await store.expiry.claim("t") == []

    async def test_leaves_what_is_owed(self, store: Store) -> None:
        [one] = await accept(store)
        await acknowledge(store, GRACE, 1)
        await extend(store, ADA, 1)
        assert [row.user for row in await store.retries.owing(ROOM, one.epoch, [GRACE, ALAN])] == [ALAN]


class TestShorten:
    async def aged(self, store: Store, *ages_ms: int) -> list[int]:
        """Accept messages of a day's life and let them be so old; return when they were sent."""
        accepted = await accept(store, *(message(ttl_ms=DAY_MS) for _ in ages_ms))
        for one, age_ms in zip(accepted, ages_ms, strict=True):
            await store.client.hset(f"{ROOM.key}:msg:{one.seq}", "sent_at", one.sent_at - age_ms)
        return [one.sent_at - age_ms for one, age_ms in zip(accepted, ages_ms, strict=True)]

    async def test_only_counts_in_a_dry_run(self, store: Store) -> None:
        await self.aged(store, 2 * HOUR_MS, 1_000, 0)
        await accept(store, message(ttl_ms=1_000))
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 3_600, dry_run=True) == Shortened(4, 3, 1)
        assert await dump(store) == before

    async def test_ends_each_a_ttl_after_it_was_sent_and_at_once_where_that_is_over(
        self, store: Store
    ) -> None:
        sent = await self.aged(store, 2 * HOUR_MS, 1_000, 0)
        before_ms = await store.now_ms()
        assert await store.changes.shorten(ROOM, 3_600) == Shortened(3, 3, 1)
        over, *others = [await times(store, seq) for seq in (1, 2, 3)]
        assert before_ms <= over[0] <= await store.now_ms()
        assert [ends[0] for ends in others] == [sent_at + HOUR_MS for sent_at in sent[1:]]
        grace_ms = store.policy.grace_s * 1000
        for ends, gone, looked in (over, *others):
            assert (gone, looked) == (ends + grace_ms, ends)
        assert [row.seq for row in (await read(store, GRACE)).messages] == [2, 3]
        with pytest.raises(TooLate):
            await extend(store, ADA, 1)

    async def test_never_longer_and_again_it_changes_nothing(self, store: Store) -> None:
        await self.aged(store, 0)
        await accept(store, message(ttl_ms=10_000))
        await store.changes.shorten(ROOM, 3_600)
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 3_600) == Shortened(2, 0, 0)
        assert await store.changes.shorten(ROOM, 7_200) == Shortened(2, 0, 0)
        assert await dump(store) == before

    @both_ends
    async def test_what_has_ended_is_left_alone(
        self, store: Store, end: Callable[..., Awaitable[None]]
    ) -> None:
        await self.aged(store, 0)
        await end(store, 1)
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 60) == Shortened(1, 0, 0)
        assert await dump(store) == before

    async def test_each_is_told_with_a_rev_of_its_own(self, store: Store) -> None:
        await self.aged(store, 0)
        await accept(store, msgspec.structs.replace(message(user=GRACE, ttl_ms=DAY_MS), only=(ALAN,)))
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            await store.changes.shorten(ROOM, 3_600)
            for seq, sender, only in ((1, ADA, "-"), (2, GRACE, str(ALAN))):
                header, told = await frame(pubsub)
                assert header[2:] == [str(seq), str(seq), str(sender), only]
                [ends, _, _] = await times(store, seq)
                assert (told["type"], told["rev"], told["expires_at"]) == ("edited", seq, ends)
        assert await changed(store) == {1: 1, 2: 2}

    async def test_many_take_bounded_calls(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        n = 2 * SHORTEN_BATCH + 1
        await accept(store, *(message(ttl_ms=DAY_MS) for _ in range(n)))
        calls: Counter[str] = Counter()
        run = store.scripts.run

        async def counting(asked: list[tuple[str, tuple[object, ...]]], **options: bool) -> list[object]:
            calls.update(name for name, _ in asked)
            return await run(asked, **options)

        monkeypatch.setattr(store.scripts, "run", counting)
        assert await store.changes.shorten(ROOM, 3_600) == Shortened(n, n, 0)
        assert calls == {"shorten": 3}
        assert await rev(store) == n
        assert await changed(store) == {seq: seq for seq in range(1, n + 1)}

    async def test_of_a_room_without_a_log_finds_nothing(self, store: Store) -> None:
        assert await store.changes.shorten(NOWHERE, 60) == Shortened(0, 0, 0)

    async def test_who_missed_what_ended_so_is_reported(self, store: Store) -> None:
        await self.aged(store, 2 * HOUR_MS)
        await acknowledge(store, GRACE, 1)
        await store.changes.shorten(ROOM, 3_600)
        assert await missing(store, 1) == {ALAN: "offline"}

    async def test_that_it_is_over_stays_known_until_its_former_end(self, store: Store) -> None:
        """A device that was away may show it until then."""
        await self.aged(store, 2 * HOUR_MS)
        [shown_until, _, _] = await times(store, 1)
        await store.changes.shorten(ROOM, 3_600)
        assert int(await store.client.hget(f"{ROOM.key}:msg:1", "shown_until")) == shown_until
        await due(store, 1)
        [one] = await process(store, "t")
        assert one.live
        assert await changed(store) == {1: 1}
        assert await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|1") == shown_until
        assert (await read(store, GRACE, 1, rev=0)).gone == [(1, "expired")]

        await due(store, 1)  # that time has come
        [again] = await process(store, "u")
        assert (again.live, again.missed) == (False, ())
        assert await changed(store) == {}
        assert await store.client.zcard(f"{ROOM.prefix}expiring") == 0
        assert sum(counted.expired for counted in await store.stats.counts("day", 2)) == 1, "it ended once"

    async def test_twice_keeps_the_furthest_end_that_a_screen_may_know(self, store: Store) -> None:
        await self.aged(store, 0)
        [shown_until, _, _] = await times(store, 1)
        await store.changes.shorten(ROOM, 3_600)
        await extend(store, ADA, 1, 2 * HOUR_MS)
        await store.changes.shorten(ROOM, 60)
        assert int(await store.client.hget(f"{ROOM.key}:msg:1", "shown_until")) == shown_until

    async def test_that_a_shortened_one_was_deleted_stays_known_as_long(self, store: Store) -> None:
        await self.aged(store, 0)
        [shown_until, _, _] = await times(store, 1)
        await store.changes.shorten(ROOM, 3_600)
        await delete(store, ADA, 1)
        assert await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|1") == shown_until


class TestWhoWasAway:
    """`read_after` with a `rev`: what changed at or below `since`."""

    async def test_gets_what_changed_whole_in_the_order_of_change(self, store: Store) -> None:
        await accept(store, message("a"), message("b"), message("c"), message("untouched"))
        await edit(store, ADA, 3, "c2")
        extended = await extend(store, ADA, 1)
        await edit(store, ADA, 2, "b2")
        slice_ = await read(store, GRACE, 4, rev=0)
        assert [(rev, row.seq, row.body) for rev, row in slice_.changed] == [
            (1, 3, "c2"),
            (2, 1, "a"),
            (3, 2, "b2"),
        ]
        assert slice_.changed[1][1].expires_at == extended.expires_at
        assert (slice_.rev, slice_.upto, slice_.more, slice_.messages) == (3, 4, False, [])
        assert [(rev, row.seq) for rev, row in (await read(store, GRACE, 4, rev=2)).changed] == [(3, 2)]

    async def test_of_several_changes_of_one_message_gets_the_last(self, store: Store) -> None:
        await accept(store)
        for body in ("x", "y", "z"):
            await edit(store, ADA, 1, body)
        assert [(rev, row.body) for rev, row in (await read(store, GRACE, 1, rev=0)).changed] == [(3, "z")]

    async def test_learns_what_is_gone_and_why(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(4)))
        for seq in (1, 2, 3, 4):
            await edit(store, ADA, seq)
        await delete(store, ADA, 2)
        await expire(store, 3)
        await vanish(store, 4)
        slice_ = await read(store, GRACE, 4, rev=0)
        assert [row.seq for _, row in slice_.changed] == [1]
        assert sorted(slice_.gone) == [(2, "deleted"), (3, "expired"), (4, "expired")]

    async def test_without_a_rev_or_with_the_present_one_gets_nothing(self, store: Store) -> None:
        await accept(store, message(), message())
        await edit(store, ADA, 1)
        await delete(store, ADA, 2)
        for rev_ in (None, 2, 3):
            slice_ = await read(store, GRACE, 2, rev=rev_)
            assert (slice_.changed, slice_.gone, slice_.rev) == ([], [], 2)

    async def test_gets_what_he_had_not_yet_as_it_is_now(self, store: Store) -> None:
        await accept(store, message("a"), message("b"), message("c"))
        for seq in (1, 2):
            await edit(store, ADA, seq, "new")
        await delete(store, ADA, 3)
        slice_ = await read(store, GRACE, 1, rev=0)
        assert [row.seq for _, row in slice_.changed] == [1]
        assert [(row.seq, row.body) for row in slice_.messages] == [(2, "new")]
        assert (slice_.gone, slice_.upto) == ([], 3)

    async def test_a_limit_says_more_and_the_rev_reached(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(5)))
        for seq in (5, 4, 3, 2):
            await edit(store, ADA, seq)
        await delete(store, ADA, 3)
        seen: list[tuple[int, int]] = []
        rev_, more = 0, True
        while more:
            slice_ = await read(store, GRACE, 5, rev=rev_, limit=2)
            assert len(slice_.changed) + len(slice_.gone) <= 2
            seen += [(rev, row.seq) for rev, row in slice_.changed]
            seen += [(5, seq) for seq, _ in slice_.gone]
            assert slice_.rev > rev_
            rev_, more = slice_.rev, slice_.more
        assert seen == [(1, 5), (2, 4), (4, 2), (5, 3)]
        assert rev_ == 5

    async def test_long_bodies_are_cut_to_what_one_answer_holds(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(60)))
        for seq in range(1, 61):
            await edit(store, ADA, seq, "x" * 4_000)
        seqs: list[int] = []
        rev_, more = 0, True
        while more:
            slice_ = await read(store, GRACE, 60, rev=rev_)
            assert sum(len(row.body) for _, row in slice_.changed) <= 131_072 + 4_000
            seqs += [row.seq for _, row in slice_.changed]
            rev_, more = slice_.rev, slice_.more
        assert seqs == list(range(1, 61))

    async def test_learns_nothing_of_what_is_for_others(self, store: Store) -> None:
        for _ in range(3):
            await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await edit(store, ADA, 1)
        await edit(store, ADA, 2)
        await expire(store, 2)
        slice_ = await read(store, ALAN, 3, rev=0)
        assert (slice_.changed, slice_.gone, slice_.rev) == ([], [], 2)
        assert [row.seq for _, row in (await read(store, GRACE, 3, rev=0)).changed] == [1]
        assert [row.seq for _, row in (await read(store, ADA, 3, rev=0)).changed] == [1]

    async def test_learns_nothing_of_what_came_before_the_joining_but_in_open_rooms(
        self, store: Store
    ) -> None:
        [one, *_] = await accept(store, *(message() for _ in range(3)))
        await store.members.join(ROOM, [STRANGER])
        await edit(store, ADA, 1)
        await delete(store, ADA, 2)
        await edit(store, ADA, 3)
        await expire(store, 3)
        closed = await read(store, STRANGER, 3, rev=0)
        assert (closed.changed, closed.gone, closed.rev) == ([], [], 3)
        asked = Read(room=ROOM, epoch=one.epoch, since=3, rev=0, open_history=True)
        [open_] = await store.log.read_after(STRANGER, [asked])
        assert isinstance(open_, Slice)
        assert [row.seq for _, row in open_.changed] == [1]
        assert open_.gone == [(2, "deleted"), (3, "expired")]

    async def test_loses_nothing_held_because_of_a_change_that_he_missed(self, store: Store) -> None:
        """An edit does not make a message owed again, and passing over it writes no exception."""
        await accept(store)
        await acknowledge(store, GRACE, 1)
        await edit(store, ADA, 1)
        await expire(store, 1)
        await read(store, GRACE, 1, rev=0)
        assert not await store.client.exists(f"{ROOM.key}:outcome")


async def test_what_was_extended_after_a_claim_is_left_alone_by_it(store: Store) -> None:
    await accept(store)
    await due(store, 1)
    claimed = await store.expiry.claim("t")
    await extend(store, ADA, 1, DAY_MS)
    assert await store.expiry.finalize(await store.expiry.read(claimed)) == 0
    assert [row.seq for row in (await read(store, GRACE)).messages] == [1]
    assert await store.client.zcard(f"{ROOM.prefix}expiring") == 1
