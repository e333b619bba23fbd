"""A user of very many rooms, in which anybody may have put them: greeted like everybody else, and no burden to others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from messaging import protocol
from messaging.live import greeting
from messaging.live.connection import Connection, Visitor
from messaging.live.feed import FeedState
from messaging.live.server import Server
from messaging.models import Membership, Room, partition_of
from messaging.policy import Policy
from messaging.store import Store, open_store
from messaging.store.records import Accepted, Append, RoomKey
from tests.support.clients import new_id, seqs
from tests.support.devices import Process
from tests.support.sites import Person, Site, later, people
from tests.support.sockets import Socket, until

Open = Callable[..., Any]

MANY = 4_500  # a queue of as many frames was too long
CALL_BATCH = 500


def make_rows(count: int, *members: Person) -> list[RoomKey]:
    rooms = [Room(name=f"room {n:05}", kind="private") for n in range(count)]
    for row in rooms:
        row.partition = partition_of(row.id)
    Room.objects.bulk_create(rooms)
    Membership.objects.bulk_create(
        Membership(room=row, user_id=member.id) for row in rooms for member in members
    )
    return [RoomKey(row.id, row.partition) for row in rooms]


async def make_rooms(store: Store, count: int, *members: Person) -> list[RoomKey]:
    """Make rooms and their logs in few calls; return them in the order of their names."""
    rooms: list[RoomKey] = await later(make_rows)(count, *members)
    users = [member.id for member in members]
    for start in range(0, count, CALL_BATCH):
        calls = [
            ("create_log", (room.prefix, room.id, "epoch", *users))
            for room in rooms[start : start + CALL_BATCH]
        ]
        assert await store.members._calls.scripts.run(calls) == [b"epoch"] * len(calls)
    return rooms


async def post(store: Store, sender: Person, rooms: list[RoomKey], body: str = "hello") -> None:
    """Send a message to each room."""
    for start in range(0, len(rooms), CALL_BATCH):
        answers = await store.log.append(
            [
                Append(room=room, user=sender.id, name=sender.name, id=new_id(), body=body, ttl_ms=3_600_000)
                for room in rooms[start : start + CALL_BATCH]
            ]
        )
        assert all(isinstance(answer, Accepted) for answer in answers), answers


async def test_a_hello_for_very_many_rooms_is_answered(
    site: Site, site_store: Store, open_wire: Open
) -> None:
    ada, grace = await later(people)("ada", "grace")
    rooms = await make_rooms(site_store, MANY, ada, grace)
    news = rooms[-3:]  # the store is not read for the others
    await post(site_store, ada, news)
    wire = await open_wire(site, grace)
    held = {"room": rooms[0].id, "epoch": "epoch", "since": 0}
    await wire.hello(held)
    await wire.next("resumed", room=rooms[-1].id, within_s=30)
    assert wire.frames[0]["type"] == "welcome"
    assert [row["room"] for row in wire.frames[0]["rooms"]] == [room.id for room in rooms]
    resumed = wire.heard("resumed")
    assert sorted(frame["room"] for frame in resumed) == sorted(room.id for room in rooms)
    assert {frame["room"] for frame in resumed if seqs(frame["messages"]) == [1]} == {
        room.id for room in news
    }
    assert not any(frame["more"] for frame in resumed)
    await wire.post(rooms[-1].id, "still here")
    await wire.next("message", body="still here")


@pytest.fixture
async def process(redis_url: str, transactional_db: None) -> AsyncIterator[Process]:
    """Return a server in the test's process."""
    running = Process(open_store(), Policy())
    yield running
    await running.end()


def connect(server: Server, who: Person) -> tuple[Connection, Socket]:
    socket = Socket()
    visitor = Visitor(user=who.id, name=who.name, session="", credential="")
    connection = Connection(socket, visitor=visitor, policy=server.policy)
    server.registry.enter(connection)
    return connection, socket


