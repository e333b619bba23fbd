"""The lists of staff: the same rows as a walk over all entries, in a few round trips for every page."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.models import PARTITIONS
from messaging.store import Store
from messaging.store.lists import _narrow, _pivots
from messaging.store.records import RoomKey, partition_prefix
from tests.support.messages import ADA, GRACE, ROOM, accept, acknowledge, message


async def scattered(store: Store, rows: int) -> list[tuple[int, int, str]]:
    """Put rows with few and many ties into the index of lagging members; return them in their order."""
    found = []
    commands: list[tuple[Any, ...]] = []
    for number in range(rows):
        partition = number * 7 % PARTITIONS
        score = 1_795_000_000_000 + (number % 5) * 3_600_000 + (number if number % 3 else 0)
        found.append((score, partition, f"room{number}"))
        commands.append(("ZADD", f"{partition_prefix(partition)}unacked", score, f"room{number}"))
    await store.scripts.pipeline(commands)
    return sorted(found)


@pytest.mark.parametrize("rows", [0, 1, 2, 400])
async def test_pages_over_all_rooms_are_the_slices_of_the_whole(store: Store, rows: int) -> None:
    whole = [RoomKey(name, partition) for _, partition, name in await scattered(store, rows)]
    assert await store.lists.count_lagging_rooms() == rows
    for size in (max(1, rows // 9), 1_000):
        pages = [await store.lists.lagging_rooms(at, at + size) for at in range(0, rows, size)]
        assert [room for page in pages for room, _ in page] == whole
    assert await store.lists.lagging_rooms(rows, rows + 10) == []


async def test_the_last_page_takes_no_more_round_trips_than_the_first(store: Store) -> None:
    await scattered(store, 400)
    trips = []
    asked = store.scripts.pipeline

    async def counted(commands: list[tuple[Any, ...]]) -> list[Any]:
        trips.append(len(commands))
        return await asked(commands)

    store.scripts.pipeline = counted  # type: ignore[method-assign,assignment]
    most = 0
    for at in (0, 150, 350):
        trips.clear()
        assert len(await store.lists.lagging_rooms(at, at + 50)) == 50
        most = max(most, len(trips))
    assert most <= 10


@given(st.lists(st.integers(0, 2**42), min_size=1, max_size=50), st.data())
def test_counting_at_pivots_finds_the_score_of_every_rank(scores: list[int], data: st.DataObject) -> None:
    scores.sort()
    rank = data.draw(st.integers(0, len(scores) - 1))
    span = [scores[0], scores[-1]]
    rounds = 0
    while span[0] < span[1]:
        pivots = _pivots(*span)
        _narrow(span, pivots, [sum(score <= pivot for score in scores) for pivot in pivots], rank)
        rounds += 1
    assert span[0] == scores[rank]
    assert rounds <= 11


async def test_lagging_members_are_listed_by_cursor_with_their_attempts(store: Store) -> None:
    await accept(store, *(message() for _ in range(3)))
    await acknowledge(store, GRACE, 1)
    await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
    rows = await store.lists.members_behind(ROOM, 0, 10)
    assert [laggard.cursor for laggard in rows] == sorted(laggard.cursor for laggard in rows)
    [grace] = [laggard for laggard in rows if laggard.user == GRACE]
    assert (grace.cursor, grace.attempts) == (1, 1)
    assert grace.next_at_ms > await store.now_ms()
    assert await store.lists.count_members_behind(ROOM) == len(rows)
    assert await store.lists.members_behind_by_id(ROOM, [GRACE, 999]) == [grace]
    assert [await store.lists.members_behind(ROOM, at, at + 1) for at in range(len(rows))] == [
        [row] for row in rows
    ]


async def test_live_messages_have_no_text_and_end_with_their_lives(store: Store) -> None:
    await accept(store, *(message(f"secret {number}") for number in range(3)))
    assert await store.lists.count_live(ROOM) == 3
    newest = await store.lists.live(0, 2, ROOM)
    assert [(row.seq, row.sender, row.tracked) for row in newest] == [(3, ADA, True), (2, ADA, True)]
    assert "secret" not in repr(newest)
    assert {row.seq for row in await store.lists.live(0, 10)} == {1, 2, 3}
    assert await store.lists.body(ROOM, 2) == "secret 1"
    await store.scripts.pipeline([("HSET", f"{ROOM.key}:msg:2", "expires_at", 1)])
    assert await store.lists.body(ROOM, 2) is None
    assert [row.seq for row in await store.lists.live(0, 10, ROOM)] == [3, 1]


async def test_a_message_is_found_by_its_id_and_those_who_may_have_sent_it(store: Store) -> None:
    sent = [message(), message()]
    await accept(store, *sent)
    assert await store.lists.seq_of(sent[1].id, [(ROOM, GRACE), (ROOM, ADA)]) == (ROOM, 2)
    assert await store.lists.seq_of("no such id", [(ROOM, ADA)]) is None
