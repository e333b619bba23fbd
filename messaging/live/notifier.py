"""Notices on open sockets: the newest notices at every connect, a new or dismissed notice at once. `expiry.notices` has the rows."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection

from django.db import Error as DatabaseError

from messaging import control, protocol
from messaging.bridge import in_db_thread
from messaging.errors import NoSuchMessage
from messaging.expiry import notices
from messaging.store import Store

from .connection import Connection
from .query_batches import batch_query
from .registry import Registry

RETRY_AFTER_S = 5.0  # after the database did not answer


class Notifier:
    """The notices of one process's connections. `id` marks the control events that this process has sent."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.id = secrets.token_hex(4)

    async def send_newest(self, connection: Connection) -> None:
        """Send a new connection its user's newest notices as soon as the database answers; messages do not wait for them."""
        while True:
            try:
                rows = await batch_query(notices.newest, connection.user)
                break
            except DatabaseError:
                await asyncio.sleep(RETRY_AFTER_S)
        for fields in rows:
            connection.push_frame(protocol.Notice(**fields))

    async def send(self, user: int, ids: Collection[str]) -> None:
        """Send notices to the connections of a user in this process."""
        if not self.registry.connections_of(user):
            return
        for fields in await in_db_thread(notices.notices_by_id, user, list(ids)):
            frame = protocol.encode(protocol.Notice(**fields)).decode()
            for connection in self.registry.connections_of(user):
                if connection.welcomed:
                    connection.writer.push(frame)

    async def dismiss(self, user: int, notice: str) -> None:
        """Dismiss a notice on all of a user's connections. Idempotent. Raises NoSuchMessage if the user has no such notice."""
        if not await in_db_thread(notices.dismiss, user, notice, await self.store.now_ms()):
            raise NoSuchMessage("You have no such notice.")
        await self.send(user, [notice])
        await control.announce("noticed", user=user, notices=[notice], by=self.id)

    async def on_noticed(self, user: int, ids: Collection[str], by: str) -> None:
        """Handle the control event about notices, unless this process has sent it."""
        if by != self.id:
            await self.send(user, ids)
