"""The far end of a connection, in the test's process: the texts that it was sent, and a gate that stops its reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from messaging.live.connection import Connection, Visitor
from messaging.live.feed import Feed, MemberRoom
from messaging.live.hub import Hub
from messaging.policy import DAY_S, Policy
from messaging.store import Store
from messaging.store.records import Slice
from tests.support.messages import NAMES, ROOM, read

TIMEOUT_S = 5.0
MEMBER_ROOM = MemberRoom(
    key=ROOM,
    name="Commons",
    kind="private",
    role="member",
    moderates=False,
    ttl_s=3_600,
    ttl_max_s=DAY_S,
    tracked=True,
)


class Socket:
    """Takes the texts of a connection; `sends` are the raw texts, `frames` the frames in them."""

    def __init__(self) -> None:
        self.sends: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._changed = asyncio.Condition()

    async def __call__(self, event: dict[str, Any]) -> None:
        await self.reads.wait()
        if event["type"] == "websocket.close":
            self.close_code = event["code"]
        else:
            self.sends.append(event["text"])
            taken = json.loads(event["text"])
            self.frames += taken if isinstance(taken, list) else [taken]
        async with self._changed:
            self._changed.notify_all()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    @property
    def seqs(self) -> list[int]:
        """The seqs of the messages that arrived, in order."""
        return [frame["seq"] for frame in self.of("message")]

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for `count` frames of a type in all."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


async def until(condition: Callable[[], object]) -> None:
    """Let everything else run until `condition` holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.002)


def connect(user: int, policy: Policy | None = None) -> tuple[Connection, Socket]:
    socket = Socket()
    visitor = Visitor(user=user, name=NAMES[user], session=f"session-{user}", credential="")
    return Connection(socket, visitor=visitor, policy=policy or Policy()), socket


async def resume(store: Store, hub: Hub, connection: Connection, feed: Feed, since: int = 0) -> Slice:
    """Do what delivery does for a `sync`, without the frame."""
    with hub.reading(feed):
        slice_ = await read(store, connection.user, since)
        hub.merge(connection, feed, slice_)
    return slice_


async def open_feed(
    store: Store, hub: Hub, user: int, policy: Policy | None = None
) -> tuple[Connection, Feed, Socket]:
    """Connect a user to the hub and bring the feed up to date."""
    await store.members.create_log(ROOM)
    connection, socket = connect(user, policy or hub.policy)
    connection.welcomed = True
    hub.registry.enter(connection)
    feed = await hub.add_feed(connection, MEMBER_ROOM)
    await resume(store, hub, connection, feed)
    return connection, feed, socket
