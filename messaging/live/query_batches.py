"""Database queries that many sockets make at the same moment, batched into one call in the database thread.

A query that is made while a call is under way joins the next call; the same query for many keys is run once. So when a thousand sockets
reconnect, this costs a few calls and queries instead of thousands. For sockets only: an answer to synchronous code must return to the
thread of that code (`bridge.run_async`).
"""

from __future__ import annotations

import asyncio
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError

from messaging.bridge import in_db_thread

from .coalescing import Coalescer

K = TypeVar("K")
V = TypeVar("V")
Query = Callable[[Sequence[K]], Mapping[K, V]]

MAX_BATCH = 100  # keys in one call: other work of the thread waits for it
BATCH_WINDOW_S = (
    0.03  # wait after a call with several keys: more queries will come, and a larger call is cheaper
)
THREAD = "database"  # the only key of the coalescer, because all queries share the thread

_Key = tuple[Query[Any, Any], Any]


async def batch_query(query: Query[K, V], key: K) -> V:
    """Return the answer of `query` for `key`. `query` is a function of many keys and runs in the thread. Raises its exceptions."""
    loop = asyncio.get_running_loop()
    batches = _batches.get(loop)
    if batches is None:
        batches = _batches[loop] = Coalescer(_call, max_members=MAX_BATCH, window_s=BATCH_WINDOW_S)
    [answer] = await batches.load_many([(THREAD, (query, key))])
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[no-any-return]


_batches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Coalescer[str, _Key, Any]] = (
    weakref.WeakKeyDictionary()
)


async def _call(requests: Sequence[tuple[str, Sequence[_Key]]]) -> list[list[Any]]:
    [(_, keys)] = requests
    return [await in_db_thread(_answer_all, keys)]


def _answer_all(requests: Sequence[_Key]) -> list[Any]:
    """Return an answer or an exception for each request."""
    keys: defaultdict[Query[Any, Any], list[Any]] = defaultdict(list)
    for query, key in requests:
        keys[query].append(key)
    answers = {query: _answers(query, list(dict.fromkeys(of_query))) for query, of_query in keys.items()}
    return [answers[query][key] for query, key in requests]


def _answers(query: Query[Any, Any], keys: list[Any]) -> Mapping[Any, Any]:
    try:
        return query(keys)
    except (InterfaceError, OperationalError) as error:  # the database does not answer
        return dict.fromkeys(keys, error)
    except Exception as error:  # noqa: BLE001 -- isolate the key that failed, so that it cannot fail the others
        if len(keys) == 1:
            return {keys[0]: error}
        return {key: _answers(query, [key])[key] for key in keys}
