"""Work of one connection that runs one after another, in the order in which it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from messaging.errors import Unavailable


class Lane:
    """One such queue. `lock` is for work that neither fails others nor fails with them."""

    __slots__ = ("_failures", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._failures = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the work before this one. Raises Unavailable if that was unavailable: this one has waited long enough."""
        failures = self._failures
        async with self.lock:
            if self._failures != failures:
                raise Unavailable(retry_after_ms=1_000)
            try:
                yield
            except Unavailable:
                self._failures += 1
                raise
