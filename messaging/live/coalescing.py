"""Calls of the store that many sockets make at the same moment, as one call for all who ask about the same.

Who asks about something while a call for it is under way goes in the next one, never in that one: a read must begin after whoever asks
has begun to hold what comes in. So a room of a thousand that comes back at once costs some dozens of scripts, not thousands. What is
begun in one turn of the loop shares a round trip; nobody waits for a call about something else, nor hears of its fault.
`gathering` asks the database for many; there one hop follows another, for a thread is scarce.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from messaging.errors import Unavailable
from messaging.store.scripts import RETRY_AFTER_MS

KEYS_MOST = 20  # in one round trip
ASKING_MOST = 50  # about one of them: the script's time grows with them

K = TypeVar("K")  # what is asked about
M = TypeVar("M")  # who asks
A = TypeVar("A")  # what is answered
Asked = Sequence[tuple[K, Sequence[M]]]
_Waiting = tuple[M, "asyncio.Future[A | Unavailable | None]"]

log = logging.getLogger(__name__)


class Together(Generic[K, M, A]):
    """One kind of call in one event loop.

    `call` takes [(key, who ask)] and returns for each key an answer for each, None for one that cannot be had together with others;
    `alone` takes what one asked of that, [(key, who)], and returns the answers.
    """

    def __init__(
        self,
        call: Callable[[Asked[K, M]], Awaitable[Sequence[Sequence[A | Unavailable | None]]]],
        alone: Callable[[Sequence[tuple[K, M]]], Awaitable[Sequence[A | Unavailable]]],
        *,
        deadline_s: float,
    ) -> None:
        self._call = call
        self._alone = alone
        self._deadline_s = deadline_s
        self._waiting: dict[K, list[_Waiting[M, A]]] = {}
        self._under_way: set[K] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references
        self._beginning = False

    async def ask(self, asked: Sequence[tuple[K, M]]) -> list[A]:
        """Return the answers in order. Raises Unavailable where one is that or comes too late, and what the call raises."""
        futures = [self._ask(key, who) for key, who in asked]
        try:
            async with asyncio.timeout(self._deadline_s):
                found = await asyncio.gather(*futures)
                left = [one for one, answer in zip(asked, found, strict=True) if answer is None]
                others = iter(await self._alone(left) if left else ())
        except TimeoutError as late:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from late
        finally:
            for future in futures:
                future.cancel()  # where one has failed nobody waits for the others
        answers: list[A] = []
        for answer in found:
            own = next(others) if answer is None else answer
            if isinstance(own, Unavailable):
                raise own
            answers.append(own)
        return answers

    def _ask(self, key: K, who: M) -> asyncio.Future[A | Unavailable | None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A | Unavailable | None] = loop.create_future()
        self._waiting.setdefault(key, []).append((who, future))
        if key not in self._under_way and not self._beginning:
            self._beginning = True
            loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        """Begin calls for all that waits and is not under way: what was asked in this turn of the loop, or behind a call that ended."""
        self._beginning = False
        ready = [key for key in self._waiting if key not in self._under_way]
        for at in range(0, len(ready), KEYS_MOST):
            taken = [(key, self._take(key)) for key in ready[at : at + KEYS_MOST]]
            taken = [(key, waiting) for key, waiting in taken if waiting]
            if taken:
                self._under_way.update(key for key, _ in taken)
                task = asyncio.ensure_future(self._answer_all(taken))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self, key: K) -> list[_Waiting[M, A]]:
        """Take who has waited longest, and still does."""
        waiting = [(who, future) for who, future in self._waiting.pop(key) if not future.done()]
        if len(waiting) > ASKING_MOST:
            self._waiting[key] = waiting[ASKING_MOST:]
        return waiting[:ASKING_MOST]

    async def _answer_all(self, taken: Sequence[tuple[K, Sequence[_Waiting[M, A]]]]) -> None:
        try:
            await self._answer(taken)
        finally:
            self._under_way.difference_update(key for key, _ in taken)
            if self._waiting and not self._beginning:
                self._beginning = True
                asyncio.get_running_loop().call_soon(self._begin)

    async def _answer(self, taken: Sequence[tuple[K, Sequence[_Waiting[M, A]]]]) -> None:
        try:
            answers = await self._call([(key, [who for who, _ in waiting]) for key, waiting in taken])
        except Exception as fault:
            if len(taken) > 1:  # one odd key: the others are not to suffer for it
                for one in taken:
                    await self._answer([one])
                return
            [(_, waiting)] = taken
            left = [future for _, future in waiting if not future.done()]
            if not left:
                log.exception("a call failed, and nobody is left to hear of it")
            for future in left:
                future.set_exception(fault)
            return
        for (key, waiting), row in zip(taken, answers, strict=True):
            for (_, future), answer in zip(waiting, row, strict=True):
                if not future.done():  # who asked has gone
                    future.set_result(answer)
            if all(isinstance(answer, Unavailable) for answer in row):
                self._give_up(key, row[0])

    def _give_up(self, key: K, answer: A | Unavailable | None) -> None:
        """Tell those who wait behind a call that was not answered: each has waited as long as he may."""
        for _, future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(answer)
