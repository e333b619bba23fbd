"""A queue for the work of one connection: the pieces of work run one after another, in the order of their requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from messaging.errors import Unavailable


class Lane:
    """One queue. Work that uses only `lock` waits its turn, but does not share the failures of the other work."""

    __slots__ = ("_failures", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._failures = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the earlier work. Raises Unavailable if that was unavailable: this work has waited long enough."""
        failures = self._failures
        async with self.lock:
            if self._failures != failures:
                raise Unavailable(retry_after_ms=1_000)
            try:
                yield
            except Unavailable:
                self._failures += 1
                raise
