"""The crossings between coroutines and what blocks: to the database, one by one or together, and from the admin and commands."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async

from . import pools

P = ParamSpec("P")
T = TypeVar("T")

_Outcome = tuple[Any, Exception | None]

TOGETHER_MOST = 50  # pieces of work in one hop: what else needs the thread waits for it


async def in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread with a live connection and return what it returns."""
    answer: T = await database_sync_to_async(work)(*args, **kwargs)
    return answer


async def together_in_database(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `in_database`, and all that waits for the thread goes in one hop over one connection: a thousand sockets come at once.

    For sockets only: what comes from synchronous code must return to its own thread.
    """
    here = _gatherings.setdefault(asyncio.get_running_loop(), _Gathering())
    answer: T = await here.take(partial(work, *args, **kwargs))
    return answer


class _Gathering:
    """What waits for a hop to the database, in one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._hopping = False

    def take(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((work, answer))
        if not self._hopping:
            self._hopping = True
            self._hopper = asyncio.ensure_future(self._hop())  # the loop keeps only weak references
        return answer

    async def _hop(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(TOGETHER_MOST, len(self._waiting)))]
                outcomes = await self._outcomes([work for work, _ in some])
                for (_, answer), (value, fault) in zip(some, outcomes, strict=True):
                    if answer.done():  # who asked has gone
                        continue
                    if fault is None:
                        answer.set_result(value)
                    else:
                        answer.set_exception(fault)
        finally:
            self._hopping = False

    async def _outcomes(self, works: list[Callable[[], Any]]) -> list[_Outcome]:
        try:
            return await in_database(_each, works)
        except Exception as fault:  # noqa: BLE001 -- the hop itself; who waits must hear of it
            return [(None, fault)] * len(works)


_gatherings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = weakref.WeakKeyDictionary()


def _each(works: list[Callable[[], Any]]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    for work in works:
        try:
            outcomes.append((work(), None))
        except Exception as fault:  # noqa: BLE001 -- whose it is, hears of it
            outcomes.append((None, fault))
    return outcomes


def run_verb(verb: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a coroutine function from synchronous code: in the server's loop where there is one, else in one made for it."""

    async def run() -> T:
        passing_by = pools.opened()
        try:
            return await verb(*args, **kwargs)
        finally:
            if not passing_by:
                await pools.close()

    return async_to_sync(run)()
