"""The bounds for the memory of a user's sockets and of a process: which of them are closed."""

from __future__ import annotations

import dataclasses

from messaging.live.connection import Connection
from messaging.live.registry import Registry
from messaging.live.stuck_sockets import StuckSockets
from messaging.policy import Policy
from messaging.protocol import Close
from tests.support.messages import ADA, ALAN, GRACE
from tests.support.sockets import connect

POLICY = dataclasses.replace(Policy(), memory_per_user_max=100_000, memory_max=200_000)


def holding(registry: Registry, user: int, size: int) -> Connection:
    """Return a connection for which about `size` bytes wait."""
    connection, _ = connect(user, POLICY)
    registry.enter(connection)
    if size:
        connection.writer.push("x" * size)
    return connection


def closed(*connections: Connection) -> list[bool]:
    return [connection.closed is Close.TOO_MUCH for connection in connections]


async def test_the_largest_sockets_of_a_user_are_closed_until_the_others_are_below_the_bound() -> None:
    registry = Registry()
    sockets = [holding(registry, ADA, size) for size in (30_000, 90_000, 0, 40_000, 35_000)]
    others = [holding(registry, GRACE, 60_000)]
    check = StuckSockets(registry, POLICY).check
    check()
    assert closed(*sockets, *others) == [False, True, False, True, False, False]


async def test_the_only_socket_that_holds_something_stays() -> None:
    registry = Registry()
    sockets = [holding(registry, ADA, size) for size in (150_000, 0)]
    StuckSockets(registry, POLICY).check()
    assert closed(*sockets) == [False, False]


async def test_the_largest_sockets_of_the_process_are_closed_above_its_bound() -> None:
    registry = Registry()
    sockets = [
        holding(registry, user, size) for user, size in ((ADA, 90_000), (GRACE, 95_000), (ALAN, 85_000))
    ]
    StuckSockets(registry, POLICY).check()
    assert closed(*sockets) == [False, True, False]


async def test_a_text_that_is_larger_in_memory_than_on_the_wire_is_counted_as_in_memory() -> None:
    registry = Registry()
    sockets = [holding(registry, ADA, 0) for _ in range(2)]
    for connection in sockets:
        connection.writer.push("x" * 20_000 + "😀")
    StuckSockets(registry, POLICY).check()
    assert sorted(closed(*sockets)) == [False, True], "each character takes four bytes"
