"""Coalesced calls: many requests with the same key at the same moment become one call.

A request for a key joins the next call for that key, never a call that has begun: a read must begin after the client's feed has begun
to hold publications. So when a room's thousand clients reconnect, this costs some dozens of scripts, not thousands. Calls for
different keys do not wait for each other. Calls that begin in the same turn of the event loop share a round trip.

`reading` and `greeting` coalesce calls of the store, `query_batches` those of the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from messaging.errors import Unavailable
from messaging.store.scripts import RETRY_AFTER_MS

MAX_KEYS = 20  # in one round trip
MAX_MEMBERS = 50  # for one key of a round trip: the script's time grows with them

K = TypeVar("K")  # the key: requests with the same key share a call
M = TypeVar("M")  # the member: the part in which these requests differ, for example a user
A = TypeVar("A")  # the answer
_Waiting = tuple[M, "asyncio.Future[A | Unavailable | None]"]

log = logging.getLogger(__name__)


class Coalescer(Generic[K, M, A]):
    """One kind of call in one event loop.

    `batch` receives [(key, members)] and returns for each key an answer for each member, or None. Requests answered with None are
    passed to `fallback`: it receives the [(key, member)] of one `load_many` and returns their answers.
    After a call for more than one member of a key, the next call for this key begins `window_s` later.
    """

    def __init__(
        self,
        batch: Callable[
            [Sequence[tuple[K, Sequence[M]]]], Awaitable[Sequence[Sequence[A | Unavailable | None]]]
        ],
        fallback: Callable[[Sequence[tuple[K, M]]], Awaitable[Sequence[A | Unavailable]]] | None = None,
        *,
        deadline_s: float | None = None,
        max_members: int = MAX_MEMBERS,
        window_s: float = 0.0,
    ) -> None:
        self._batch = batch
        self._fallback = fallback
        self._deadline_s = deadline_s
        self._max_members = max_members
        self._window_s = window_s
        self._waiting: dict[K, list[_Waiting[M, A]]] = {}
        self._under_way: set[K] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references
        self._begin_scheduled = False

    async def load_many(self, requests: Sequence[tuple[K, M]]) -> list[A]:
        """Return the answers in order. Raises Unavailable if an answer is Unavailable or comes too late, and the errors of the call."""
        futures = [self._request(key, member) for key, member in requests]
        try:
            async with asyncio.timeout(self._deadline_s):
                answers = await asyncio.gather(*futures)
                missing = [row for row, answer in zip(requests, answers, strict=True) if answer is None]
                if missing and self._fallback is not None:
                    others = iter(await self._fallback(missing))
                    answers = [next(others) if answer is None else answer for answer in answers]
        except TimeoutError as late:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from late
        finally:
            for future in futures:
                future.cancel()  # after a failure the other answers are not needed
        for answer in answers:
            if isinstance(answer, Unavailable):
                raise answer
        return answers  # type: ignore[return-value]

    def _request(self, key: K, member: M) -> asyncio.Future[A | Unavailable | None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A | Unavailable | None] = loop.create_future()
        self._waiting.setdefault(key, []).append((member, future))
        if key not in self._under_way and not self._begin_scheduled:
            self._begin_scheduled = True
            loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        """Begin calls for all waiting keys for which no call is under way."""
        self._begin_scheduled = False
        ready = [key for key in self._waiting if key not in self._under_way]
        for start in range(0, len(ready), MAX_KEYS):
            calls = [(key, self._take(key)) for key in ready[start : start + MAX_KEYS]]
            calls = [(key, waiting) for key, waiting in calls if waiting]
            if calls:
                self._under_way.update(key for key, _ in calls)
                task = asyncio.ensure_future(self._answer_all(calls))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self, key: K) -> list[_Waiting[M, A]]:
        """Remove and return the first requests for a key that were not cancelled, at most `max_members`."""
        waiting = [(member, future) for member, future in self._waiting.pop(key) if not future.done()]
        if len(waiting) > self._max_members:
            self._waiting[key] = waiting[self._max_members :]
        return waiting[: self._max_members]

    async def _answer_all(self, calls: Sequence[tuple[K, Sequence[_Waiting[M, A]]]]) -> None:
        try:
            await self._answer(calls)
            if self._window_s and any(len(waiting) > 1 for _, waiting in calls):
                await asyncio.sleep(self._window_s)
        finally:
            self._under_way.difference_update(key for key, _ in calls)
            if self._waiting and not self._begin_scheduled:
                self._begin_scheduled = True
                asyncio.get_running_loop().call_soon(self._begin)

    async def _answer(self, calls: Sequence[tuple[K, Sequence[_Waiting[M, A]]]]) -> None:
        try:
            rows = await self._batch([(key, [member for member, _ in waiting]) for key, waiting in calls])
        except Exception as fault:
            if len(calls) > 1:  # isolate the key that failed, so that it cannot fail the others
                for call in calls:
                    await self._answer([call])
                return
            [(_, waiting)] = calls
            pending = [future for _, future in waiting if not future.done()]
            if not pending:
                log.exception("a call failed, and nothing waits for its answer any more")
            for future in pending:
                future.set_exception(fault)
            return
        for (key, waiting), row in zip(calls, rows, strict=True):
            for (_, future), answer in zip(waiting, row, strict=True):
                if not future.done():  # otherwise the request was cancelled
                    future.set_result(answer)
            if all(isinstance(answer, Unavailable) for answer in row):
                self._give_up(key, row[0])

    def _give_up(self, key: K, answer: A | Unavailable | None) -> None:
        """Give this answer to the requests that waited for the end of an unavailable call: they have waited long enough."""
        for _, future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(answer)
