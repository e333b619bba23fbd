"""The rooms of a connection: read at `hello`, changed while it is open.

`hello`: the user's rooms from the database -> a feed for each -> the member's position in each from the store -> `welcome` -> one
`resumed` for each room. A user may have thousands of rooms: positions are read in batches, and `resumed` frames are read and sent in
batches behind the writer, so that a greeting needs little memory and delays no other connection. When it has to wait for the client, other
frames of the client are handled in the meantime; its reads of the log wait for the last `resumed`.

Later a `room` frame reports a room that the user joined or left, or that changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.db import Error as DatabaseError
from msgspec import UNSET

from messaging import protocol
from messaging.errors import BacklogFull, BadFrame, Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import Held, MemberPosition, RoomKey

from . import directory
from .coalescing import MAX_KEYS, Coalescer
from .connection import Connection
from .encoding import refused_read
from .feed import Feed, MemberRoom
from .hub import Hub
from .presence import Presence
from .reading import LogReader, Resume

# Connections that are greeted, and that read for `resumed` frames, at the same time. When many clients reconnect, the others are served
# in between.
MAX_GREETINGS = 24
POSITIONS_BATCH = 100  # rooms; a batch takes the event loop a few ms
RESUMED_BATCH = 64  # messages and changes, as far as they are known: about one answer of the largest size

Holding = tuple[int, Held]  # user, and the part of the log that their client holds


class Greeter:
    """Greets the connections of one process.

    `resumed` is called with a connection and the rooms whose `resumed` were just sent, `greeted` after the last ones.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        presence: Presence,
        reader: LogReader,
        policy: Policy,
        *,
        resumed: Callable[[Connection, Iterable[str]], None],
        greeted: Callable[[Connection], None],
    ) -> None:
        self.store = store
        self.hub = hub
        self.registry = hub.registry
        self.presence = presence
        self.reader = reader
        self.policy = policy
        self._resumed = resumed
        self._greeted = greeted
        self._greetings = asyncio.Semaphore(MAX_GREETINGS)
        self._resumes = asyncio.Semaphore(MAX_GREETINGS)
        self._positions: Coalescer[RoomKey, Holding, MemberPosition | None] = Coalescer(
            store.members.member_positions_for_many, self._positions_alone, deadline_s=policy.verb_deadline_s
        )

    # Hello

    async def hello(self, connection: Connection, frame: protocol.Hello) -> None:
        """Answer with `welcome`, then one `resumed` for each room. Those for which the client must read first follow in a task.

        Closes the connection with 4504 for another protocol version, with 1013 if the store or the database does not answer.
        """
        if connection.greeted:
            raise BadFrame("A connection sends hello only once.")
        if frame.v != protocol.VERSION:
            connection.close(Close.VERSION)
            return
        handled = asyncio.Event()
        connection.spawn(self._greet(connection, frame, handled))
        await handled.wait()

    async def _greet(self, connection: Connection, frame: protocol.Hello, handled: asyncio.Event) -> None:
        """Send `welcome` and the `resumed` frames; set `handled` at the end or when this waits for the client."""
        named = {since.room: since for since in frame.rooms}
        try:
            # `admit` waits for this lock, so that no room is added twice.
            async with connection.reads.lock:
                positions = await self._welcome(connection, named)
                for room_id, since in named.items():
                    if room_id not in connection.feeds:
                        connection.push_frame(refused_read(room_id, None, since.since, why="not_member"))
                for batch in _resume_batches(positions, named):
                    if not connection.writable:
                        handled.set()
                        await connection.wait_until_writable()
                    await self._resume(connection, batch)
            self._greeted(connection)
        except (Unavailable, BacklogFull, DatabaseError):
            connection.close(Close.TRY_LATER)
        finally:
            handled.set()

    async def _welcome(
        self, connection: Connection, named: Mapping[str, protocol.Since]
    ) -> dict[Feed, MemberPosition]:
        """Add the user's rooms to the connection and send `welcome`; return the positions in it."""
        positions: dict[Feed, MemberPosition] = {}
        fields: list[protocol.RoomFields] = []

        async def add(batch: Sequence[MemberRoom]) -> None:
            read = await self._add_rooms(connection, batch, named)
            positions.update(read)
            fields.extend(protocol.RoomFields(**self.room_fields(feed.room, read[feed])) for feed in read)

        async with self._greetings:
            connection.greeted = True
            rooms = await directory.rooms_of(connection.user)
            await add(rooms[:POSITIONS_BATCH])
        for start in range(POSITIONS_BATCH, len(rooms), POSITIONS_BATCH):
            async with self._greetings:
                await add(rooms[start : start + POSITIONS_BATCH])
        connection.welcome(self._welcome_frame(connection, fields, await self.store.now_ms()))
        return positions

    async def _add_rooms(
        self, connection: Connection, rooms: Sequence[MemberRoom], named: Mapping[str, protocol.Since]
    ) -> dict[Feed, MemberPosition]:
        """Add rooms to a connection; return the user's position in each."""
        feeds = await asyncio.gather(*(self.hub.add_feed(connection, room) for room in rooms))
        positions = await self._read_positions(connection, feeds, named)
        await self.presence.enter(connection, self._presence_rooms(positions))
        return positions

    async def _resume(self, connection: Connection, batch: Sequence[Resume]) -> None:
        async with self._resumes:
            await self.reader.resume(connection, batch)
        self._resumed(connection, [feed.room.key.id for feed, _, _ in batch])
        await asyncio.sleep(0)  # a batch of rooms that are not read did not wait for anything

    async def _read_positions(
        self, connection: Connection, feeds: Sequence[Feed], named: Mapping[str, protocol.Since]
    ) -> dict[Feed, MemberPosition]:
        """Read the user's position in each room; remove the feeds of rooms that the user left in the meantime."""
        requests = [(feed.room.key, (connection.user, _held(named.get(feed.room.key.id)))) for feed in feeds]
        positions = {}
        for feed, position in zip(feeds, await self._positions.load_many(requests), strict=True):
            if position is None:
                self.registry.drop_feed(connection, feed.room.key.id)
                continue
            room = self.registry.rooms[feed.room.key.id]
            room.update_members(position)
            room.update_position(position.epoch, position.top, position.rev)
            feed.set_position(position)
            positions[feed] = position
        return positions

    async def _positions_alone(
        self, requests: Sequence[tuple[RoomKey, Holding]]
    ) -> list[MemberPosition | None]:
        [user] = {user for _, (user, *_) in requests}
        return await self.store.members.member_positions(user, [(room, held) for room, (_, held) in requests])

    def _presence_rooms(self, feeds: Iterable[Feed]) -> set[str]:
        return {feed.room.key.id for feed in feeds if self.registry.rooms[feed.room.key.id].people}

    def _welcome_frame(
        self, connection: Connection, rooms: list[protocol.RoomFields], now_ms: int
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
            rooms=rooms,
        )

    def room_fields(self, room: MemberRoom, position: MemberPosition) -> dict[str, Any]:
        """Return the fields of the room object on the wire."""
        return {
            "room": room.key.id,
            "name": room.name,
            "kind": room.kind,
            "role": room.role,
            "epoch": position.epoch,
            "top": position.top,
            "rev": position.rev,
            "delivered": position.delivered,
            "read": position.read,
            "unread": position.unread,
            "ttl": self.policy.ttl(None, room_s=room.ttl_s, room_max_s=room.ttl_max_s),
            "ttl_max": min(room.ttl_max_s, self.policy.ttl_max_s),
            "tracked": room.tracked,
            "online": self.presence.online_of(position.people) if position.people else UNSET,
        }

    # While the connection is open

    async def admit(self, connection: Connection, room: MemberRoom) -> None:
        """Add a room that the user has joined to an open connection: its `room` frame, then its `resumed`."""
        async with connection.reads.lock:
            if connection not in self.registry.connections:
                return
            feed = connection.feeds.get(room.key.id)
            if feed is not None:
                if feed.room != room:  # it was added in the meantime, with an older row
                    feed.change_room(room)
                    await self.send_room(connection, feed)
                return
            await connection.wait_until_writable()
            try:
                positions = await self._add_rooms(connection, [room], {})
            except Unavailable:
                self.registry.drop_feed(connection, room.key.id)  # the next check admits it
                raise
            for feed, position in positions.items():
                connection.push_frame(protocol.Room(**self.room_fields(room, position)))  # type: ignore[arg-type]
                await self.reader.resume(connection, [(feed, position, None)])

    async def send_room(self, connection: Connection, feed: Feed) -> None:
        """Send a `room` frame to an open connection: the room or the user's role has changed."""
        [position] = await self._positions.load_many([(feed.room.key, (connection.user, Held()))])
        if position is not None and connection.feeds.get(feed.room.key.id) is feed:
            self._push_room(connection, protocol.Room(**self.room_fields(feed.room, position)))

    def expel(self, connection: Connection, room_id: str) -> None:
        """Remove a room from an open connection: a `room` frame, and then no more frames of this room."""
        feed = connection.feeds.get(room_id)
        if feed is None:
            return
        self.registry.drop_feed(connection, room_id)
        last = MemberPosition(feed.epoch, feed.last, 0, 0, feed.acked, 0, 0, 0, frozenset())
        self._push_room(connection, protocol.Room(**self.room_fields(feed.room, last), removed=True))

    def _push_room(self, connection: Connection, frame: protocol.Room) -> None:
        connection.push_after_welcome(protocol.encode(frame).decode())


def _resume_batches(
    positions: Mapping[Feed, MemberPosition], named: Mapping[str, protocol.Since]
) -> Iterator[list[Resume]]:
    """Divide rooms into batches of one round trip and about `RESUMED_BATCH` messages; a room with more is alone."""
    batch: list[Resume] = []
    missing = 0
    for feed, position in positions.items():
        since = named.get(feed.room.key.id)
        messages = max(0, position.top - (since.since if since else position.delivered))
        changes = max(0, position.rev - since.rev) if since and since.rev is not None else 0
        if batch and (len(batch) == MAX_KEYS or missing + messages + changes > RESUMED_BATCH):
            yield batch
            batch, missing = [], 0
        batch.append((feed, position, since))
        missing += messages + changes
    if batch:
        yield batch


def _held(since: protocol.Since | None) -> Held:
    if since is None:
        return Held()
    return Held(since.epoch, since.since, tuple(since.late or ()), since.late is not None)
