"""Changes of a live message: edit, delete, extend, shorten, and the changes that a returning member reads."""

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
from messaging.store.records import Changed, Expired, Held, Read, RoomKey, Shortened, Slice
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
    """Return the times at which a message ends, its hash ends, and the job looks."""
    return (
        int(await store.client.hget(f"{ROOM.key}:msg:{seq}", "expires_at")),
        await store.client.pexpiretime(f"{ROOM.key}:msg:{seq}"),
        int(await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|{seq}")),
    )


async def kept(store: Store) -> str:
    """Return all values of the store as text: a dump may be compressed."""
    refusals = []
    for key in [key async for key in store.client.scan_iter()]:
        match await store.client.type(key):
            case b"hash":
                refusals.append(await store.client.hgetall(key))
            case b"zset":
                refusals.append(await store.client.zrange(key, 0, -1))
            case b"string":
                refusals.append(await store.client.get(key))
    return repr(refusals)


async def frame(pubsub: PubSub) -> tuple[list[str], dict[str, object]]:
    """Return the header words and the frame of a published change."""
    first, header, text = (await heard(pubsub)).split("\n")
    return [*first.split(" "), *header.split(" ")], json.loads(text)


async def process(store: Store, token: str) -> list[Expired]:
    expired = await store.expiry.read(await store.expiry.claim(token))
    assert await store.expiry.finalize(expired) == len(expired)
    return expired


class TestEveryChange:
    @every_change
    async def test_change_has_the_next_rev_and_is_indexed_under_it(
        self, store: Store, change: Change
    ) -> None:
        accepted = await accept(store, *(message() for _ in range(3)))
        for place, one in enumerate(accepted, start=1):
            answer = await change(store, ADA, one.seq)
            assert (answer.epoch, answer.rev, answer.seq) == (one.epoch, place, one.seq)
        assert await rev(store) == 3
        assert await changed(store) == {1: 1, 2: 2, 3: 3}

    @every_change
    async def test_change_names_the_message(self, store: Store, change: Change) -> None:
        first = message()
        await accept(store, first)
        assert (await change(store, ADA, 1)).id == first.id

    async def test_another_change_of_the_same_message_moves_it_up(self, store: Store) -> None:
        await accept(store, message(), message())
        for seq in (1, 2, 1):
            await edit(store, ADA, seq)
        await extend(store, ADA, 1)
        assert await changed(store) == {2: 2, 1: 4}

    async def test_change_is_published_to_the_room(self, store: Store) -> None:
        body = 'tab\t"quote" \\ / new\nline 中文 😀 </script>\u2028'
        [one, _] = await accept(
            store, message(), msgspec.structs.replace(message(user=GRACE), only=(ADA, ALAN), resends=1)
        )
        same = {"room": ROOM.id, "epoch": one.epoch}
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            edited = await edit(store, ADA, 1, body)
            header, published = await frame(pubsub)
            assert header == ["C", one.epoch, "1", "1", str(ADA), "-"]
            assert published == same | {
                "type": "edited",
                "rev": 1,
                "seq": 1,
                "body": body,
                "edited_at": edited.edited_at,
            }
            extended = await extend(store, GRACE, 2)
            header, published = await frame(pubsub)
            assert header == ["C", one.epoch, "2", "2", str(GRACE), f"{ADA},{ALAN}"]
            assert published == same | {
                "type": "edited",
                "rev": 2,
                "seq": 2,
                "expires_at": extended.expires_at,
            }
            await delete(store, GRACE, 2)
            header, published = await frame(pubsub)
            assert header == ["C", one.epoch, "3", "2", str(GRACE), f"{ADA},{ALAN}"]
            assert published == same | {"type": "deleted", "rev": 3, "seq": 2}

    @every_change
    async def test_change_by_a_non_member_is_refused(self, store: Store, change: Change) -> None:
        await accept(store, message(user=GRACE))
        await store.members.leave(ROOM, GRACE)
        for user in (STRANGER, GRACE):
            await refused(store, NotMember, change(store, user, 1, open_=True))

    @every_change
    async def test_change_of_an_unknown_seq_is_refused(self, store: Store, change: Change) -> None:
        await accept(store)
        for seq in (0, 2, 2**53 - 1):
            await refused(store, NoSuchMessage, change(store, ADA, seq))

    @every_change
    async def test_change_of_another_epoch_is_refused(self, store: Store, change: Change) -> None:
        [one] = await accept(store)
        await refused(store, NoSuchMessage, change(store, ADA, 1, epoch="other"))
        assert (await change(store, ADA, 1, epoch=one.epoch)).rev == 1

    @every_change
    async def test_change_of_another_members_message_is_forbidden(self, store: Store, change: Change) -> None:
        await accept(store)
        await refused(store, Forbidden, change(store, GRACE, 1))

    @every_change
    async def test_messages_before_the_joining_are_unknown_except_in_open_rooms(
        self, store: Store, change: Change
    ) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        await refused(store, NoSuchMessage, change(store, STRANGER, 1))
        await refused(store, Forbidden, change(store, STRANGER, 1, open_=True))

    @every_change
    async def test_messages_for_others_are_unknown(self, store: Store, change: Change) -> None:
        await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await refused(store, NoSuchMessage, change(store, ALAN, 1))
        await refused(store, Forbidden, change(store, GRACE, 1))
        assert (await change(store, ADA, 1)).rev == 1

    @every_change
    @both_ends
    async def test_change_after_the_end_is_too_late_without_any_job(
        self, store: Store, change: Change, end: Callable[..., Awaitable[None]]
    ) -> None:
        await accept(store)
        await end(store, 1)
        await refused(store, TooLate, change(store, ADA, 1))

    @every_change
    async def test_change_after_the_end_is_too_late_while_a_job_holds_it(
        self, store: Store, change: Change
    ) -> None:
        await accept(store)
        await expire(store, 1)
        await due(store, 1)
        assert [row.seq for row in await store.expiry.claim("t")] == [1]
        await refused(store, TooLate, change(store, ADA, 1))

    @every_change
    async def test_change_before_the_end_is_in_time_although_a_job_looks_early(
        self, store: Store, change: Change
    ) -> None:
        await accept(store)
        await due(store, 1)
        await store.expiry.claim("t")
        assert (await change(store, ADA, 1)).rev == 1

    @every_moderation
    async def test_moderators_change_messages_of_all_members(self, store: Store, change: Change) -> None:
        await accept(store)
        assert (await change(store, GRACE, 1, moderates=True)).rev == 1
        await expire(store, 1)
        if change is extend:
            await refused(store, TooLate, change(store, GRACE, 1, moderates=True))

    @every_moderation
    async def test_moderator_cannot_change_what_they_cannot_read(self, store: Store, change: Change) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        await store.members.join(ROOM, [GRACE])
        await accept(store, msgspec.structs.replace(message(), only=(ALAN,)))
        for seq in (1, 2):
            await refused(store, NoSuchMessage, change(store, GRACE, seq, moderates=True))
        assert (await change(store, GRACE, 1, moderates=True, open_=True)).rev == 1

    @every_change
    async def test_messages_of_a_room_without_a_log_are_unknown(self, store: Store, change: Change) -> None:
        with pytest.raises(NoSuchMessage):
            await change(store, ADA, 1)
        assert await rev(store) == 0

    async def test_full_store_refuses_changes_that_need_memory(self, store: Store) -> None:
        await accept(store, message(), message())
        await store.client.config_set("maxmemory", 1)
        try:
            await refused(store, BacklogFull, edit(store, ADA, 1))
            await refused(store, BacklogFull, extend(store, ADA, 1))
            assert (await delete(store, ADA, 2)).rev == 1, "operations that free memory continue"
        finally:
            await store.client.config_set("maxmemory", 0)


async def refused(store: Store, error: type[MessagingError], asked: Awaitable[Changed]) -> None:
    """Make a change that must be refused without an effect."""
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

    async def test_edit_does_not_extend_the_life(self, store: Store) -> None:
        [one] = await accept(store)
        before = await times(store, 1)
        assert (await edit(store, ADA, 1)).expires_at == one.expires_at
        assert await times(store, 1) == before

    async def test_second_edit_is_another_change(self, store: Store) -> None:
        await accept(store)
        assert [(await edit(store, ADA, 1, "same")).rev for _ in range(2)] == [1, 2]
        assert await changed(store) == {1: 2}

    async def test_edit_changes_no_debt(self, store: Store) -> None:
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
    async def test_deleted_message_has_no_readable_rest(self, store: Store) -> None:
        await accept(store, message("a"), message("take me away"), message("c"))
        await delete(store, ADA, 2)
        assert [row.seq for row in (await read(store, GRACE)).messages] == [1, 3]
        assert [row.seq for row in (await store.log.history(ROOM, GRACE, before=9)).messages] == [1, 3]
        assert "take me away" not in await kept(store)
        assert not await store.client.exists(f"{ROOM.key}:msg:2")

    async def test_second_delete_returns_the_same_answer_without_the_id(self, store: Store) -> None:
        await accept(store)
        first = await delete(store, ADA, 1)
        before = await dump(store)
        for _ in range(2):
            again = await delete(store, ADA, 1)
            assert (again.epoch, again.rev, again.seq, again.id) == (first.epoch, first.rev, 1, "")
        assert await dump(store) == before
        with pytest.raises(NoSuchMessage):
            await delete(store, ADA, 1, epoch="other")

    async def test_deleted_message_is_settled_and_never_missed(self, store: Store) -> None:
        [one, _] = await accept(store, message(), message())
        await acknowledge(store, GRACE, 1)
        await store.cursors.reject(ROOM, GRACE, one.epoch, 2)
        await store.members.leave(ROOM, GRACE)
        for seq in (1, 2):
            await delete(store, ADA, seq)
            assert await missing(store, seq) == {}
        assert await store.retries.owing(ROOM, one.epoch, [GRACE, ALAN]) == []
        assert await store.cursors.receipts([(ROOM, ADA)]) == [(one.epoch, [])]
        [standing] = await store.members.member_positions(ALAN, [(ROOM, Held())])
        assert standing is not None
        assert standing.unread == 0
        with pytest.raises(NoSuchMessage):
            await store.cursors.recipients(ROOM, 1)

    async def test_deleted_message_never_blocks_a_cursor(self, store: Store) -> None:
        await accept(store, message(), message())
        await delete(store, ADA, 2)
        slice_ = await read(store, GRACE, 1)
        assert (slice_.messages, slice_.upto, slice_.more) == ([], 2, False)
        assert await acknowledge(store, GRACE, 2) == 1

    async def test_deleted_message_is_removed_at_its_end_and_nobody_missed_it(self, store: Store) -> None:
        await accept(store)
        await delete(store, ADA, 1)
        await due(store, 1)
        [one] = await process(store, "t")
        assert (one.live, one.total, one.missed) == (False, 0, ())
        assert await changed(store) == {}
        assert await store.client.zcard(f"{ROOM.prefix}expiring") == 0
        assert sum(counted.expired for counted in await store.stats.counts("day", 2)) == 0

    async def test_list_of_recipients_is_deleted_with_the_message(self, store: Store) -> None:
        await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await delete(store, ADA, 1)
        assert not await store.client.exists(f"{ROOM.key}:only")


class TestExtend:
    async def test_message_lives_until_now_plus_the_ttl(self, store: Store) -> None:
        await accept(store)
        before_ms = await store.now_ms()
        answer = await extend(store, ADA, 1, DAY_MS)
        assert before_ms <= answer.expires_at - DAY_MS <= await store.now_ms()
        assert answer.edited_at is None
        grace_ms = store.policy.grace_s * 1000
        assert await times(store, 1) == (answer.expires_at, answer.expires_at + grace_ms, answer.expires_at)
        [stored] = (await read(store, GRACE)).messages
        assert (stored.expires_at, stored.edited_at) == (answer.expires_at, None)

    async def test_extension_never_shortens_the_life(self, store: Store) -> None:
        [one] = await accept(store)
        before = await times(store, 1)
        assert (await extend(store, ADA, 1, 10_000)).expires_at == one.expires_at
        assert await times(store, 1) == before

    async def test_extended_message_is_not_claimed_at_its_former_end(self, store: Store) -> None:
        await accept(store)
        await due(store, 1)
        await extend(store, ADA, 1, DAY_MS)
        assert await store.expiry.claim("t") == []

    async def test_extension_changes_no_debt(self, store: Store) -> None:
        [one] = await accept(store)
        await acknowledge(store, GRACE, 1)
        await extend(store, ADA, 1)
        assert [row.user for row in await store.retries.owing(ROOM, one.epoch, [GRACE, ALAN])] == [ALAN]


class TestShorten:
    async def aged(self, store: Store, *ages_ms: int) -> list[int]:
        """Accept messages with a life of a day and make them this old; return the times at which they were sent."""
        accepted = await accept(store, *(message(ttl_ms=DAY_MS) for _ in ages_ms))
        for one, age_ms in zip(accepted, ages_ms, strict=True):
            await store.client.hset(f"{ROOM.key}:msg:{one.seq}", "sent_at", one.sent_at - age_ms)
        return [one.sent_at - age_ms for one, age_ms in zip(accepted, ages_ms, strict=True)]

    async def test_dry_run_only_counts(self, store: Store) -> None:
        await self.aged(store, 2 * HOUR_MS, 1_000, 0)
        await accept(store, message(ttl_ms=1_000))
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 3_600, dry_run=True) == Shortened(4, 3, 1)
        assert await dump(store) == before

    async def test_messages_end_one_ttl_after_they_were_sent_or_at_once(self, store: Store) -> None:
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

    async def test_lives_are_never_extended_and_second_call_changes_nothing(self, store: Store) -> None:
        await self.aged(store, 0)
        await accept(store, message(ttl_ms=10_000))
        await store.changes.shorten(ROOM, 3_600)
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 3_600) == Shortened(2, 0, 0)
        assert await store.changes.shorten(ROOM, 7_200) == Shortened(2, 0, 0)
        assert await dump(store) == before

    @both_ends
    async def test_ended_messages_are_unchanged(
        self, store: Store, end: Callable[..., Awaitable[None]]
    ) -> None:
        await self.aged(store, 0)
        await end(store, 1)
        before = await dump(store)
        assert await store.changes.shorten(ROOM, 60) == Shortened(1, 0, 0)
        assert await dump(store) == before

    async def test_every_message_is_published_with_its_own_rev(self, store: Store) -> None:
        await self.aged(store, 0)
        await accept(store, msgspec.structs.replace(message(user=GRACE, ttl_ms=DAY_MS), only=(ALAN,)))
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            await store.changes.shorten(ROOM, 3_600)
            for seq, sender, only in ((1, ADA, "-"), (2, GRACE, str(ALAN))):
                header, published = await frame(pubsub)
                assert header[2:] == [str(seq), str(seq), str(sender), only]
                [ends, _, _] = await times(store, seq)
                assert (published["type"], published["rev"], published["expires_at"]) == ("edited", seq, ends)
        assert await changed(store) == {1: 1, 2: 2}

    async def test_many_messages_take_bounded_calls(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    async def test_room_without_a_log_has_nothing_to_shorten(self, store: Store) -> None:
        assert await store.changes.shorten(NOWHERE, 60) == Shortened(0, 0, 0)

    async def test_members_who_missed_a_shortened_message_are_reported(self, store: Store) -> None:
        await self.aged(store, 2 * HOUR_MS)
        await acknowledge(store, GRACE, 1)
        await store.changes.shorten(ROOM, 3_600)
        assert await missing(store, 1) == {ALAN: "offline"}

    async def test_expiry_of_a_shortened_message_stays_known_until_its_former_end(self, store: Store) -> None:
        """An offline device may show it until then."""
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

        await due(store, 1)  # its former end is reached
        [again] = await process(store, "u")
        assert (again.live, again.missed) == (False, ())
        assert await changed(store) == {}
        assert await store.client.zcard(f"{ROOM.prefix}expiring") == 0
        assert sum(counted.expired for counted in await store.stats.counts("day", 2)) == 1, "it ended once"

    async def test_second_shortening_keeps_the_latest_end_known_to_a_screen(self, store: Store) -> None:
        await self.aged(store, 0)
        [shown_until, _, _] = await times(store, 1)
        await store.changes.shorten(ROOM, 3_600)
        await extend(store, ADA, 1, 2 * HOUR_MS)
        await store.changes.shorten(ROOM, 60)
        assert int(await store.client.hget(f"{ROOM.key}:msg:1", "shown_until")) == shown_until

    async def test_deletion_of_a_shortened_message_stays_known_as_long(self, store: Store) -> None:
        await self.aged(store, 0)
        [shown_until, _, _] = await times(store, 1)
        await store.changes.shorten(ROOM, 3_600)
        await delete(store, ADA, 1)
        assert await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|1") == shown_until


class TestWhoWasAway:
    """`read_after` with a `rev` returns the changes at or below `since`."""

    async def test_changed_messages_are_returned_whole_in_the_order_of_change(self, store: Store) -> None:
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

    async def test_last_of_several_changes_of_one_message_is_returned(self, store: Store) -> None:
        await accept(store)
        for body in ("x", "y", "z"):
            await edit(store, ADA, 1, body)
        assert [(rev, row.body) for rev, row in (await read(store, GRACE, 1, rev=0)).changed] == [(3, "z")]

    async def test_deleted_and_expired_messages_are_returned_with_the_reason(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(4)))
        for seq in (1, 2, 3, 4):
            await edit(store, ADA, seq)
        await delete(store, ADA, 2)
        await expire(store, 3)
        await vanish(store, 4)
        slice_ = await read(store, GRACE, 4, rev=0)
        assert [row.seq for _, row in slice_.changed] == [1]
        assert sorted(slice_.gone) == [(2, "deleted"), (3, "expired"), (4, "expired")]

    async def test_read_without_a_rev_or_with_the_present_one_returns_no_changes(self, store: Store) -> None:
        await accept(store, message(), message())
        await edit(store, ADA, 1)
        await delete(store, ADA, 2)
        for rev_ in (None, 2, 3):
            slice_ = await read(store, GRACE, 2, rev=rev_)
            assert (slice_.changed, slice_.gone, slice_.rev) == ([], [], 2)

    async def test_messages_not_yet_read_are_returned_in_their_present_state(self, store: Store) -> None:
        await accept(store, message("a"), message("b"), message("c"))
        for seq in (1, 2):
            await edit(store, ADA, seq, "new")
        await delete(store, ADA, 3)
        slice_ = await read(store, GRACE, 1, rev=0)
        assert [row.seq for _, row in slice_.changed] == [1]
        assert [(row.seq, row.body) for row in slice_.messages] == [(2, "new")]
        assert (slice_.gone, slice_.upto) == ([], 3)

    async def test_limited_read_returns_more_and_the_last_rev(self, store: Store) -> None:
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

    async def test_long_bodies_are_limited_to_the_size_of_one_answer(self, store: Store) -> None:
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

    async def test_changes_of_messages_for_others_are_not_returned(self, store: Store) -> None:
        for _ in range(3):
            await accept(store, msgspec.structs.replace(message(), only=(GRACE,)))
        await edit(store, ADA, 1)
        await edit(store, ADA, 2)
        await expire(store, 2)
        slice_ = await read(store, ALAN, 3, rev=0)
        assert (slice_.changed, slice_.gone, slice_.rev) == ([], [], 2)
        assert [row.seq for _, row in (await read(store, GRACE, 3, rev=0)).changed] == [1]
        assert [row.seq for _, row in (await read(store, ADA, 3, rev=0)).changed] == [1]

    async def test_changes_before_the_joining_are_returned_in_open_rooms_only(self, store: Store) -> None:
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

    async def test_held_message_is_not_lost_by_a_missed_change(self, store: Store) -> None:
        """An edit does not make a message owed again, and passing over it writes no exception."""
        await accept(store)
        await acknowledge(store, GRACE, 1)
        await edit(store, ADA, 1)
        await expire(store, 1)
        await read(store, GRACE, 1, rev=0)
        assert not await store.client.exists(f"{ROOM.key}:outcome")


async def test_message_extended_after_a_claim_is_not_processed_by_it(store: Store) -> None:
    await accept(store)
    await due(store, 1)
    claimed = await store.expiry.claim("t")
    await extend(store, ADA, 1, DAY_MS)
    assert await store.expiry.finalize(await store.expiry.read(claimed)) == 0
    assert [row.seq for row in (await read(store, GRACE)).messages] == [1]
    assert await store.client.zcard(f"{ROOM.prefix}expiring") == 1
