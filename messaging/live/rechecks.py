"""Checks of open connections: their sessions (`directory.still_authorized`) and their memberships.

A control event causes a check at once. Every 60 s everything is checked, because an event may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Mapping

from django.db import Error as DatabaseError

from messaging.errors import MessagingError, Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import Held

from . import directory
from .connection import Connection
from .directory import Member
from .feed import Feed, MemberRoom
from .greeting import Greeter
from .registry import Registry

MEMBER_BATCH = 200  # in one query: other work of the database thread waits for it

log = logging.getLogger(__name__)


class Rechecks:
    """The checks of one process's connections."""

    def __init__(self, store: Store, registry: Registry, greeter: Greeter, policy: Policy) -> None:
        self.store = store
        self.registry = registry
        self.greeter = greeter
        self.policy = policy

    async def run(self) -> None:
        """Check everything every `recheck_interval_s` until cancelled."""
        while True:
            await asyncio.sleep(self.policy.recheck_interval_s)
            await self.check_all()

    async def check_all(self) -> None:
        """Check the sessions and memberships of all connections; if they cannot be read, the next check does it."""
        try:
            await self.check_sessions(self.registry.connections)
            users = set(self.registry.by_user)
            rights = await directory.rights_of_many(users)
            members = {
                (room, user)
                for user in users
                for connection in self.registry.connections_of(user)
                if connection.welcomed
                for room in _changed_rooms(connection, rights[user])
            }
            await self.check_memberships(members)
        except (DatabaseError, Unavailable) as error:
            log.warning("connections cannot be checked: %s", type(error).__name__)

    async def check_sessions(self, connections: Iterable[Connection]) -> None:
        """Close the connections whose session has ended."""
        checked = list(connections)  # not those that open during the query
        authorized = await directory.still_authorized({connection.visitor for connection in checked})
        for connection in checked:
            if connection.visitor not in authorized:
                connection.close(Close.NO_SESSION)

    async def check_memberships(self, members: Collection[Member]) -> None:
        """Add, update or remove rooms on the connections of members, according to the database. Never wait for the store."""
        connected = [member for member in members if member[1] in self.registry.by_user]
        for start in range(0, len(connected), MEMBER_BATCH):
            for connection, feed in await self._apply(connected[start : start + MEMBER_BATCH]):
                connection.spawn(self._send_room(connection, feed))

    async def check_room(self, room_id: str) -> None:
        """Check the memberships of all users who are connected in a room, and wait until the store has answered."""
        room = self.registry.rooms.get(room_id)
        users = list({connection.user for connection in room.feeds}) if room else []
        for start in range(0, len(users), MEMBER_BATCH):
            changed = await self._apply([(room_id, user) for user in users[start : start + MEMBER_BATCH]])
            await asyncio.gather(*(self._send_room(connection, feed) for connection, feed in changed))

    async def _apply(self, members: Collection[Member]) -> list[tuple[Connection, Feed]]:
        """Change the rights of open connections as the database has them; return the feeds whose `room` frame must follow."""
        connections = [
            (connection, room, user)
            for room, user in members
            for connection in self.registry.connections_of(user)
        ]
        rooms = await directory.rooms_of_members(members)
        changed = []
        for connection, room, user in connections:
            if not connection.greeted:
                continue
            member_room, feed = rooms.get((room, user)), connection.feeds.get(room)
            if member_room is None:
                self.greeter.expel(connection, room)
            elif feed is None:
                # In a task, because it waits for the connection's reads, which a slow client can delay.
                connection.spawn(self._admit(connection, member_room))
            elif feed.room != member_room:
                feed.change_room(member_room)
                changed.append((connection, feed))
        return changed

    async def _admit(self, connection: Connection, room: MemberRoom) -> None:
        try:
            await self.greeter.admit(connection, room)
        except (MessagingError, DatabaseError) as error:
            log.warning("a room waits for the next check: %s", error, extra={"room": room.key.id})

    async def _send_room(self, connection: Connection, feed: Feed) -> None:
        try:
            await self.greeter.send_room(connection, feed)
        except MessagingError as error:
            log.warning("a changed room was not sent: %s", error, extra={"room": feed.room.key.id})

    async def check_members(self, room_id: str) -> None:
        """Check a room whose count of joins and leaves in the store differs from the count that this process has."""
        room = self.registry.rooms.get(room_id)
        if room is None:
            return
        await self.check_room(room_id)
        connection = next(iter(room.feeds), None)
        if connection is None:
            return
        with contextlib.suppress(MessagingError):
            [position] = await self.store.members.member_positions(connection.user, [(room.key, Held())])
            if position is not None:
                room.update_members(position)


def _changed_rooms(connection: Connection, rights: Mapping[str, directory.Rights]) -> set[str]:
    """Return the rooms that a connection has or lacks wrongly, or in which it uses old rights."""
    own = {room: directory.rights_of(feed.room) for room, feed in connection.feeds.items()}
    return {room for room in own.keys() | rights.keys() if own.get(room) != rights.get(room)}
