"""The connections and rooms of one server process: plain tables, without any I/O."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from messaging.store.records import MemberPosition, RoomKey

from . import metrics
from .connection import Connection
from .feed import Feed


class HubRoom:
    """A room in this process: its feeds, and the newest position of its log that this process knows."""

    __slots__ = ("empty_since_s", "epoch", "feeds", "key", "members", "people", "rev", "top")

    def __init__(self, key: RoomKey) -> None:
        self.key = key
        self.feeds: dict[Connection, Feed] = {}
        self.epoch = ""
        self.top = 0
        self.rev = 0
        self.members = -1  # the store's count of joins and leaves when the memberships were last read
        self.people: frozenset[int] = frozenset()  # the members, while they are few enough for presence
        self.empty_since_s: float | None = None  # the loop's clock

    def heard(self, epoch: str, top: int) -> None:
        """Note the newest message of the log."""
        if epoch != self.epoch:
            self.epoch, self.top, self.rev = epoch, top, 0
        else:
            self.top = max(self.top, top)

    def heard_position(self, epoch: str, top: int, rev: int) -> None:
        """Note the position of the log: its newest message and its newest change."""
        self.heard(epoch, top)
        self.rev = max(self.rev, rev)

    def heard_members(self, position: MemberPosition) -> None:
        """Note the members, as the store knows them."""
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
        """Forget a connection and its feeds. Idempotent."""
        if connection in self.connections:
            self.connections.remove(connection)
            metrics.connected(-1)
        own = self.by_user.get(connection.user)
        if own is not None:
            own.discard(connection)
            if not own:
                del self.by_user[connection.user]
        for room in list(connection.feeds):
            self.drop_feed(connection, room)

    def connections_of(self, user: int) -> Iterable[Connection]:
        return tuple(self.by_user.get(user, ()))

    def add_feed(self, connection: Connection, feed: Feed) -> None:
        """Put a connection into a room."""
        key = feed.room.key
        room = self.rooms.get(key.id)
        if room is None:
            room = self.rooms[key.id] = HubRoom(key)
        room.empty_since_s = None
        connection.feeds[key.id] = feed
        room.feeds[connection] = feed

    def drop_feed(self, connection: Connection, room_id: str) -> None:
        """Take a connection out of a room. Idempotent."""
        connection.feeds.pop(room_id, None)
        room = self.rooms.get(room_id)
        if room is None:
            return
        room.feeds.pop(connection, None)
        if not room.feeds:
            room.empty_since_s = asyncio.get_running_loop().time()

    def forget_empty_rooms(self, after_s: float) -> list[HubRoom]:
        """Forget the rooms that have had no connection for `after_s`; return them."""
        before_s = asyncio.get_running_loop().time() - after_s
        empty = [
            room
            for room in self.rooms.values()
            if not room.feeds and room.empty_since_s is not None and room.empty_since_s <= before_s
        ]
        for room in empty:
            del self.rooms[room.key.id]
        return empty
