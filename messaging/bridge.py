"""Calls between coroutines and synchronous code: from coroutines to the database, and from the admin, signals and commands to
coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async

from .store import connections

P = ParamSpec("P")
T = TypeVar("T")


async def in_db_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in the database thread, with a working database connection, and return its result."""
    result: T = await database_sync_to_async(work)(*args, **kwargs)
    return result


def run_async(function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a coroutine function from synchronous code: in the server's event loop if there is one, otherwise in a new loop."""

    async def run() -> T:
        connected_before = connections.opened()
        try:
            return await function(*args, **kwargs)
        finally:
            if not connected_before:  # the connections belong to this loop, which is about to end
                await connections.close()

    return async_to_sync(run)()
