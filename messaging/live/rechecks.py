"""Checks of open connections: their sessions (`directory.still_authorized`) and their memberships.

A control event causes a check at once. Every 60 s everything is checked, because an event may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping

from django.db import Error as DatabaseError

from messaging.errors import MessagingError, Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import Held

from . import directory
from .connection import Connection
from .feed import MemberRoom
from .greeting import Greeter
from .registry import Registry

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
            for user in users:
                for connection in self.registry.connections_of(user):
                    if connection.greeted:
                        for room in _changed_rooms(connection, rights[user]):
                            await self.check_membership(room, user)
        except (DatabaseError, Unavailable) as error:
            log.warning("connections cannot be checked: %s", type(error).__name__)

    async def check_sessions(self, connections: Iterable[Connection]) -> None:
        """Close the connections whose session has ended."""
        checked = list(connections)  # not those that open during the query
        authorized = await directory.still_authorized({connection.visitor for connection in checked})
        for connection in checked:
            if connection.visitor not in authorized:
                connection.close(Close.NO_SESSION)

    async def check_membership(self, room: str, user: int) -> None:
        """Add, update or remove a room on a user's connections, according to the database."""
        connections = self.registry.connections_of(user)
        if not connections:
            return
        member_room = await directory.room_of(user, room)
        for connection in connections:
            if not connection.greeted:
                continue
            if member_room is None:
                self.greeter.expel(connection, room)
            elif room in connection.feeds:
                await self.greeter.update(connection, member_room)
            else:  # in a task, because it waits for the connection's reads, which a slow client can delay
                connection.spawn(self._admit(connection, member_room))

    async def _admit(self, connection: Connection, room: MemberRoom) -> None:
        try:
            await self.greeter.admit(connection, room)
        except (MessagingError, DatabaseError) as error:
            log.warning("a room waits for the next check: %s", error, extra={"room": room.key.id})

    async def check_room(self, room_id: str) -> None:
        """Check the memberships of all users who are connected in a room."""
        room = self.registry.rooms.get(room_id)
        for user in {connection.user for connection in room.feeds} if room else ():
            await self.check_membership(room_id, user)

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
