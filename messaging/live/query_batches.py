"""Questions to the database that many sockets ask at the same moment, answered in one hop to its thread.

What is asked while a hop is under way goes in the next one, the same question for all who wait in one call: a thousand sockets
that come back at once cost a few hops and queries instead of thousands. For sockets only: what comes from synchronous code must
return to its own thread (`crossing.run_verb`).
"""

from __future__ import annotations

import asyncio
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError

from messaging.bridge import in_database

K = TypeVar("K")
V = TypeVar("V")
Question = Callable[[Sequence[K]], Mapping[K, V]]

PAUSE_S = 0.03  # after a hop in which several asked: more are coming, and a larger hop is cheaper
AT_ONCE = 100  # keys in one hop: what else needs the thread waits for it

_Waiting = tuple[Question[Any, Any], Any, asyncio.Future[Any]]


async def ask(question: Question[K, V], key: K) -> V:
    """Return what `question`, a function of many keys that runs in a thread, says of `key`. Raises what it raises."""
    gathered = _gathered.setdefault(asyncio.get_running_loop(), _Gathered())
    answer: V = await gathered.ask(question, key)
    return answer


class _Gathered:
    """What waits in one event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._hopping = False

    def ask(self, question: Question[Any, Any], key: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((question, key, future))
        if not self._hopping:
            self._hopping = True
            self._hopper = asyncio.ensure_future(self._hop())  # the loop keeps only weak references
        return future

    async def _hop(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    answers = await in_database(_answer_all, [(question, key) for question, key, _ in some])
                except Exception as fault:  # noqa: BLE001 -- the hop itself failed: who waits hears of it
                    answers = [fault] * len(some)
                for (_, _, future), answer in zip(some, answers, strict=True):
                    if future.done():  # who asked has gone
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                if len(some) > 1:
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._hopping = False


_gathered: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathered] = weakref.WeakKeyDictionary()


def _answer_all(asked: list[tuple[Question[Any, Any], Any]]) -> list[Any]:
    """Return an answer, or the exception, for each."""
    keys: defaultdict[Question[Any, Any], list[Any]] = defaultdict(list)
    for question, key in asked:
        keys[question].append(key)
    answers = {question: _answers(question, list(dict.fromkeys(some))) for question, some in keys.items()}
    return [answers[question][key] for question, key in asked]


def _answers(question: Question[Any, Any], keys: list[Any]) -> Mapping[Any, Any]:
    try:
        return question(keys)
    except (InterfaceError, OperationalError) as fault:  # it is away
        return dict.fromkeys(keys, fault)
    except Exception as fault:  # noqa: BLE001 -- one odd key: the others are not to suffer for it
        if len(keys) == 1:
            return {keys[0]: fault}
        return {key: answer for one in keys for key, answer in _answers(question, [one]).items()}
