"""Calls of the store that many sockets make at the same moment, as one call for all who ask about the same.

What is asked while a call is under way goes in the next one, never in that one: a read must begin after whoever asks has begun to
hold what comes in. So a room of a thousand that comes back at once costs some dozens of scripts, not thousands.
`gathering` is the same for the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from .errors import Unavailable
from .scripts import RETRY_AFTER_MS

KEYS_MOST = 20  # in one call
ASKING_MOST = 100  # of one of them

K = TypeVar("K")  # what is asked about
M = TypeVar("M")  # who asks
A = TypeVar("A")
Call = Callable[[Sequence[tuple[K, Sequence[M]]]], Awaitable[Sequence[Sequence[A | Unavailable]]]]
_Asking = tuple[M, "asyncio.Future[A | Unavailable]"]


class Together(Generic[K, M, A]):
    """One kind of call in one event loop. `call` takes [(key, who ask)] and returns for each key an answer for each."""

    def __init__(self, call: Call[K, M, A]) -> None:
        self._call = call
        self._waiting: dict[K, list[_Asking[M, A]]] = {}
        self._under_way = False

    async def ask(self, asked: Sequence[tuple[K, M]]) -> list[A]:
        """Return the answers in order. Raises Unavailable where one of them is that, and what the call raises."""
        found: list[A] = []
        for answer in await asyncio.gather(*(self._ask(key, who) for key, who in asked)):
            if isinstance(answer, Unavailable):
                raise answer
            found.append(answer)
        return found

    def _ask(self, key: K, who: M) -> asyncio.Future[A | Unavailable]:
        future: asyncio.Future[A | Unavailable] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((who, future))
        if not self._under_way:
            self._under_way = True
            self._caller = asyncio.ensure_future(self._call_all())  # the loop keeps only weak references
        return future

    async def _call_all(self) -> None:
        """Call for what is asked, and for what is asked while that is under way, until nothing is."""
        try:
            while self._waiting:
                taken = self._take()
                try:
                    answers = await self._call([(key, [who for who, _ in asking]) for key, asking in taken])
                except Exception as fault:  # noqa: BLE001 -- whoever waits hears of it
                    self._fail(taken, fault)
                else:
                    _tell(taken, answers)
                    if all(isinstance(answer, Unavailable) for row in answers for answer in row):
                        self._fail((), Unavailable(retry_after_ms=RETRY_AFTER_MS))
        finally:
            self._under_way = False

    def _fail(self, taken: Iterable[tuple[K, Sequence[_Asking[M, A]]]], fault: Exception) -> None:
        """Tell of a fault. Who waits behind a store that does not answer has waited as long as he may."""
        waiting: Iterable[tuple[K, Sequence[_Asking[M, A]]]] = ()
        if isinstance(fault, Unavailable):
            waiting, self._waiting = self._waiting.items(), {}
        for _, asking in (*taken, *waiting):
            for _, future in asking:
                if not future.done():
                    future.set_exception(fault)

    def _take(self) -> list[tuple[K, list[_Asking[M, A]]]]:
        """Take what has waited longest."""
        taken = []
        for key in list(self._waiting)[:KEYS_MOST]:
            asking = self._waiting.pop(key)
            if len(asking) > ASKING_MOST:
                self._waiting[key] = asking[ASKING_MOST:]
            taken.append((key, asking[:ASKING_MOST]))
        return taken


def _tell(
    taken: Sequence[tuple[K, Sequence[_Asking[M, A]]]], answers: Sequence[Sequence[A | Unavailable]]
) -> None:
    for (_, asking), row in zip(taken, answers, strict=True):
        for (_, future), answer in zip(asking, row, strict=True):
            if not future.done():  # who asked may have gone
                future.set_result(answer)
