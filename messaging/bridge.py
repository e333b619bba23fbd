"""The two crossings between coroutines and what blocks: to the database, and from the admin, signals and commands."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async

from .store import connections

P = ParamSpec("P")
T = TypeVar("T")


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread with a live connection and return what it returns."""
    answer: T = await database_sync_to_async(work)(*args, **kwargs)
    return answer


def run_verb(verb: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a coroutine function from synchronous code: in the server's loop where there is one, else in one made for it."""

    async def run() -> T:
        passing_by = connections.opened()
        try:
            return await verb(*args, **kwargs)
        finally:
            if not passing_by:
                await connections.close()

    return async_to_sync(run)()
