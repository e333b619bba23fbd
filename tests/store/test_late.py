"""Messages that reach a device only after their end: their acknowledgement counts as missed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from messaging.store import Store
from messaging.store.records import AckRow, Held
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    ROOM,
    accept,
    acknowledge,
    cursors,
    due,
    expire,
    message,
    missing,
    read,
)

Acknowledge = Callable[..., Awaitable[None]]


async def by_ack(
    store: Store, user: int, seq: int, *, late: tuple[int, ...] = (), judged: bool = False
) -> None:
    assert await acknowledge(store, user, seq, late=late, judged=judged) == 1


async def by_hello(
    store: Store, user: int, seq: int, *, late: tuple[int, ...] = (), judged: bool = False
) -> None:
    [place] = await store.log.positions([ROOM])
    assert place is not None
    held = Held(place.epoch, seq, late, judged)
    [position] = await store.members.member_positions(user, [(ROOM, held)])
    assert position is not None
    assert position.delivered == seq


either_way = pytest.mark.parametrize("say", [by_ack, by_hello])


@either_way
async def test_an_acknowledgement_after_the_end_counts_as_missed(store: Store, say: Acknowledge) -> None:
    for _ in range(3):
        await accept(store)
    await expire(store, 2)
    await say(store, GRACE, 3)
    assert await missing(store, 1) == {ALAN: "offline"}
    assert await missing(store, 2) == {ALAN: "offline", GRACE: "late"}
    assert await missing(store, 3) == {ALAN: "offline"}


@either_way
async def test_client_that_judges_is_believed(store: Store, say: Acknowledge) -> None:
    """It may have shown a message in time although its acknowledgement comes after the end."""
    await accept(store)
    await accept(store)
    await expire(store, 1, 2)
    await say(store, GRACE, 2, late=(2,), judged=True)
    assert await missing(store, 1) == {ALAN: "offline"}
    assert await missing(store, 2) == {ALAN: "offline", GRACE: "late"}


@either_way
async def test_late_message_may_still_live_by_the_clock_of_the_store(store: Store, say: Acknowledge) -> None:
    await accept(store)
    await say(store, GRACE, 1, late=(1,), judged=True)
    recipients = await store.cursors.recipients(ROOM, 1)
    assert {row.user: (row.state, row.reason) for row in recipients.members} == {
        ALAN: ("waiting", None),
        GRACE: ("delivered", None),
    }
    await expire(store, 1)
    assert await missing(store, 1) == {ALAN: "offline", GRACE: "late"}


async def test_another_device_that_had_it_in_time_counts(store: Store) -> None:
    await accept(store)
    await acknowledge(store, GRACE, 1)
    await expire(store, 1)
    assert await acknowledge(store, GRACE, 1, late=(1,), judged=True) == 0
    assert await missing(store, 1) == {ALAN: "offline"}


@either_way
async def test_an_end_that_a_job_has_claimed_is_noticed(store: Store, say: Acknowledge) -> None:
    """A claim moves the row of the message into the future."""
    await accept(store)
    await expire(store, 1)
    await due(store, 1)
    [claimed] = await store.expiry.claim("a worker")
    await say(store, GRACE, 1)
    [record] = await store.expiry.read([claimed])
    assert {missed.user: missed.reason for missed in record.missed} == {ALAN: "offline", GRACE: "late"}


async def test_acknowledgement_after_leaving_and_after_the_end_counts_as_missed(store: Store) -> None:
    await accept(store)
    await expire(store, 1)
    await store.members.leave(ROOM, GRACE)
    assert await acknowledge(store, GRACE, 1, judged=False) == 1
    assert await missing(store, 1) == {ALAN: "offline", GRACE: "late"}


async def test_nobody_gets_late_what_they_do_not_owe(store: Store) -> None:
    await accept(store, message(user=GRACE))
    await accept(store, msgspec.structs.replace(message(), tracked=False))
    await accept(store, msgspec.structs.replace(message(), only=(ALAN,)))
    await expire(store, 1, 2, 3)
    await acknowledge(store, GRACE, 3, late=(1, 2, 3), judged=False)
    assert await store.client.zcard(f"{ROOM.key}:outcome") == 0


async def test_any_number_of_ended_messages_is_recorded(store: Store) -> None:
    """In several calls, each of which reads a limited number of messages."""
    answers = await store.log.append([message() for _ in range(1_200)])
    assert len(answers) == 1_200
    await expire(store, *range(1, 1_201))
    [place] = await store.log.positions([ROOM])
    assert place is not None
    rows = [AckRow(ROOM, place.epoch, user, 1_200, None) for user in (GRACE, ALAN)]
    assert await store.cursors.acknowledge(rows) == [1, 1]
    assert await cursors(store, GRACE) == (1_200, 0)
    for seq in (1, 500, 501, 1_000, 1_001, 1_200):
        assert await missing(store, seq) == {GRACE: "late", ALAN: "late"}


async def test_message_that_a_read_has_omitted_is_recorded_once(store: Store) -> None:
    await accept(store)
    await expire(store, 1)
    await read(store, GRACE)
    await acknowledge(store, GRACE, 1, judged=False)
    assert await store.client.zrange(f"{ROOM.key}:outcome", 0, -1) == [b"1|2|offline|0"]


async def test_sender_is_not_named(store: Store) -> None:
    await accept(store)
    await expire(store, 1)
    await acknowledge(store, ADA, 1, judged=False)
    assert ADA not in await missing(store, 1)
