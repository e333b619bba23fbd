"""One server process: the check of sessions closes only connections that were part of it; it knows how many others there are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from messaging.live import directory
from messaging.live.connection import Connection, Visitor
from messaging.live.server import Server
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store


async def send(event: dict[str, Any]) -> None:
    """Receive the frames of the connection."""


def visitor(user: int) -> Visitor:
    return Visitor(user=user, name=f"user{user}", session=f"session{user}", credential="c")


async def test_a_connection_that_opens_during_the_check_is_not_closed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(store, Policy())
    old, gone, new = (Connection(send, visitor=visitor(user), policy=Policy()) for user in (1, 2, 3))
    for connection in (old, gone):
        server.registry.enter(connection)

    async def still_authorized(asked: Collection[Visitor]) -> set[Visitor]:
        server.registry.enter(new)
        return set(asked) - {gone.visitor, new.visitor}

    async def no_rooms(users: Collection[int]) -> dict[int, dict[str, directory.Rights]]:
        return {user: {} for user in users}

    monkeypatch.setattr(directory, "still_authorized", still_authorized)
    monkeypatch.setattr(directory, "rights_of_many", no_rooms)
    await server.rechecks.check_all()
    assert [connection.closed for connection in (old, gone, new)] == [None, Close.NO_SESSION, None]


async def test_a_process_knows_the_number_of_processes(store: Store) -> None:
    servers = [Server(store, Policy()) for _ in range(3)]
    for _ in range(2):
        for server in servers:
            await server.presence._refresh()
    assert [server.limits._processes() for server in servers] == [3, 3, 3]
    await servers[0].presence.shutdown()
    await servers[1].presence._refresh()
    assert servers[1].limits._processes() == 2
