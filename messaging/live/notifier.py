"""Notices on open sockets: the newest notices at every connect, a new or dismissed notice at once. `expiry.notices` has the rows.

A control event reports new and dismissed notices. It may be lost, so notices that this process has not sent are looked for every 30 s.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Collection

from django.db import Error as DatabaseError

from messaging import control, protocol
from messaging.bridge import in_db_thread
from messaging.errors import NoSuchMessage, Unavailable
from messaging.expiry import notices
from messaging.policy import Policy
from messaging.store import Store

from .connection import Connection
from .query_batches import batch_query
from .registry import Registry

RETRY_AFTER_S = 5.0  # after the database did not answer
OVERLAP_MS = 120_000  # a notice has the time at which its transaction began: it may be committed later
QUERY_BATCH = 500  # users in one query

Version = tuple[int, str, int, bool]  # of a notice: user, id, `at`, whether it is dismissed

log = logging.getLogger(__name__)


class Notifier:
    """The notices of one process's connections. `id` marks the control events that this process has sent."""

    def __init__(self, store: Store, registry: Registry, policy: Policy) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self.id = secrets.token_hex(4)
        self._sent: dict[Version, float] = {}  # when it was sent to all connections of the user (monotonic)
        self._checked_ms: int | None = None  # of the last complete check

    async def run(self) -> None:
        """Look for notices whose control event was lost, until cancelled. Twice in `recheck_interval_s`: their senders wait for them."""
        while True:
            try:
                await self.check()
            except (DatabaseError, Unavailable) as error:
                log.warning("notices cannot be checked: %s", type(error).__name__)
            await asyncio.sleep(self.policy.recheck_interval_s / 2)

    async def check(self) -> None:
        """Send the connected users the notices that were made or dismissed since the last check and that were not sent to them."""
        now_ms = await self.store.now_ms()
        since_ms = (now_ms if self._checked_ms is None else self._checked_ms) - OVERLAP_MS
        users = list(self.registry.by_user)
        for start in range(0, len(users), QUERY_BATCH):
            batch = users[start : start + QUERY_BATCH]
            unsent: defaultdict[int, list[str]] = defaultdict(list)
            for version in await in_db_thread(notices.changed_since, batch, since_ms):
                if version not in self._sent:
                    unsent[version[0]].append(version[1])
            for user, ids in unsent.items():
                await self.send(user, ids)
        since_mono_s = time.monotonic() - (now_ms - since_ms) / 1000
        self._sent = {version: sent_s for version, sent_s in self._sent.items() if sent_s >= since_mono_s}
        self._checked_ms = now_ms

    async def send_newest(self, connection: Connection) -> None:
        """Send a new connection its user's newest notices as soon as the database answers; messages do not wait for them."""
        while True:
            try:
                rows = await batch_query(notices.newest, connection.user)
                break
            except DatabaseError:
                await asyncio.sleep(RETRY_AFTER_S)
        for fields in rows:
            await connection.wait_until_writable()
            connection.push_frame(protocol.Notice(**fields))

    async def send(self, user: int, ids: Collection[str]) -> None:
        """Send notices to the connections of a user in this process."""
        if not self.registry.connections_of(user):
            return
        for fields in await in_db_thread(notices.notices_by_id, user, list(ids)):
            self._sent[user, fields["notice"], fields["at"], fields["dismissed"]] = time.monotonic()
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
