"""The operations of the store against a real server: one class for every operation, each called twice."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import msgspec
import pytest
from redis.asyncio.client import PubSub

from messaging import policy as policies
from messaging.errors import IdReused, MessagingError, NoSuchMessage, NotMember
from messaging.store import Store
from messaging.store.cursors import SENDER_BATCH
from messaging.store.records import (
    Accepted,
    AckRow,
    Held,
    IdempotencyRecord,
    MemberPosition,
    OtherEpoch,
    Read,
    RoomKey,
    idempotency_key,
)
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    HOUR_MS,
    ROOM,
    accept,
    acknowledge,
    cursors,
    dump,
    expire,
    members_of,
    message,
    missing,
    new_id,
    read,
    vanish,
)

STRANGER = 9
NEXT_DOOR = RoomKey("next-door", ROOM.partition)
FAR_AWAY = RoomKey("far-away", 8)


async def heard(pubsub: PubSub) -> str:
    """Return the next payload of a subscription."""
    async with asyncio.timeout(3):
        while True:
            reply = await pubsub.get_message(timeout=3)
            if reply is not None and reply["type"] == "message":
                return str(reply["data"].decode())


async def standing(store: Store, user: int, *, epoch: str = "", since: int = 0) -> MemberPosition:
    [result] = await store.members.member_positions(user, [(ROOM, Held(epoch, since))])
    assert result is not None
    return result


class TestInit:
    async def test_log_has_the_members_of_the_database(self, store: Store) -> None:
        epoch = await store.members.create_log(ROOM)
        [place] = await store.log.positions([ROOM])
        assert place is not None
        assert (place.epoch, place.top, place.rev) == (epoch, 0, 0)
        assert await cursors(store, GRACE) == (0, 0)

    async def test_second_call_changes_nothing(self, store: Store) -> None:
        epoch = await store.members.create_log(ROOM)
        await accept(store)
        before = await dump(store)
        assert await store.members.create_log(ROOM) == epoch
        assert await dump(store) == before

    async def test_many_members_all_owe_from_the_start(self, store: Store) -> None:
        async def crowd(room: str) -> list[int]:
            return list(range(1, 2_501))

        store.members.members_of = crowd
        await store.members.create_log(ROOM)
        await accept(store)
        [(_, [(_, _, _, total)])] = await store.cursors.receipts([(ROOM, ADA)])
        assert total == 2_499

    async def test_remains_of_a_lost_log_are_deleted(self, store: Store) -> None:
        await accept(store, message("old"), message("older"))
        await acknowledge(store, GRACE, 2)
        await store.client.delete(ROOM.key)
        [again] = await accept(store, message("new"))
        assert again.seq == 1
        assert [row.body for row in (await read(store, GRACE)).messages] == ["new"]
        assert await cursors(store, GRACE) == (0, 0)
        assert await store.client.zcard(f"{ROOM.prefix}expiring") == 1


class TestJoin:
    async def test_a_late_joiner_owes_only_what_comes_after(self, store: Store) -> None:
        await accept(store, message("before"))
        await store.members.join(ROOM, [STRANGER])
        await accept(store, message("after"))
        assert STRANGER not in await missing(store, 1)
        assert STRANGER in await missing(store, 2)
        assert [row.body for row in (await read(store, STRANGER)).messages] == ["after"]

    async def test_second_join_changes_nothing(self, store: Store) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        await accept(store)
        before = await dump(store)
        await store.members.join(ROOM, [STRANGER, GRACE])
        assert await dump(store) == before

    async def test_join_increases_the_count_of_joins_and_leaves(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        counts = []
        for change in (
            store.members.join(ROOM, [STRANGER]),
            store.members.leave(ROOM, STRANGER),
            store.members.join(ROOM, [STRANGER]),
        ):
            await change
            [place] = await store.log.positions([ROOM])
            counts.append(place and place.members)
        assert counts == [1, 2, 3]

    async def test_returning_member_does_not_owe_messages_of_the_time_away(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        await store.members.leave(ROOM, GRACE)
        await accept(store, message("missed on purpose"))
        await store.members.join(ROOM, [GRACE])
        assert await missing(store, 1) == {ALAN: "offline"}
        assert (await read(store, GRACE)).messages == []


class TestLeave:
    async def test_messages_owed_by_the_leaver_are_reported(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        assert await missing(store, 1) == {ALAN: "offline", GRACE: "left_room"}

    async def test_messages_held_by_the_leaver_are_not_reported(self, store: Store) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1)
        await store.members.leave(ROOM, GRACE)
        assert await missing(store, 1) == {ALAN: "offline"}
        assert not await store.client.exists(f"{ROOM.key}:left")

    async def test_acknowledgement_that_arrives_after_the_leave_counts(self, store: Store) -> None:
        """Acknowledgements wait for each other; a leave does not wait for them."""
        await accept(store, *(message() for _ in range(3)))
        await store.members.leave(ROOM, GRACE)
        await acknowledge(store, GRACE, 2)
        assert GRACE not in await missing(store, 2)
        assert (await missing(store, 3))[GRACE] == "left_room"
        await accept(store, message())  # above what they can have received
        await acknowledge(store, GRACE, 4)
        assert not await store.client.exists(f"{ROOM.key}:left")
        assert GRACE not in await missing(store, 4)
        await acknowledge(store, GRACE, 4)

    async def test_second_leave_changes_nothing(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        before = await dump(store)
        await store.members.leave(ROOM, GRACE)
        await store.members.leave(ROOM, STRANGER)
        assert await dump(store) == before

    async def test_leave_of_a_room_without_a_log_creates_none(self, store: Store) -> None:
        await store.members.leave(ROOM, GRACE)
        assert await dump(store) == {}

    async def test_ack_after_leaving_creates_no_cursor(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        assert await acknowledge(store, GRACE, 1, 1) == 1
        assert await acknowledge(store, GRACE, 1, 1) == -2
        assert await cursors(store, GRACE) == (None, None)
        [(_, [row])] = await store.cursors.receipts([(ROOM, ADA)])
        assert row == (1, 0, 0, 1), "only alan owes it"

    async def test_rejoining_and_reading_does_not_settle_the_earlier_debt(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        await store.members.join(ROOM, [GRACE])
        assert (await missing(store, 1))[GRACE] == "left_room"


class TestAppend:
    async def test_numbers_rise_in_the_order_of_the_batch(self, store: Store) -> None:
        answers = await accept(store, message("a"), message("b", user=GRACE), message("c"))
        assert [answer.seq for answer in answers] == [1, 2, 3]
        assert [row.body for row in (await read(store, ALAN)).messages] == ["a", "b", "c"]

    async def test_answer_has_the_time_of_expiry(self, store: Store) -> None:
        [answer] = await accept(store, message(ttl_ms=10_000))
        assert answer.expires_at - answer.sent_at == 10_000
        assert abs(await store.now_ms() - answer.sent_at) < 5_000

    async def test_rooms_of_all_partitions_in_one_batch_are_answered_in_order(self, store: Store) -> None:
        rooms = [FAR_AWAY, ROOM, NEXT_DOOR, FAR_AWAY, ROOM]
        answers = await accept(store, *(message(room=room) for room in rooms))
        assert [answer.seq for answer in answers] == [1, 1, 1, 2, 2]

    async def test_messages_above_the_limit_of_one_call_keep_their_order(self, store: Store) -> None:
        answers = await accept(store, *(message(str(n)) for n in range(250)))
        assert [answer.seq for answer in answers] == list(range(1, 251))

    async def test_the_same_id_again_gets_the_first_answer(self, store: Store) -> None:
        first = message()
        [answer] = await accept(store, first)
        before = await dump(store)
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(answer, duplicate=True)
        assert not answer.duplicate
        assert await dump(store) == before

    async def test_the_same_id_twice_in_one_batch_is_accepted_once(self, store: Store) -> None:
        first = message()
        [one, two] = await accept(store, first, first)
        assert two == msgspec.structs.replace(one, duplicate=True)
        assert (await read(store, GRACE)).top == 1

    async def test_the_same_id_gets_the_first_answer_after_the_message_was_deleted(
        self, store: Store
    ) -> None:
        first = message()
        [answer] = await accept(store, first)
        await vanish(store, 1)
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(answer, duplicate=True)
        assert (await read(store, GRACE)).messages == []

    async def test_remembered_id_holds_the_largest_numbers(self, store: Store) -> None:
        await accept(store, message())
        await store.client.hset(ROOM.key, "top", 10**12 - 1)
        first = msgspec.structs.replace(message(), ttl_ms=policies.MAX_TTL_S * 1_000)
        [answer] = await accept(store, first)
        assert answer.seq == 10**12
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(answer, duplicate=True)
        packed = await store.client.get(idempotency_key(ROOM, ADA, first.id))
        assert IdempotencyRecord.read(packed) == IdempotencyRecord(
            answer.seq, answer.sent_at, answer.expires_at
        )

    async def test_the_same_id_gets_the_first_answer_after_its_sender_left(self, store: Store) -> None:
        first = message(user=GRACE)
        [answer] = await accept(store, first)
        await store.members.leave(ROOM, GRACE)
        [again] = await accept(store, first)
        assert again == msgspec.structs.replace(answer, duplicate=True)

    async def test_the_same_id_with_another_lifetime_is_the_same_message(self, store: Store) -> None:
        first = message()
        [answer] = await accept(store, first)
        [again] = await accept(store, msgspec.structs.replace(first, ttl_ms=HOUR_MS * 2))
        assert again.expires_at == answer.expires_at

    @pytest.mark.parametrize("other", [{"body": "other"}, {"reply_to": 1}])
    async def test_the_same_id_with_other_content_is_refused(
        self, store: Store, other: dict[str, object]
    ) -> None:
        first = message()
        await accept(store, first)
        before = await dump(store)
        for _ in range(2):
            [answer] = await store.log.append([msgspec.structs.replace(first, **other)])
            assert isinstance(answer, IdReused)
        assert await dump(store) == before

    async def test_content_and_reply_to_cannot_be_confused(self, store: Store) -> None:
        await accept(store)
        id_ = new_id()
        await accept(store, message("|x", id_=id_))
        [answer] = await store.log.append([message("x", id_=id_, reply_to=1)])
        assert isinstance(answer, IdReused)

    async def test_ids_of_two_users_or_two_rooms_are_two_ids(self, store: Store) -> None:
        id_ = new_id()
        answers = await accept(
            store, message(id_=id_), message(id_=id_, user=GRACE), message(id_=id_, room=NEXT_DOOR)
        )
        assert [(answer.seq, answer.duplicate) for answer in answers] == [(1, False), (2, False), (1, False)]

    async def test_refused_message_does_not_affect_its_neighbours(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        answers = await store.log.append([message("a"), message("b", user=STRANGER), message("c")])
        assert [type(answer) for answer in answers] == [Accepted, NotMember, Accepted]
        assert [row.body for row in (await read(store, GRACE)).messages] == ["a", "c"]

    async def test_a_reply_names_an_assigned_seq(self, store: Store) -> None:
        await accept(store)
        answers = await store.log.append([message(reply_to=1), message(reply_to=0), message(reply_to=4)])
        assert [type(answer) for answer in answers] == [Accepted, NoSuchMessage, NoSuchMessage]
        assert [row.reply_to for row in (await read(store, GRACE)).messages] == [None, 1]

    async def test_the_senders_cursor_moves_from_the_seq_before(self, store: Store) -> None:
        await accept(store, message(), message())
        assert await cursors(store, ADA) == (2, 0)

    async def test_the_senders_cursor_stays_below_a_missing_message(self, store: Store) -> None:
        await accept(store, message(user=GRACE), message(user=ADA), message(user=ADA))
        assert (await cursors(store, ADA))[0] == 0
        assert (await cursors(store, GRACE))[0] == 1
        assert [row.seq for row in (await read(store, ADA)).messages] == [1, 2, 3]

    async def test_a_room_without_a_log_gets_one_with_the_databases_members(self, store: Store) -> None:
        await accept(store)
        assert set(await missing(store, 1)) == {GRACE, ALAN}

    async def test_the_hash_outlives_the_message_by_the_grace(self, store: Store) -> None:
        [answer] = await accept(store)
        until_ms = await store.client.pexpiretime(f"{ROOM.key}:msg:1")
        assert until_ms == answer.expires_at + store.policy.grace_s * 1000

    async def test_the_message_is_in_the_indexes_of_expiry_and_sweep(self, store: Store) -> None:
        [answer] = await accept(store)
        assert await store.client.zscore(f"{ROOM.prefix}expiring", f"{ROOM.id}|1") == answer.expires_at
        assert await store.client.zscore(f"{ROOM.prefix}unacked", ROOM.id) >= answer.sent_at

    async def test_a_small_message_is_kept_as_one_block(self, store: Store) -> None:
        await accept(store, message("x" * 4_000))
        assert await store.client.object("encoding", f"{ROOM.key}:msg:1") == b"listpack"

    async def test_published_fields_equal_the_fields_that_are_read(self, store: Store) -> None:
        body = 'tab\t"quote" \\ / new\nline \x7f 中文 😀 </script>\u2028'
        await store.members.create_log(ROOM)
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            [one, two] = await accept(store, message(body), message("b", user=GRACE, reply_to=None))
            lines = (await heard(pubsub)).split("\n")
        assert len(lines) == 5
        assert (lines[0], lines[1], lines[3]) == (f"M {one.epoch}", f"1 0 {ADA} -", f"2 1 {GRACE} -")
        frame = json.loads(lines[2])
        [stored, _] = (await read(store, ALAN)).messages
        assert frame == {
            "type": "message",
            "room": ROOM.id,
            "epoch": one.epoch,
            "seq": 1,
            "id": stored.id,
            "from": {"id": ADA, "name": "ada"},
            "body": body,
            "sent_at": stored.sent_at,
            "expires_at": stored.expires_at,
        }
        assert stored.body == body
        assert json.loads(lines[4])["seq"] == two.seq


class TestReadAfter:
    async def test_second_read_returns_the_same(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        assert await read(store, GRACE) == await read(store, GRACE)

    async def test_limited_read_reports_more_and_continues_from_upto(self, store: Store) -> None:
        await accept(store, *(message(str(n)) for n in range(5)))
        first = await read(store, GRACE, limit=2)
        assert ([row.seq for row in first.messages], first.upto, first.more, first.top) == (
            [1, 2],
            2,
            True,
            5,
        )
        rest = await read(store, GRACE, first.upto, limit=3)
        assert ([row.seq for row in rest.messages], rest.upto, rest.more) == ([3, 4, 5], 5, False)

    async def test_long_bodies_are_limited_to_the_size_of_one_answer(self, store: Store) -> None:
        await accept(store, *(message("x" * 4_000) for _ in range(60)))
        seqs: list[int] = []
        more = True
        while more:
            slice_ = await read(store, GRACE, seqs[-1] if seqs else 0)
            assert sum(len(row.body) for row in slice_.messages) <= 131_072 + 4_000
            seqs += [row.seq for row in slice_.messages]
            more = slice_.more
        assert seqs == list(range(1, 61))

    async def test_expired_text_is_not_returned_and_reported_as_gone(self, store: Store) -> None:
        await accept(store, message("a"), message("b"), message("c"))
        await expire(store, 2)
        slice_ = await read(store, GRACE)
        assert [row.seq for row in slice_.messages] == [1, 3]
        assert slice_.gone == [(2, "expired")]
        assert slice_.upto == 3

    async def test_a_hole_from_expiry_never_blocks_a_cursor(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)))
        await vanish(store, 1, 2, 3)
        slice_ = await read(store, GRACE)
        assert (slice_.messages, slice_.upto, slice_.more) == ([], 3, False)
        assert await acknowledge(store, GRACE, slice_.upto) == 1
        await accept(store, message("next"))
        assert [row.body for row in (await read(store, GRACE, 3)).messages] == ["next"]

    @pytest.mark.parametrize("end", [expire, vanish])
    async def test_passed_over_message_is_remembered_although_the_cursor_rises_above_it(
        self, store: Store, end: object
    ) -> None:
        await accept(store, message("never seen"), message("seen"))
        await end(store, 1)  # type: ignore[operator]
        for _ in range(2):
            await read(store, GRACE)
        await acknowledge(store, GRACE, 2)
        assert await missing(store, 1) == {GRACE: "offline", ALAN: "offline"}
        assert await missing(store, 2) == {ALAN: "offline"}

    async def test_message_held_before_its_expiry_is_not_remembered(self, store: Store) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1)
        await expire(store, 1)
        await read(store, GRACE, 0)
        assert await missing(store, 1) == {ALAN: "offline"}

    async def test_own_message_is_not_remembered(self, store: Store) -> None:
        await accept(store, message(user=GRACE), message(user=ADA))
        await expire(store, 1, 2)
        await read(store, ADA)
        assert set(await missing(store, 2)) == {GRACE, ALAN}

    async def test_member_with_counted_attempts_is_remembered_as_no_ack(self, store: Store) -> None:
        await accept(store)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        await expire(store, 1)
        await read(store, GRACE)
        await acknowledge(store, GRACE, 1)
        assert (await missing(store, 1))[GRACE] == "no_ack"

    async def test_a_hole_on_one_device_is_filled_by_its_own_since(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        await acknowledge(store, GRACE, 2)  # by one device
        assert [row.body for row in (await read(store, GRACE, 0)).messages] == ["a", "b"]  # to the other

    async def test_another_epoch_gets_the_present_one(self, store: Store) -> None:
        epoch = await store.members.create_log(ROOM)
        [answer] = await store.log.read_after(GRACE, [Read(room=ROOM, epoch="other", since=0)])
        assert answer == OtherEpoch(epoch)

    async def test_a_since_above_top_is_of_another_epoch(self, store: Store) -> None:
        epoch = await store.members.create_log(ROOM)
        [answer] = await store.log.read_after(GRACE, [Read(room=ROOM, epoch=epoch, since=1)])
        assert answer == OtherEpoch(epoch)

    async def test_non_member_reads_nothing(self, store: Store) -> None:
        [accepted] = await accept(store)
        await store.members.leave(ROOM, GRACE)
        for user in (STRANGER, GRACE):
            [answer] = await store.log.read_after(user, [Read(room=ROOM, epoch=accepted.epoch, since=0)])
            assert isinstance(answer, NotMember)

    async def test_open_history_shows_messages_older_than_the_joining(self, store: Store) -> None:
        [accepted] = await accept(store, message("before"))
        await store.members.join(ROOM, [STRANGER])
        asked = Read(room=ROOM, epoch=accepted.epoch, since=0)
        closed, open_ = [
            (await store.log.read_after(STRANGER, [dataclasses.replace(asked, open_history=open_history)]))[0]
            for open_history in (False, True)
        ]
        assert not isinstance(closed, OtherEpoch | MessagingError)
        assert not isinstance(open_, OtherEpoch | MessagingError)
        assert (closed.messages, closed.upto) == ([], 1)
        assert [row.body for row in open_.messages] == ["before"]
        assert STRANGER not in await missing(store, 1)

    async def test_many_rooms_are_read_in_one_round_trip(self, store: Store) -> None:
        rooms = [ROOM, NEXT_DOOR, FAR_AWAY]
        answers = await accept(store, *(message(room.id, room=room) for room in rooms))
        reads = [
            Read(room=room, epoch=answer.epoch, since=0) for room, answer in zip(rooms, answers, strict=True)
        ]
        slices = await store.log.read_after(GRACE, reads)
        assert [slice_.messages[0].body for slice_ in slices] == [room.id for room in rooms]  # type: ignore[union-attr]


class TestHistory:
    async def test_pages_backwards_ascending_to_the_beginning(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(5)))
        for _ in range(2):
            newest = await store.log.history(ROOM, GRACE, before=6, limit=3)
            assert ([row.seq for row in newest.messages], newest.more) == ([3, 4, 5], True)
            oldest = await store.log.history(ROOM, GRACE, before=3, limit=3)
            assert ([row.seq for row in oldest.messages], oldest.more) == ([1, 2], False)

    async def test_history_has_no_expired_text(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(4)))
        await expire(store, 2)
        await vanish(store, 3)
        page = await store.log.history(ROOM, GRACE, before=9)
        assert [row.seq for row in page.messages] == [1, 4]

    async def test_a_long_hole_does_not_end_the_history(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(1_205)))
        await vanish(store, *range(3, 1_204))
        page = await store.log.history(ROOM, GRACE, before=1_204, limit=50)
        assert [row.seq for row in page.messages] == [1, 2]
        assert not page.more

    async def test_history_begins_at_the_joining_except_in_open_rooms(self, store: Store) -> None:
        await accept(store, message("before"))
        await store.members.join(ROOM, [STRANGER])
        await accept(store, message("after"))
        closed = await store.log.history(ROOM, STRANGER, before=9)
        open_ = await store.log.history(ROOM, STRANGER, before=9, open_history=True)
        assert [row.body for row in closed.messages] == ["after"]
        assert [row.body for row in open_.messages] == ["before", "after"]

    async def test_non_member_reads_no_history(self, store: Store) -> None:
        await accept(store)
        with pytest.raises(NotMember):
            await store.log.history(ROOM, STRANGER, before=9, open_history=True)


class TestAcknowledge:
    async def test_ack_raises_a_cursor_and_never_lowers_it(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)))
        assert [await acknowledge(store, GRACE, seq) for seq in (2, 2, 1, 3)] == [1, 0, 0, 1]
        assert await cursors(store, GRACE) == (3, 0)

    async def test_second_ack_changes_nothing(self, store: Store) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1, 1)
        before = await dump(store)
        assert await acknowledge(store, GRACE, 1, 1) == 0
        assert await dump(store) == before

    async def test_two_devices_of_one_user_share_a_cursor(self, store: Store) -> None:
        await accept(store, message(), message())
        await acknowledge(store, GRACE, 1)  # one device
        await acknowledge(store, GRACE, 2)  # the other
        assert await missing(store, 1) == await missing(store, 2) == {ALAN: "offline"}

    @pytest.mark.parametrize(("delivered", "seen"), [(2, None), (None, 2), (1, 2), (2, 1), (2**53 - 1, None)])
    async def test_ack_above_top_is_refused_as_a_whole(
        self, store: Store, delivered: int | None, seen: int | None
    ) -> None:
        await accept(store)
        before = await dump(store)
        assert await acknowledge(store, GRACE, delivered, seen) == -5
        assert await dump(store) == before

    async def test_read_is_cut_to_delivered(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)))
        await acknowledge(store, GRACE, 1)
        await acknowledge(store, GRACE, None, 3)
        assert await cursors(store, GRACE) == (1, 1)
        await acknowledge(store, GRACE, 2, 3)
        assert await cursors(store, GRACE) == (2, 2)

    async def test_each_of_a_batch_has_its_own_answer(self, store: Store) -> None:
        [here, there] = await accept(store, message(), message(room=FAR_AWAY))
        answers = await store.cursors.acknowledge(
            [
                AckRow(ROOM, here.epoch, GRACE, 1, None),
                AckRow(FAR_AWAY, there.epoch, ALAN, 9, None),
                AckRow(ROOM, "other", ALAN, 1, None),
                AckRow(RoomKey("none", 7), here.epoch, GRACE, 1, None),
                AckRow(ROOM, here.epoch, STRANGER, None, 1),
                AckRow(FAR_AWAY, there.epoch, GRACE, 1, 1),
            ]
        )
        assert answers == [1, -5, -3, -1, -2, 1]
        assert await missing(store, 1) == {ALAN: "offline"}

    async def test_only_an_ack_that_moves_the_cursor_clears_the_attempts(self, store: Store) -> None:
        await accept(store, message(), message())
        await acknowledge(store, GRACE, 1)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        await acknowledge(store, GRACE, 1, 1)
        assert await store.client.hexists(f"{ROOM.key}:attempts", str(GRACE))
        await acknowledge(store, GRACE, 2)
        assert not await store.client.hexists(f"{ROOM.key}:attempts", str(GRACE))

    async def test_moved_cursors_are_published_only_when_they_moved(self, store: Store) -> None:
        await accept(store)
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            await acknowledge(store, GRACE, 1)
            await acknowledge(store, GRACE, 1)
            await accept(store, message("after"))
            assert await heard(pubsub) == "A 0"
            assert (await heard(pubsub)).startswith("M ")


class TestStandings:
    async def test_standing_has_the_position_of_a_member(self, store: Store) -> None:
        [first, *_] = await accept(store, *(message() for _ in range(4)), message(user=GRACE))
        await acknowledge(store, GRACE, 3, 1)
        for _ in range(2):
            assert await standing(store, GRACE) == MemberPosition(
                first.epoch, 5, 0, 0, 3, 1, 0, 3, frozenset({ADA, GRACE, ALAN})
            )

    async def test_a_since_above_the_cursor_counts_as_an_ack(self, store: Store) -> None:
        [accepted, _] = await accept(store, message(), message())
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        assert (await standing(store, GRACE, epoch=accepted.epoch, since=1)).delivered == 1
        assert not await store.client.hexists(f"{ROOM.key}:attempts", str(GRACE))
        assert (await standing(store, GRACE, epoch=accepted.epoch, since=0)).delivered == 1

    @pytest.mark.parametrize(("epoch", "since"), [("other", 1), (None, 3)])
    async def test_a_since_of_another_epoch_or_above_top_does_not(
        self, store: Store, epoch: str | None, since: int
    ) -> None:
        [accepted, _] = await accept(store, message(), message())
        assert (await standing(store, GRACE, epoch=epoch or accepted.epoch, since=since)).delivered == 0

    async def test_a_member_unknown_to_the_log_joins_it(self, store: Store) -> None:
        async def with_a_newcomer(room: str) -> list[int]:
            return [*await members_of(room), STRANGER]

        await accept(store)
        store.members.members_of = with_a_newcomer
        result = await standing(store, STRANGER)
        assert (result.delivered, result.joined, result.unread) == (1, 1, 0)

    async def test_non_member_in_store_and_database_stays_out(self, store: Store) -> None:
        await accept(store)
        for _ in range(2):
            assert await store.members.member_positions(STRANGER, [(ROOM, Held())]) == [None]
            assert await cursors(store, STRANGER) == (None, None)

    async def test_a_room_without_a_log_gets_one(self, store: Store) -> None:
        assert (await standing(store, GRACE)).top == 0
        await accept(store)
        assert set(await missing(store, 1)) == {GRACE, ALAN}

    async def test_unread_counts_live_messages_of_others_after_the_joining(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(3)), message(user=GRACE))
        await store.members.join(ROOM, [STRANGER])
        await accept(store, message(), message())
        await expire(store, 2, 6)
        await vanish(store, 3)
        assert (await standing(store, GRACE)).unread == 2
        assert (await standing(store, STRANGER)).unread == 1

    async def test_unread_stops_at_a_hundred(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(120)))
        assert (await standing(store, GRACE)).unread == 100


class TestReceipts:
    async def test_receipts_count_the_members_who_owe_it(self, store: Store) -> None:
        await accept(store, message(), message(user=GRACE), message())
        await acknowledge(store, GRACE, 3, 1)
        await acknowledge(store, ALAN, 1)
        for _ in range(2):
            [(_, rows)] = await store.cursors.receipts([(ROOM, ADA)])
            assert rows == [(1, 2, 1, 2), (3, 1, 0, 2)]

    async def test_receipts_of_many_senders_count_above_the_seq_of_each(self, store: Store) -> None:
        await accept(
            store, message(), message(user=GRACE), message(), message(user=GRACE), message(user=ALAN)
        )
        await acknowledge(store, GRACE, 4, 3)
        await acknowledge(store, ALAN, 2)
        asked = [(ROOM, ADA), (ROOM, GRACE), (ROOM, STRANGER), (RoomKey("other", 1), ADA), (ROOM, ALAN)]
        counted = await store.cursors.receipts(asked, above=[1, 0, 0, 0, 5])
        [place] = await store.log.positions([ROOM])
        assert place is not None
        epoch = place.epoch
        assert counted == [
            (epoch, [(3, 1, 1, 2)]),
            (epoch, [(2, 1, 0, 2), (4, 0, 0, 2)]),
            (epoch, []),
            ("", []),
            (epoch, []),
        ]

    async def test_count_of_one_sender_does_not_limit_that_of_another(self, store: Store) -> None:
        many = message(user=ADA)
        await accept(
            store, msgspec.structs.replace(message(user=GRACE), only=(ALAN,)), message(user=GRACE), many
        )
        await accept(store, msgspec.structs.replace(message(user=ADA), only=tuple(range(100_000, 102_500))))
        await acknowledge(store, ALAN, 4)
        outcomes = {f"2|{ADA}|client_rejected|1": 2}
        outcomes |= {f"3|{user}|client_rejected|1": 3 for user in range(1_000, 1_301)}
        await store.client.zadd(f"{ROOM.key}:outcome", outcomes)
        together = await store.cursors.receipts([(ROOM, ADA), (ROOM, GRACE)])
        assert together == [
            *await store.cursors.receipts([(ROOM, ADA)]),
            *await store.cursors.receipts([(ROOM, GRACE)]),
        ]
        assert [row[0] for row in together[1][1]] == [1, 2]

    async def test_senders_above_the_limit_of_one_call_are_all_counted(self, store: Store) -> None:
        users = list(range(STRANGER, STRANGER + 2 * SENDER_BATCH + 1))
        await store.members.create_log(ROOM)
        await store.members.join(ROOM, users)
        await accept(store, *(message(user=user) for user in users))
        counted = await store.cursors.receipts([(ROOM, user) for user in users])
        assert [[row[0] for row in rows] for _, rows in counted] == [[n + 1] for n in range(len(users))]

    async def test_late_joiners_do_not_count(self, store: Store) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        await acknowledge(store, STRANGER, 1, 1)
        [(_, rows)] = await store.cursors.receipts([(ROOM, ADA)])
        assert rows == [(1, 0, 0, 2)]

    async def test_member_who_passed_over_it_does_not_hold_it(self, store: Store) -> None:
        await accept(store)
        await expire(store, 1)
        await read(store, GRACE)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        await read(store, GRACE)  # remembered again, with another reason
        await acknowledge(store, GRACE, 1, 1)
        await acknowledge(store, ALAN, 1)
        [(_, rows)] = await store.cursors.receipts([(ROOM, ADA)])
        assert rows == [(1, 1, 0, 2)], "alan holds it, unread; grace never saw it"

    async def test_single_member_has_no_receipts(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        await store.members.leave(ROOM, GRACE)
        await store.members.leave(ROOM, ALAN)
        await accept(store)
        [(_, rows)] = await store.cursors.receipts([(ROOM, ADA)])
        assert rows == []

    async def test_a_room_without_a_log_has_none(self, store: Store) -> None:
        assert await store.cursors.receipts([(ROOM, ADA)]) == [("", [])]


class TestRecipients:
    async def test_members_who_lack_it_are_named_first(self, store: Store) -> None:
        [accepted] = await accept(store)
        await acknowledge(store, GRACE, 1, 1)
        for _ in range(2):
            result = await store.cursors.recipients(ROOM, 1)
            assert [(row.user, row.state) for row in result.members] == [(ALAN, "waiting"), (GRACE, "read")]
            assert (result.total, result.delivered, result.read) == (2, 1, 1)
            assert (result.sender, result.expires_at) == (ADA, accepted.expires_at)

    async def test_recipients_have_the_time_of_the_next_attempt(self, store: Store) -> None:
        await accept(store)
        await store.retries.record_attempt(ROOM, GRACE, 0, 7.0)
        waiting = {row.user: row for row in (await store.cursors.recipients(ROOM, 1)).members}
        assert waiting[GRACE].attempts == 1
        assert waiting[GRACE].next_at_ms is not None
        assert 0 < waiting[GRACE].next_at_ms - await store.now_ms() <= 7_000
        assert (waiting[ALAN].attempts, waiting[ALAN].next_at_ms) == (0, None)

    @pytest.mark.parametrize("end", [expire, vanish])
    async def test_expired_message_has_no_recipients(self, store: Store, end: object) -> None:
        await accept(store)
        await end(store, 1)  # type: ignore[operator]
        for seq in (1, 2):
            with pytest.raises(NoSuchMessage):
                await store.cursors.recipients(ROOM, seq)


class TestOwing:
    async def owing(self, store: Store, *users: int, mark: int | None = None) -> dict[int, int]:
        [place] = await store.log.positions([ROOM])
        assert place is not None
        return {
            row.user: row.cursor for row in await store.retries.owing(ROOM, place.epoch, users, mark=mark)
        }

    async def test_live_message_of_another_member_above_the_cursor_is_owed(self, store: Store) -> None:
        await accept(store, message(), message(user=GRACE))
        await acknowledge(store, ALAN, 2)
        for _ in range(2):
            assert await self.owing(store, ADA, GRACE, ALAN, STRANGER) == {ADA: 1, GRACE: 0}

    async def test_only_messages_at_or_below_the_mark_are_owed(self, store: Store) -> None:
        await accept(store, message(), message())
        await acknowledge(store, GRACE, 1)
        assert await self.owing(store, GRACE, ALAN, mark=1) == {ALAN: 0}

    @pytest.mark.parametrize("end", [expire, vanish])
    async def test_expired_message_is_not_owed(self, store: Store, end: object) -> None:
        await accept(store, message(), message())
        await end(store, 1, 2)  # type: ignore[operator]
        assert await self.owing(store, GRACE, ALAN) == {}

    async def test_owed_message_is_found_after_a_long_hole(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(350)))
        await expire(store, *range(1, 350))
        assert await self.owing(store, GRACE) == {GRACE: 0}

    async def test_sender_owes_messages_of_others_only(self, store: Store) -> None:
        await accept(store, message(user=GRACE), message(user=ADA), message(user=ADA))
        assert await self.owing(store, ADA, GRACE) == {ADA: 0, GRACE: 1}
        await expire(store, 1)
        assert await self.owing(store, ADA, GRACE) == {GRACE: 1}

    async def test_member_far_below_a_very_long_hole_counts_as_owing(self, store: Store) -> None:
        """A connected member has not acknowledged a thousand messages: without this rule the pushes would stop."""
        await accept(store, *(message() for _ in range(1_100)))
        await expire(store, *range(2, 1_101))
        await acknowledge(store, ALAN, 150)
        assert await self.owing(store, GRACE, ALAN) == {GRACE: 0}

    async def test_messages_of_another_epoch_are_not_owed(self, store: Store) -> None:
        await accept(store)
        assert await store.retries.owing(ROOM, "other", [GRACE]) == []


class TestRecordAttempt:
    async def test_only_the_first_of_two_counts(self, store: Store) -> None:
        await accept(store)
        both = await asyncio.gather(*(store.retries.record_attempt(ROOM, GRACE, 0, 5.0) for _ in range(2)))
        assert sorted(both) == [False, True]
        assert [await store.retries.record_attempt(ROOM, GRACE, n, 5.0) for n in (0, 2, 1)] == [
            False,
            False,
            True,
        ]

    async def test_time_of_the_first_attempt_stays(self, store: Store) -> None:
        await accept(store)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        _, first_at, *_ = (await store.client.hget(f"{ROOM.key}:attempts", str(GRACE))).split(b"|")
        await store.retries.record_attempt(ROOM, GRACE, 1, 5.0)
        n, again, *_ = (await store.client.hget(f"{ROOM.key}:attempts", str(GRACE))).split(b"|")
        assert (n, again) == (b"2", first_at)

    async def test_last_attempt_gives_up(self, store: Store) -> None:
        await accept(store)
        most = store.policy.attempts_max
        for n in range(most):
            assert await store.retries.record_attempt(ROOM, GRACE, n, 5.0)
        waiting = {row.user: row for row in (await store.cursors.recipients(ROOM, 1)).members}
        assert (waiting[GRACE].attempts, waiting[GRACE].reason) == (most, "no_ack")

    async def test_attempt_for_a_member_who_left_is_not_counted(self, store: Store) -> None:
        await accept(store)
        await store.members.leave(ROOM, GRACE)
        assert not await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        assert not await store.client.exists(f"{ROOM.key}:attempts")


class TestMissing:
    async def test_every_member_is_named_once_and_the_sender_never(self, store: Store) -> None:
        await accept(store, message(), message(user=GRACE))
        await store.retries.record_attempt(ROOM, ALAN, 0, 5.0)
        for _ in range(2):
            assert await missing(store, 1) == {GRACE: "offline", ALAN: "no_ack"}
            assert await missing(store, 2) == {ADA: "offline", ALAN: "no_ack"}

    async def test_member_who_passed_it_over_and_left_is_named_once(self, store: Store) -> None:
        await accept(store)
        await expire(store, 1)
        await read(store, GRACE)
        await store.members.leave(ROOM, GRACE)
        assert await missing(store, 1) == {GRACE: "offline", ALAN: "offline"}

    async def test_missing_hash_hides_no_member(self, store: Store) -> None:
        await accept(store)
        await vanish(store, 1)
        assert set(await missing(store, 1)) == {GRACE, ALAN}

    async def test_unknown_seq_has_no_missing_members(self, store: Store) -> None:
        await accept(store)
        assert await missing(store, 2) == {}


class TestPresence:
    async def test_presence_is_the_union_of_the_reports_of_all_processes(self, store: Store) -> None:
        await store.presence.report("one", [ADA, GRACE], 60)
        await store.presence.report("two", [GRACE], 60)
        await store.presence.change("two", ALAN, True, [ROOM.id])
        await store.presence.change("one", ADA, False, [ROOM.id])
        assert await store.presence.online() == {"one": {GRACE}, "two": {GRACE, ALAN}}

    async def test_a_process_that_is_silent_too_long_does_not_count(self, store: Store) -> None:
        await store.presence.report("gone", [ADA], 60)
        await store.client.zadd("chat:online", {"gone": await store.now_ms() - 1})
        assert await store.presence.online() == {}

    async def test_an_ended_process_does_not_count(self, store: Store) -> None:
        await store.presence.report("one", [ADA, GRACE], 60)
        await store.presence.report("two", [GRACE], 60)
        await store.presence.withdraw("one")
        assert await store.presence.online() == {"two": {GRACE}}
        assert await store.client.exists("chat:online:one") == 0


class TestResendToSome:
    """A message for some members only, here for grace. The field `only` decides in every operation."""

    @pytest.fixture
    async def resent(self, store: Store) -> Store:
        await accept(store, message("to all"), message("to grace"))
        await store.client.hset(f"{ROOM.key}:only", "2", str(GRACE))
        return store

    async def test_other_members_read_over_it(self, resent: Store) -> None:
        slice_ = await read(resent, ALAN)
        assert [row.seq for row in slice_.messages] == [1]
        assert (slice_.gone, slice_.upto) == ([(2, "not_for_you")], 2)
        assert [row.seq for row in (await resent.log.history(ROOM, ALAN, before=9)).messages] == [1]

    @pytest.mark.parametrize("user", [ADA, GRACE])
    async def test_sender_and_recipients_read_it(self, resent: Store, user: int) -> None:
        assert [row.seq for row in (await read(resent, user)).messages] == [1, 2]
        assert [row.seq for row in (await resent.log.history(ROOM, user, before=9)).messages] == [1, 2]

    async def test_other_members_do_not_owe_it(self, resent: Store) -> None:
        await acknowledge(resent, ALAN, 1)
        await acknowledge(resent, GRACE, 1)
        [place] = await resent.log.positions([ROOM])
        assert place is not None
        assert [row.user for row in await resent.retries.owing(ROOM, place.epoch, [ADA, GRACE, ALAN])] == [
            GRACE
        ]
        assert await missing(resent, 2) == {GRACE: "offline"}
        assert [(await standing(resent, user)).unread for user in (GRACE, ALAN)] == [2, 1]

    async def test_expiry_is_remembered_for_its_recipients(self, resent: Store) -> None:
        await expire(resent, 2)
        for user in (GRACE, ALAN):
            await read(resent, user)
            await acknowledge(resent, user, 2)
        assert await missing(resent, 2) == {GRACE: "offline"}

    async def test_receipts_count_its_recipients(self, resent: Store) -> None:
        await acknowledge(resent, ALAN, 2, 2)
        [(_, rows)] = await resent.cursors.receipts([(ROOM, ADA)])
        assert rows == [(1, 1, 1, 2), (2, 0, 0, 1)]
        assert [row.user for row in (await resent.cursors.recipients(ROOM, 2)).members] == [GRACE]


async def test_two_stores_of_one_server_share_the_log(store: Store) -> None:
    other = Store(store.client, store.policy, members_of=members_of)
    await accept(store, message("a"))
    await accept(other, message("b"))
    assert [row.body for row in (await read(store, GRACE)).messages] == ["a", "b"]
    assert other.life == store.life != ""
