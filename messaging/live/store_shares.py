"""The users' shares of the store's last memory: while it is nearly full, the users who sent most are refused first.

1. `count` adds up the bytes of the messages that the store has accepted from each user of this process.
2. Every few seconds the use of the store's memory is read.
3. While more than `memory_shared_from` of it is used, the memory that is left is divided equally among the users of this process who have sent
   in the last 30 to 60 minutes. `require` refuses each user who has sent more than this share in that time.

So a user who fills the store does not take the last memory from the others. A store without a memory limit has no shares.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from messaging.errors import BacklogFull, Unavailable
from messaging.policy import Policy
from messaging.store import Store

MESSAGE_BYTES = 464  # measured: a message of 100 bytes takes 564
PERIOD_S = 1_800.0  # the present period and the last one are counted: 30 to 60 minutes
RETRY_AFTER_MS = 5_000  # as when the store itself is full


class StoreShares:
    """The bytes sent by the users of one process, and the present share of each user (None while there is enough memory)."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.share_bytes: int | None = None
        self._sent: dict[int, int] = {}
        self._sent_before: dict[int, int] = {}  # in the last period
        self._period_began_s = time.monotonic()

    async def run(self) -> None:
        """Read the use of the memory every few seconds, until cancelled."""
        while True:
            with suppress(Unavailable):
                await self.check()
            await asyncio.sleep(self.policy.memory_interval_s)

    async def check(self) -> None:
        """Compute the share of a user. Raises Unavailable."""
        if time.monotonic() - self._period_began_s >= PERIOD_S:
            self._sent, self._sent_before = {}, self._sent
            self._period_began_s = time.monotonic()
        memory = await self.store.stats.memory()
        if not memory.limit or memory.used <= memory.limit * self.policy.memory_shared_from:
            self.share_bytes = None
            return
        users = len(self._sent.keys() | self._sent_before.keys())
        self.share_bytes = max(0, memory.limit - memory.used) // max(1, users)

    def require(self, user: int) -> None:
        """Raise BacklogFull if the store is nearly full and the user has sent more than their share."""
        if self.share_bytes is None:
            return
        if self._sent.get(user, 0) + self._sent_before.get(user, 0) > self.share_bytes:
            raise BacklogFull(
                "The store is nearly full, and you have sent more than others. Send this again later.",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def count(self, user: int, body: str) -> None:
        """Count an accepted message."""
        self._sent[user] = self._sent.get(user, 0) + MESSAGE_BYTES + len(body.encode())
