"""Control events in one server process: a flood of changes to rooms delays no end of a session and no removal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection as database

from messaging import control, protocol
from messaging.bridge import in_db_thread
from messaging.live.connection import Connection, Visitor
from messaging.live.server import Server
from messaging.models import Membership, Room
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import open_store
from messaging.store.scripts import Call, Scripts
from tests.support.people import person
from tests.support.sockets import Socket, until

pytestmark = pytest.mark.usefixtures("verbs")
PEOPLE = 12


@pytest.fixture
async def server(verbs: None) -> AsyncIterator[Server]:
    """Return a server that receives control events."""
    server = Server(open_store(), Policy())
    server.start()
    first, _ = await enter(server, await person("first"))
    while first.closed is None:  # the channel layer confirms no subscription
        await control.publish("close_user", user=first.user)
        await asyncio.sleep(0.01)
    server.leave(first)
    yield server
    for connection in list(server.registry.connections):
        server.leave(connection)
        await connection.finish()
    await server.stop()


@pytest.fixture
async def members(verbs: None) -> list[User]:
    return [await person(f"person {number}") for number in range(PEOPLE)]


@pytest.fixture
async def room(members: Sequence[User]) -> Room:
    """Return a room with the members, the first of whom owns it."""
    room = await Room.objects.acreate(name="Atlas", kind="private")
    rows = [Membership(room=room, user=user) for user in members]
    rows[0].role = "owner"
    await Membership.objects.abulk_create(rows)
    return room


async def enter(server: Server, user: User) -> tuple[Connection, Socket]:
    """Open a connection and greet it."""
    socket = Socket()
    visitor = Visitor(user=user.pk, name=user.username, session=f"session-{user.pk}", credential="")
    connection = Connection(socket, visitor=visitor, policy=server.policy)
    server.registry.enter(connection)
    await server.greeter.hello(connection, protocol.Hello(v=protocol.VERSION, rooms=[]))
    return connection, socket


async def count_queries(counted: list[str]) -> None:
    """Record the queries of memberships in the database thread of this test."""

    def record(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if "messaging_membership" in sql:
            counted.append(sql)
        return execute(sql, *args)

    await in_db_thread(lambda: database.execute_wrappers.append(record))


def hold_positions(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the store answer no read of positions before the first event; the second is set when one was asked for."""
    gate, reached = asyncio.Event(), asyncio.Event()
    run = Scripts.run

    async def held(self: Scripts, calls: Sequence[Call], **options: Any) -> Any:
        if any(script == "member_positions" for script, _ in calls):
            reached.set()
            await gate.wait()
        return await run(self, calls, **options)

    monkeypatch.setattr(Scripts, "run", held)
    return gate, reached


async def test_fifty_changes_of_a_room_are_one_query_for_all_its_members(
    server: Server, room: Room, members: Sequence[User]
) -> None:
    entered = [await enter(server, user) for user in members]
    counted: list[str] = []
    await count_queries(counted)
    for number in range(50):
        await Room.objects.filter(pk=room.pk).aupdate(name=f"Atlas {number}")
    for _ in range(50):
        server.control_events.take({"type": "control.room_changed", "room": room.pk})
    for _, socket in entered:
        assert [frame["name"] for frame in await socket.until("room")] == ["Atlas 49"]
    assert len(counted) == 1


async def test_members_who_are_added_together_are_read_together(
    server: Server, members: Sequence[User]
) -> None:
    entered = [await enter(server, user) for user in members]
    room = await Room.objects.acreate(name="Atlas")
    await Membership.objects.abulk_create([Membership(room=room, user=user) for user in members])
    counted: list[str] = []
    await count_queries(counted)
    for user in members:
        server.control_events.take({"type": "control.membership_changed", "room": room.pk, "user": user.pk})
    for _, socket in entered:
        await socket.until("room")
    reads = [sql for sql in counted if "messaging_room" in sql]
    assert len(reads) == 1


async def test_neither_a_removal_nor_a_logout_waits_for_changed_rooms(
    server: Server, room: Room, members: Sequence[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, owner), (removed, heard), (left, _), (closed, _) = [await enter(server, user) for user in members[:4]]
    gate, reached = hold_positions(monkeypatch)
    await Room.objects.filter(pk=room.pk).aupdate(name="Borealis")
    await control.publish("room_changed", room=room.pk)
    await until(reached.is_set)
    await control.publish("room_changed", room=room.pk)
    await Membership.objects.filter(room=room, user=removed.user).adelete()
    await control.publish("membership_changed", room=room.pk, user=removed.user)
    await control.publish("session_ended", session=control.session_digest(left.visitor.session))
    await control.publish("close_user", user=closed.user)
    await until(lambda: left.closed is Close.NO_SESSION and closed.closed is Close.RESTART)
    assert (await heard.until("room"))[-1]["removed"]
    assert room.pk not in removed.feeds
    gate.set()
    assert (await owner.until("room"))[-1]["name"] == "Borealis"
    assert len(heard.of("room")) == 1, "no frame of the room follows the removal"


async def test_role_is_changed_at_once_while_the_store_does_not_answer(
    server: Server, room: Room, members: Sequence[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = await enter(server, members[0])
    hold_positions(monkeypatch)
    await Membership.objects.filter(room=room, user=members[0]).aupdate(role="member")
    await control.publish("membership_changed", room=room.pk, user=connection.user)
    await until(lambda: not connection.feeds[room.pk].room.moderates)
