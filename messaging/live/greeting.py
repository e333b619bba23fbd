"""The rooms of a connection: given by `hello`, changed while it is open.

`hello`: the user's rooms from the database -> a feed for each -> the member's position in each from the store -> `welcome` -> one
`resumed` for each room. Later, a room that the user joins, leaves or sees changed is a `room` frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django.db import Error as DatabaseError
from msgspec import UNSET

from messaging import protocol
from messaging.errors import BacklogFull, BadFrame, Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import RoomKey, Standing

from . import directory
from .coalescing import MAX_KEYS, Coalescer
from .connection import Connection
from .encoding import refused_read
from .feed import Feed, MemberRoom
from .hub import Hub
from .presence import Presence
from .reading import LogReader

# Connections that are greeted at once; in a reconnect storm, clients that are already connected are served in between.
MAX_GREETINGS = 24

Holding = tuple[int, str, int]  # what a user's client holds of a room: user, epoch, since


class Greeter:
    """The greeting of one process's connections. `greeted` is called with each connection after its last `resumed`."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        presence: Presence,
        reader: LogReader,
        policy: Policy,
        *,
        greeted: Callable[[Connection], None],
    ) -> None:
        self.store = store
        self.hub = hub
        self.registry = hub.registry
        self.presence = presence
        self.reader = reader
        self.policy = policy
        self._greeted = greeted
        self._greetings = asyncio.Semaphore(MAX_GREETINGS)
        self._standings: Coalescer[RoomKey, Holding, Standing | None] = Coalescer(
            store.members.standings_for_many, self._standings_alone, deadline_s=policy.verb_deadline_s
        )

    # Hello

    async def hello(self, connection: Connection, frame: protocol.Hello) -> None:
        """Answer with `welcome`, then one `resumed` for each room. Closes 4504 on another version, 1013 while a part is away."""
        if connection.greeted:
            raise BadFrame("A connection says hello once.")
        if frame.v != protocol.VERSION:
            connection.close(Close.VERSION)
            return
        try:
            # `admit` waits for the end of this, so that no room is begun twice.
            async with self._greetings, connection.reads.lock:
                await self._greet(connection, frame)
        except (Unavailable, BacklogFull, DatabaseError):
            connection.close(Close.TRY_LATER)

    async def _greet(self, connection: Connection, frame: protocol.Hello) -> None:
        connection.greeted = True
        named = {since.room: since for since in frame.rooms}
        rooms = await directory.rooms_of(connection.user)
        feeds = await asyncio.gather(*(self.hub.add_feed(connection, room) for room in rooms))
        standings = await self._locate(connection, feeds, named)
        now_ms = await self.store.now_ms()
        await self.presence.enter(connection, self._presence_rooms(standings))
        connection.push_frame(self._welcome(connection, standings, now_ms))
        connection.welcomed = True
        for room_id, since in named.items():
            if room_id not in connection.feeds:
                connection.push_frame(refused_read(room_id, None, since.since, why="not_member"))
        resumed = [(feed, standing, named.get(feed.room.key.id)) for feed, standing in standings.items()]
        for start in range(0, len(resumed), MAX_KEYS):
            await self.reader.resume(connection, resumed[start : start + MAX_KEYS])
        self._greeted(connection)

    async def _locate(
        self, connection: Connection, feeds: Sequence[Feed], named: Mapping[str, protocol.Since]
    ) -> dict[Feed, Standing]:
        """Read the user's position in each room; drop the feeds of rooms that the user has left in the meantime."""
        requests = [
            (feed.room.key, (connection.user, *_holding(named.get(feed.room.key.id)))) for feed in feeds
        ]
        standings = {}
        for feed, standing in zip(feeds, await self._standings.load_many(requests), strict=True):
            if standing is None:
                self.registry.drop_feed(connection, feed.room.key.id)
                continue
            room = self.registry.rooms[feed.room.key.id]
            room.heard_members(standing)
            room.heard_position(standing.epoch, standing.top, standing.rev)
            feed.locate(standing)
            standings[feed] = standing
        return standings

    async def _standings_alone(self, requests: Sequence[tuple[RoomKey, Holding]]) -> list[Standing | None]:
        [user] = {user for _, (user, *_) in requests}
        return await self.store.members.standings(
            user, [(room, epoch, since) for room, (_, epoch, since) in requests]
        )

    def _presence_rooms(self, feeds: Iterable[Feed]) -> set[str]:
        return {feed.room.key.id for feed in feeds if self.registry.rooms[feed.room.key.id].people}

    def _welcome(
        self, connection: Connection, standings: Mapping[Feed, Standing], now_ms: int
    ) -> protocol.Welcome:
        policy = self.policy
        return protocol.Welcome(
            v=protocol.VERSION,
            connection=connection.id,
            user=protocol.Person(connection.user, connection.name),
            now=now_ms,
            store=self.store.life,
            limits=protocol.Limits(
                body=policy.body_max,
                frame=policy.frame_max,
                ttl_min=policy.ttl_min_s,
                ttl_max=policy.ttl_max_s,
                unsent=policy.unsent_max,
                id_s=policy.id_life_s,
            ),
            rooms=[
                protocol.RoomFields(**self.room_fields(feed.room, standing))
                for feed, standing in standings.items()
            ],
        )

    def room_fields(self, room: MemberRoom, standing: Standing) -> dict[str, Any]:
        """Return the fields of the room object on the wire."""
        return {
            "room": room.key.id,
            "name": room.name,
            "kind": room.kind,
            "role": room.role,
            "epoch": standing.epoch,
            "top": standing.top,
            "rev": standing.rev,
            "delivered": standing.delivered,
            "read": standing.read,
            "unread": standing.unread,
            "ttl": self.policy.ttl(None, room_s=room.ttl_s, room_max_s=room.ttl_max_s),
            "ttl_max": min(room.ttl_max_s, self.policy.ttl_max_s),
            "tracked": room.tracked,
            "online": self.presence.online_of(standing.people) if standing.people else UNSET,
        }

    # While the connection is open

    async def admit(self, connection: Connection, room: MemberRoom) -> None:
        """Give an open connection a room that its user has joined: its `room` frame, then its `resumed`."""
        async with connection.reads.lock:
            if room.key.id in connection.feeds or connection not in self.registry.connections:
                return
            try:
                feed = await self.hub.add_feed(connection, room)
                standings = await self._locate(connection, [feed], {})
            except Unavailable:
                self.registry.drop_feed(connection, room.key.id)  # the next check admits it
                raise
            standing = standings.get(feed)
            if standing is None:
                return
            await self.presence.enter(connection, self._presence_rooms([feed]))
            connection.push_frame(protocol.Room(**self.room_fields(room, standing)))  # type: ignore[arg-type]
            await self.reader.resume(connection, [(feed, standing, None)])

    async def update(self, connection: Connection, room: MemberRoom) -> None:
        """Tell an open connection what changed in its room or in its user's role."""
        feed = connection.feeds[room.key.id]
        if feed.room == room:
            return
        feed.change_room(room)
        [standing] = await self.store.members.standings(connection.user, [(room.key, "", 0)])
        if standing is None:
            return
        connection.push_frame(protocol.Room(**self.room_fields(room, standing)))  # type: ignore[arg-type]

    def expel(self, connection: Connection, room_id: str) -> None:
        """Take a room from an open connection: nothing of it is sent any more."""
        feed = connection.feeds.get(room_id)
        if feed is None:
            return
        self.registry.drop_feed(connection, room_id)
        last = Standing(feed.epoch, feed.last, 0, 0, feed.acked, 0, 0, 0, frozenset())
        connection.push_frame(protocol.Room(**self.room_fields(feed.room, last), removed=True))  # type: ignore[arg-type]


def _holding(since: protocol.Since | None) -> tuple[str, int]:
    return (since.epoch, since.since) if since else ("", 0)
