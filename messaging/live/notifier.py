"""Notices to open sockets: the newest at each connect, a new or dismissed one at once. The rows are `notices`'."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection

from django.db import Error as DatabaseError

from messaging import control, protocol
from messaging.bridge import in_database
from messaging.errors import NoSuchMessage
from messaging.expiry import notices
from messaging.store import Store

from .connection import Connection
from .hub import Hub
from .query_batches import ask

AGAIN_S = 5.0  # after a database that did not answer


class Notifier:
    """One process's telling of notices. `id` marks the control events that this process sent itself."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self.store = store
        self.hub = hub
        self.id = secrets.token_hex(4)

    async def repeat(self, connection: Connection) -> None:
        """Show a new connection what waits for its user, as soon as the database says it: messages do not wait for that."""
        while True:
            try:
                waiting = await ask(notices.newest, connection.user)
                break
            except DatabaseError:
                await asyncio.sleep(AGAIN_S)
        for fields in waiting:
            connection.push_frame(protocol.Notice(**fields))

    async def tell(self, user: int, ids: Collection[str]) -> None:
        """Show notices to the connections that a user has here."""
        if not self.hub.connections_of(user):
            return
        for fields in await in_database(notices.notices_by_id, user, list(ids)):
            frame = protocol.encode(protocol.Notice(**fields)).decode()
            for connection in self.hub.connections_of(user):
                if connection.welcomed:
                    connection.push(frame)

    async def dismiss(self, user: int, notice: str) -> None:
        """End a notice on all of a user's screens. Idempotent. Raises NoSuchMessage when the user has none like that."""
        if not await in_database(notices.dismiss, user, notice, await self.store.now_ms()):
            raise NoSuchMessage("You have no such notice.")
        await self.tell(user, [notice])
        await control.announce("noticed", user=user, notices=[notice], by=self.id)

    async def on_noticed(self, user: int, ids: Collection[str], by: str) -> None:
        """Take the news of a notice, unless this process is where it comes from."""
        if by != self.id:
            await self.tell(user, ids)
