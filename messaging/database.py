"""The one way from a coroutine to the database: a hop to a thread that also closes connections which broke."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

P = ParamSpec("P")
T = TypeVar("T")


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread with a live connection and return what it returns."""
    answer: T = await database_sync_to_async(work)(*args, **kwargs)
    return answer
