"""Tasks of the process that belong to no connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

RESTART_AFTER_S = 1.0

log = logging.getLogger(__name__)


class Background:
    """The running tasks. The failure of a task is logged."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        """Run a coroutine once. If it fails, the next periodic check does its work."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def keep_running(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the server and start it again if it fails: a process without this part would seem healthy."""
        self.spawn(_keep_running(part))

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed; the next check repairs it", exc_info=task.exception())


async def _keep_running(part: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await part()
        except Exception:
            log.exception("a part of the server failed and starts again", extra={"part": part.__qualname__})
        await asyncio.sleep(RESTART_AFTER_S)
