"""Receipts of one process: the rows sent to a sender add up to the rows of the store, in any order of counts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import ANY

import pytest

from messaging.live.hub import Hub, HubListener
from messaging.live.receipts import Moves, Receipts
from messaging.live.registry import Registry
from messaging.policy import Policy
from messaging.store import Store
from tests.support.messages import ADA, ALAN, GRACE, ROOM, accept, acknowledge, message
from tests.support.sockets import Socket, open_feed, until

SECOND_S = 0.03


@pytest.fixture
async def hub(store: Store) -> AsyncIterator[Hub]:
    """A process with ada connected, in which a second of the receipts is short."""
    policy = Policy(receipt_interval_s=SECOND_S)
    registry = Registry()
    receipts = Receipts(store, registry, policy)
    listener = HubListener(accepted=receipts.accepted, cursors_moved=receipts.cursors_moved)
    hub = Hub(registry, policy, listener)
    tasks = [asyncio.ensure_future(part()) for part in (hub.run, receipts.run)]
    yield hub
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def told(socket: Socket) -> dict[int, list[int]]:
    """Return the last row that was sent for each seq."""
    return {row[0]: row for frame in socket.of("receipt") for row in frame["receipts"]}


async def expected(store: Store) -> dict[int, list[int]]:
    [(_, rows)] = await store.cursors.receipts([(ROOM, ADA)])
    return {row[0]: list(row) for row in rows}


async def until_told(store: Store, socket: Socket) -> None:
    now = await expected(store)
    await until(lambda: told(socket) == now)


def receipts_of(hub: Hub) -> Receipts:
    receipts = hub.listener.accepted.__self__  # type: ignore[attr-defined]
    assert isinstance(receipts, Receipts)
    return receipts


async def until_counted(hub: Hub, *, moves: int) -> None:
    """Wait until this number of moves was received, and nothing is left to count."""
    receipts = receipts_of(hub)
    await until(lambda: receipts._moves[ROOM.id] == Moves(moves, moves, ANY) and not receipts._due)


@pytest.mark.parametrize("seed", range(3))
async def test_parts_that_are_counted_add_up_to_the_whole(store: Store, hub: Hub, seed: int) -> None:
    rng = random.Random(seed)
    _, _, socket = await open_feed(store, hub, ADA)
    delivered = {GRACE: 0, ALAN: 0}
    top = 0
    for _ in range(25):
        for _ in range(rng.randint(1, 3)):
            await accept(store, message(user=rng.choice((ADA, ADA, GRACE))))
            top += 1
        user = rng.choice((GRACE, ALAN))
        delivered[user] = rng.randint(delivered[user], top)
        await acknowledge(store, user, delivered[user], rng.randint(0, delivered[user]))
        if rng.random() < 0.2:
            [place] = await store.log.positions([ROOM])
            assert place is not None
            await store.cursors.reject(ROOM, rng.choice((GRACE, ALAN)), place.epoch, rng.randint(1, top))
        if rng.random() < 0.5:
            await until_told(store, socket)
    await until_told(store, socket)


async def test_an_acknowledgement_of_the_newest_requests_no_older_row(
    store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, socket = await open_feed(store, hub, ADA)
    await accept(store, *(message() for _ in range(50)))
    for user in (GRACE, ALAN):
        await acknowledge(store, user, 49)
    await until_told(store, socket)
    await until_counted(hub, moves=2)
    asked: list[list[int]] = []
    receipts = store.cursors.receipts

    async def noted(rows: Any, *, above: Any = None) -> Any:
        asked.append(list(above))
        return await receipts(rows, above=above)

    monkeypatch.setattr(store.cursors, "receipts", noted)
    await acknowledge(store, GRACE, 50)
    await until(lambda: told(socket).get(50) == [50, 1, 0, 2])
    assert asked == [[49]]


async def test_a_connection_during_a_partial_count_is_told_all_rows(
    store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second tab of the sender needs the rows of older messages too, although only the newest one is being counted."""
    _, _, first = await open_feed(store, hub, ADA)
    await accept(store, message(), message())
    await acknowledge(store, GRACE, 1)
    await until_told(store, first)
    await until_counted(hub, moves=1)
    receipts, tabs = store.cursors.receipts, []

    async def counted(rows: Any, *, above: Any = None) -> Any:
        if above == [1] and not tabs:
            connection, _, socket = await open_feed(store, hub, ADA)
            tabs.append(socket)
            receipts_of(hub).resumed(connection, connection.feeds)
        return await receipts(rows, above=above)

    monkeypatch.setattr(store.cursors, "receipts", counted)
    await acknowledge(store, GRACE, 2)
    await until(lambda: bool(tabs) and told(tabs[0]).keys() == {1, 2})


async def test_a_member_who_leaves_changes_the_rows_of_messages_they_owed(store: Store, hub: Hub) -> None:
    _, _, socket = await open_feed(store, hub, ADA)
    await accept(store)
    await acknowledge(store, GRACE, 1)
    await until(lambda: told(socket) == {1: [1, 1, 0, 2]})
    await store.members.leave(ROOM, ALAN)
    await until(lambda: told(socket) == {1: [1, 1, 0, 1]})


async def test_another_epoch_of_the_log_is_counted_from_its_beginning(store: Store, hub: Hub) -> None:
    _, _, socket = await open_feed(store, hub, ADA)
    await accept(store, message(), message())
    await acknowledge(store, GRACE, 2)
    await until_told(store, socket)
    await store.client.delete(ROOM.key)
    await store.members.create_log(ROOM)
    await accept(store, message(), message())
    await acknowledge(store, GRACE, 1)
    [place] = await store.log.positions([ROOM])
    assert place is not None
    await until(lambda: socket.of("receipt")[-1]["epoch"] == place.epoch)
    latest = [frame for frame in socket.of("receipt") if frame["epoch"] == place.epoch]
    assert {row[0]: row for frame in latest for row in frame["receipts"]} == await expected(store)