async def test_a_hello_is_answered_in_small_steps(process: Process) -> None:
    ada, grace = await sync_to_async(people)("ada", "grace")
    rooms = await make_rooms(process.server.store, 1_000, ada, grace)
    await post(process.server.store, ada, rooms[::2])
    connection, socket = connect(process.server, grace)
    steps: list[tuple[int, int]] = []

    async def count_steps() -> None:
        feeds = frames = 0
        while True:
            steps.append((len(connection.feeds) - feeds, len(socket.frames) - frames))
            feeds, frames = len(connection.feeds), len(socket.frames)
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count_steps())
    await process.server.greeter.hello(connection, protocol.Hello(1, []))
    await socket.until("resumed", 1_000)
    counting.cancel()
    assert max(feeds for feeds, _ in steps) <= greeting.POSITIONS_BATCH
    assert max(frames for _, frames in steps) <= 3 * greeting.MAX_KEYS
    assert not connection.writer.closed


async def test_rooms_that_wait_for_a_slow_reader_hold_no_messages(process: Process) -> None:
    server = process.server
    ada, grace = await sync_to_async(people)("ada", "grace")
    rooms = await make_rooms(server.store, 300, ada, grace)
    await post(server.store, ada, rooms, "x" * 4_000)
    connection, socket = connect(server, grace)
    socket.reads.clear()
    greeted = asyncio.ensure_future(server.greeter.hello(connection, protocol.Hello(1, [])))
    await until(
        lambda: connection.writer.unsent_bytes > server.policy.unsent_bytes_max - server.policy.answer_max
    )
    await greeted
    assert connection.writer.unsent_bytes < server.policy.unsent_bytes_max
    for _ in range(3):
        await post(server.store, ada, rooms, "y" * 4_000)
    await until(lambda: all(server.registry.rooms[room.id].top == 4 for room in rooms))
    waiting = [feed for feed in connection.feeds.values() if feed.state is FeedState.NEW]
    assert len(waiting) > 100
    assert not any(feed.held for feed in connection.feeds.values())
    assert connection.writer.unsent_bytes < server.policy.unsent_bytes_max + 20_000
    socket.reads.set()
    await socket.until("resumed", len(rooms))
    frames_of_room = {
        room_id: list(frames)
        for room_id, frames in itertools.groupby(
            sorted(
                (frame for frame in socket.frames if frame["type"] in ("resumed", "message")),
                key=lambda frame: frame["room"],
            ),
            key=lambda frame: frame["room"],
        )
    }
    for frames in frames_of_room.values():
        assert frames[0]["type"] == "resumed", "the first frame of a room after `welcome`"
    assert not connection.writer.closed


async def test_a_message_published_before_the_turn_of_a_room_is_in_its_resumed(process: Process) -> None:
    """The room was up to date when `welcome` was made."""
    server = process.server
    ada, grace = await sync_to_async(people)("ada", "grace")
    rooms = await make_rooms(server.store, 300, ada, grace)
    await post(server.store, ada, rooms[:200], "x" * 4_000)
    connection, socket = connect(server, grace)
    socket.reads.clear()
    await server.greeter.hello(connection, protocol.Hello(1, []))
    await until(
        lambda: connection.writer.unsent_bytes > server.policy.unsent_bytes_max - server.policy.answer_max
    )
    await post(server.store, ada, [rooms[-1]])
    await until(lambda: server.registry.rooms[rooms[-1].id].top == 1)
    socket.reads.set()
    resumed = (await socket.until("resumed", len(rooms)))[-1]
    assert (resumed["room"], resumed["upto"], seqs(resumed["messages"])) == (rooms[-1].id, 1, [1])
    await post(server.store, ada, [rooms[-1]])
    await socket.until("message")
    assert socket.seqs == [2]
    assert connection.feeds[rooms[-1].id].state is FeedState.OPEN


async def test_frames_about_rooms_that_come_before_welcome_follow_it(process: Process) -> None:
    server = process.server
    ada, grace = await sync_to_async(people)("ada", "grace")
    [room] = await make_rooms(server.store, 1, ada, grace)
    connection, socket = connect(server, grace)
    greeting_ = server.greeter.hello(connection, protocol.Hello(1, []))

    async def leave_when_added() -> None:
        while not connection.feeds:
            await asyncio.sleep(0)
        assert not connection.welcomed
        server.greeter.expel(connection, room.id)

    await asyncio.gather(greeting_, leave_when_added())
    await socket.until("room")
    assert [frame["type"] for frame in socket.frames][:2] == ["welcome", "room"]
    assert socket.of("room")[0]["removed"]
