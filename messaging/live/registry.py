"""The connections and rooms of one server process, as plain tables. No I/O."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from messaging.store.records import LIFE_STEP, MemberPosition, RoomKey

from . import metrics
from .connection import Connection
from .feed import Feed


class HubRoom:
    """A room in this process: its feeds, and the newest position of its log that this process knows."""

    __slots__ = ("earlier_top", "empty_since_s", "epoch", "feeds", "key", "members", "people", "rev", "top")

    def __init__(self, key: RoomKey) -> None:
        self.key = key
        self.feeds: dict[Connection, Feed] = {}
        self.epoch = ""
        self.top = 0
        self.earlier_top = 0  # the top before its last step
        self.rev = 0
        self.members = -1  # the store's count of joins and leaves when a position was last read
        self.people: frozenset[int] = frozenset()  # the members, if the room is small enough for presence
        self.empty_since_s: float | None = None  # the loop's clock

    def update_top(self, epoch: str, top: int) -> None:
        """Record the newest message of the log."""
        if epoch != self.epoch:
            self.epoch, self.top, self.earlier_top, self.rev = epoch, top, 0, 0
        elif top > self.top:
            if top > self.top + LIFE_STEP // 2:
                self.earlier_top = self.top
            self.top = top

    def update_position(self, epoch: str, top: int, rev: int) -> None:
        """Record the position of the log: its newest message and its newest change."""
        self.update_top(epoch, top)
        self.rev = max(self.rev, rev)

    def update_members(self, position: MemberPosition) -> None:
        """Record the members that a position read from the store contains."""
        self.members, self.people = position.members, position.people


class Registry:
    """Connections by user, feeds by room."""

    def __init__(self) -> None:
        self.rooms: dict[str, HubRoom] = {}
        self.connections: set[Connection] = set()
        self.by_user: defaultdict[int, set[Connection]] = defaultdict(set)

    def enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        metrics.connected(1)
        self.by_user[connection.user].add(connection)

    def leave(self, connection: Connection) -> None:
        """Remove a connection and its feeds. Idempotent."""
        if connection in self.connections:
            self.connections.remove(connection)
            metrics.connected(-1)
        connections = self.by_user.get(connection.user)
        if connections is not None:
            connections.discard(connection)
            if not connections:
                del self.by_user[connection.user]
        for room in list(connection.feeds):
            self.drop_feed(connection, room)

    def connections_of(self, user: int) -> Iterable[Connection]:
        return tuple(self.by_user.get(user, ()))

    def add_feed(self, connection: Connection, feed: Feed) -> None:
        """Add a connection to a room."""
        key = feed.room.key
        room = self.rooms.get(key.id)
        if room is None:
            room = self.rooms[key.id] = HubRoom(key)
        room.empty_since_s = None
        connection.feeds[key.id] = feed
        room.feeds[connection] = feed

    def drop_feed(self, connection: Connection, room_id: str) -> None:
        """Remove a connection from a room. Idempotent."""
        connection.feeds.pop(room_id, None)
        room = self.rooms.get(room_id)
        if room is None:
            return
        room.feeds.pop(connection, None)
        if not room.feeds:
            room.empty_since_s = asyncio.get_running_loop().time()

    def forget_empty_rooms(self, after_s: float) -> list[HubRoom]:
        """Remove and return the rooms that have had no connection for `after_s`."""
        before_s = asyncio.get_running_loop().time() - after_s
        empty = [
            room
            for room in self.rooms.values()
            if not room.feeds and room.empty_since_s is not None and room.empty_since_s <= before_s
        ]
        for room in empty:
            del self.rooms[room.key.id]
        return empty
