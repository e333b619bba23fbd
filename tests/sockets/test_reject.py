"""A message that a client cannot show: an outcome, reported by name, and never pushed again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from messaging.store import Store
from messaging.store.records import Counts, Read, Slice
from tests.support.clients import Frame, Wire, new_id
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    ROOM,
    accept,
    acknowledge,
    dump,
    expire,
    message,
    missing,
    read,
)
from tests.support.sites import Person, Site, later, people, room

STRANGER = 9


async def reject(store: Store, user: int, seq: int) -> bool:
    [place] = await store.log.positions([ROOM])
    assert place is not None
    return await store.cursors.reject(ROOM, user, place.epoch, seq)


async def owing(store: Store, *users: int) -> set[int]:
    [place] = await store.log.positions([ROOM])
    assert place is not None
    return {row.user for row in await store.retries.owing(ROOM, place.epoch, users or (ADA, GRACE, ALAN))}


async def outcomes(store: Store) -> list[str]:
    return [row.decode() for row in await store.client.zrange(f"{ROOM.key}:outcome", 0, -1)]


async def today(store: Store) -> Counts:
    [counted] = await store.stats.counts("day", 1)
    return counted


class TestOutcome:
    async def test_a_rejection_is_written_once_for_each_member(self, store: Store) -> None:
        await accept(store)
        assert await reject(store, GRACE, 1)
        before = await dump(store)
        assert not await reject(store, GRACE, 1)
        assert await dump(store) == before
        assert await reject(store, ALAN, 1)
        assert await outcomes(store) == ["1|2|client_rejected|0", "1|3|client_rejected|0"]
        assert (await today(store)).rejected == 2

    async def test_a_rejection_after_an_attempt_has_their_number_and_stays_one(self, store: Store) -> None:
        await accept(store)
        assert await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        assert await reject(store, GRACE, 1)
        assert await store.retries.record_attempt(ROOM, GRACE, 1, 5.0)
        assert not await reject(store, GRACE, 1)
        assert await outcomes(store) == ["1|2|client_rejected|1"]

    async def test_holds_though_the_cursor_is_above_it_already(self, store: Store) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1)
        assert await missing(store, 1) == {ALAN: "offline"}
        assert await reject(store, GRACE, 1)
        assert await missing(store, 1) == {ALAN: "offline", GRACE: "client_rejected"}

    async def test_rejection_is_the_reason_although_attempts_were_made(self, store: Store) -> None:
        await accept(store)
        await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
        await reject(store, GRACE, 1)
        assert (await missing(store, 1))[GRACE] == "client_rejected"

    async def test_sender_is_notified_and_sees_the_names(self, store: Store) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1, 1)
        await acknowledge(store, ALAN, 1)
        await reject(store, GRACE, 1)
        assert (await store.cursors.receipts([(ROOM, ADA)]))[0][1] == [(1, 1, 0, 2)]
        found = await store.cursors.recipients(ROOM, 1)
        assert (found.total, found.delivered) == (2, 1)
        rows = {row.user: (row.state, row.reason, row.next_at_ms) for row in found.members}
        assert rows == {GRACE: ("waiting", "client_rejected", None), ALAN: ("delivered", None, None)}

    async def test_rejections_by_many_members_have_the_same_reason(self, store: Store) -> None:
        async def many(room: str) -> list[int]:
            return list(range(1, 401))

        store.members.members_of = many
        await accept(store)
        await asyncio.gather(*(reject(store, user, 1) for user in range(2, 401)))
        await asyncio.gather(*(acknowledge(store, user, 1) for user in range(52, 401)))
        found = await store.cursors.recipients(ROOM, 1)
        assert (found.total, found.delivered, len(found.members)) == (399, 0, 100)
        assert {(row.state, row.reason) for row in found.members} == {("waiting", "client_rejected")}
        assert {row.user for row in found.members} >= set(range(2, 52)), "who lacks it altogether comes first"

    async def test_a_member_who_left_and_joined_again_is_not_counted_against_the_others(
        self, store: Store
    ) -> None:
        await accept(store)
        await acknowledge(store, GRACE, 1)
        await acknowledge(store, ALAN, 1)
        await reject(store, GRACE, 1)
        await store.members.leave(ROOM, GRACE)
        await store.members.join(ROOM, [GRACE])
        assert (await store.cursors.receipts([(ROOM, ADA)]))[0][1] == [(1, 1, 0, 1)]

    @pytest.mark.parametrize(("user", "seq"), [(ADA, 1), (STRANGER, 1), (GRACE, 2), (GRACE, 0)])
    async def test_only_of_a_message_that_the_member_owes(self, store: Store, user: int, seq: int) -> None:
        await accept(store)
        assert not await reject(store, user, seq)
        assert await outcomes(store) == []

    async def test_message_from_before_the_joining_is_refused(self, store: Store) -> None:
        await accept(store)
        await store.members.join(ROOM, [STRANGER])
        assert not await reject(store, STRANGER, 1)

    async def test_message_sent_to_others_only_is_refused(self, store: Store) -> None:
        await accept(store)
        await store.client.hset(f"{ROOM.key}:only", "1", str(ALAN))
        assert not await reject(store, GRACE, 1)
        assert await reject(store, ALAN, 1)

    async def test_message_of_another_epoch_is_refused(self, store: Store) -> None:
        await accept(store)
        assert not await store.cursors.reject(ROOM, GRACE, "another", 1)
        assert await outcomes(store) == []


class TestNeverRetried:
    async def test_a_member_who_rejected_all_missing_messages_owes_nothing(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        await reject(store, GRACE, 2)
        assert await owing(store) == {GRACE, ALAN}
        await reject(store, GRACE, 1)
        assert await owing(store) == {ALAN}
        await accept(store)
        assert await owing(store) == {GRACE, ALAN}

    async def test_own_messages_and_those_for_others_are_skipped_too(self, store: Store) -> None:
        await accept(store, message("a"), message("b", user=GRACE), message("c"))
        await store.client.hset(f"{ROOM.key}:only", "3", f"{GRACE},{ALAN}")
        for seq in (1, 3):
            await reject(store, GRACE, seq)
        assert await owing(store, GRACE) == set()
        assert await owing(store) == {ADA, ALAN}

    async def test_many_members_who_rejected_the_newest_owe_nothing(self, store: Store) -> None:
        async def many(room: str) -> list[int]:
            return list(range(1, 501))

        store.members.members_of = many
        await accept(store, message("a"), message("b"))
        await asyncio.gather(*(reject(store, user, 2) for user in range(2, 501)))
        await asyncio.gather(*(acknowledge(store, user, 1) for user in range(2, 401)))
        assert await owing(store, *range(2, 501)) == set(range(401, 501))

    async def test_member_past_the_limit_of_reads_counts_as_owing(self, store: Store) -> None:
        await store.members.create_log(ROOM)
        for _ in range(11):
            await accept(store, *(message() for _ in range(100)))
        for seq in range(1, 1_101):
            await reject(store, GRACE, seq)
        assert await owing(store, GRACE) == {GRACE}
        await acknowledge(store, GRACE, 500)
        assert await owing(store, GRACE) == set()

    async def test_retry_reads_only_owed_messages_and_a_resume_reads_all(self, store: Store) -> None:
        epoch = (await accept(store, message("a"), message("b")))[0].epoch
        await reject(store, GRACE, 1)
        again = Read(room=ROOM, epoch=epoch, since=0, again=True)
        [found] = await store.log.read_after(GRACE, [again])
        assert isinstance(found, Slice)
        assert [row.body for row in found.messages] == ["b"]
        assert [row.body for row in (await read(store, GRACE)).messages] == ["a", "b"]

    async def test_expiry_adds_no_second_name(self, store: Store) -> None:
        await accept(store)
        await reject(store, GRACE, 1)
        await expire(store, 1)
        await read(store, GRACE)
        await acknowledge(store, GRACE, 1)
        assert await missing(store, 1) == {GRACE: "client_rejected", ALAN: "offline"}


# Over a real socket


Open = Callable[..., Any]


async def talk(site: Site, open_wire: Open) -> tuple[str, Wire, Wire, Person]:
    """Let ada and grace open a socket each in a room of theirs."""
    ada, grace = await later(people)("ada", "grace")
    room_id = await later(room)(ada, grace)
    wires = []
    for member in (ada, grace):
        wire = await open_wire(site, member)
        await wire.hello()
        await wire.next("resumed", room=room_id)
        wires.append(wire)
    return room_id, wires[0], wires[1], grace


def rejection(frame: Frame, **changes: Any) -> Frame:
    own = {"type": "reject", "room": frame["room"], "epoch": frame["epoch"], "seq": frame["seq"]}
    return own | {"reason": "unreadable"} | changes


async def send(wire: Wire, room_id: str) -> Frame:
    await wire.send({"type": "send", "id": new_id(), "room": room_id, "body": "x"})
    return await wire.next("sent", room=room_id)


async def test_a_rejection_is_not_answered_and_reaches_the_sender_as_a_receipt(
    site: Site, open_wire: Open
) -> None:
    room_id, ada, grace, _ = await talk(site, open_wire)
    await send(ada, room_id)
    pushed = await grace.next("message", room=room_id)
    seq = pushed["seq"]
    await grace.send(
        {"type": "ack", "rooms": [{"room": room_id, "epoch": pushed["epoch"], "delivered": seq}]}
    )
    await ada.next("receipt", receipts=[[seq, 1, 0, 1]])
    before = len(grace.frames)
    await grace.send(rejection(pushed))
    await ada.next("receipt", receipts=[[seq, 0, 0, 1]])
    await grace.fence()
    assert [frame["type"] for frame in grace.frames[before:]] == ["pong"]


async def test_a_rejection_of_a_message_that_is_not_owed_is_ignored(site: Site, open_wire: Open) -> None:
    room_id, ada, grace, _ = await talk(site, open_wire)
    await send(ada, room_id)
    pushed = await grace.next("message", room=room_id)
    before = len(grace.frames)
    await grace.send(
        rejection(pushed, room="elsewhere"), rejection(pushed, epoch="another"), rejection(pushed, seq=99)
    )
    await grace.fence()
    assert [frame["type"] for frame in grace.frames[before:]] == ["pong"]


async def test_a_rejection_without_its_fields_is_a_bad_frame(site: Site, open_wire: Open) -> None:
    room_id, ada, grace, _ = await talk(site, open_wire)
    await send(ada, room_id)
    pushed = await grace.next("message", room=room_id)
    for field in ("room", "epoch", "seq", "reason"):
        frame = rejection(pushed)
        del frame[field]
        await grace.send(frame)
        refused = await grace.next("error", of="reject")
        assert refused["code"] == "bad_frame"


async def test_client_that_rejects_too_fast_must_wait(site: Site, open_wire: Open) -> None:
    room_id, ada, grace, _ = await talk(site, open_wire)
    await send(ada, room_id)
    pushed = await grace.next("message", room=room_id)
    for _ in range(3):
        await grace.send(*[rejection(pushed)] * 100)
    refused = await grace.next("error", of="reject")
    assert (refused["code"], refused["room"], refused["seq"]) == ("rate_limited", room_id, pushed["seq"])


async def test_a_rejected_message_is_not_pushed_again_and_the_next_one_is(
    new_site: Callable[..., Site], open_wire: Open
) -> None:
    site = new_site(ack_timeout_s=0.2, backoff_cap_s=0.3, receipt_interval_s=0.1)
    room_id, ada, grace, _ = await talk(site, open_wire)
    await send(ada, room_id)
    first = await grace.next("message", room=room_id)
    await grace.send(rejection(first))
    await send(ada, room_id)
    second = await grace.next("message", room=room_id, seq=first["seq"] + 1)
    again = await grace.next("message", attempt=2)
    assert again["seq"] == second["seq"]
    assert [
        frame["seq"] for frame in grace.heard("message") if "attempt" in frame and frame["attempt"] > 1
    ] == [second["seq"]]
