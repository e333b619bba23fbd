"""Database queries of many sockets at once: one hop, one call, an answer for each key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection

import pytest
from django.db import DataError, OperationalError

from messaging.live import query_batches
from messaging.live.query_batches import batch_query

pytestmark = pytest.mark.django_db(transaction=True)


class Asked:
    """A query that notes its calls; the first one waits until `go`."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = threading.Event()

    def doubled(self, keys: Collection[int]) -> dict[int, int]:
        self.calls.append(list(keys))
        assert self.go.wait(10)
        if 13 in keys:
            raise ValueError("odd")
        if 17 in keys:
            raise DataError("a NUL")
        if 99 in keys:
            raise OperationalError("away")
        return {key: 2 * key for key in keys}


async def asked_behind(asked: Asked, keys: Collection[int]) -> list[int | BaseException]:
    """Ask for 0, and for the others while that query runs."""
    first = asyncio.ensure_future(batch_query(asked.doubled, 0))
    while not asked.calls:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(batch_query(asked.doubled, key)) for key in keys]
    await asyncio.sleep(0)
    asked.go.set()
    assert await first == 0
    return await asyncio.gather(*others, return_exceptions=True)


async def test_waiting_queries_are_one_call_with_each_key_once() -> None:
    asked = Asked()
    assert await asked_behind(asked, [1, 2, 2, 3]) == [2, 4, 4, 6]
    assert asked.calls == [[0], [1, 2, 3]]


async def test_a_hop_has_a_largest_size() -> None:
    asked = Asked()
    most = query_batches.MAX_BATCH
    keys = [key for key in range(1, 2 * most + 3) if key not in (13, 17, 99)]
    await asked_behind(asked, keys)
    assert [len(call) for call in asked.calls] == [1, most, most - 1]


async def test_an_invalid_key_fails_no_other() -> None:
    asked = Asked()
    one, odd, two = await asked_behind(asked, [1, 13, 2])
    assert (one, two) == (2, 4)
    assert isinstance(odd, ValueError)


async def test_a_key_that_the_database_refuses_fails_no_other() -> None:
    asked = Asked()
    one, refused, two = await asked_behind(asked, [1, 17, 2])
    assert (one, two) == (2, 4)
    assert isinstance(refused, DataError)


async def test_a_database_that_is_away_fails_all_keys() -> None:
    asked = Asked()
    answers = await asked_behind(asked, [1, 99])
    assert [type(answer) for answer in answers] == [OperationalError] * 2
    assert len(asked.calls) == 2  # no key is tried separately


async def test_a_cancelled_query_does_not_stop_the_next() -> None:
    asked = Asked()
    first = asyncio.ensure_future(batch_query(asked.doubled, 0))
    while not asked.calls:
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(batch_query(asked.doubled, 5))
    await asyncio.sleep(0)
    asked.go.set()
    assert await second == 10


async def test_a_pause_collects_many_queries_and_a_single_one_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", slept)
    asked = Asked()
    asked.go.set()
    assert await batch_query(asked.doubled, 1) == 2
    assert pauses == []
    assert await asyncio.gather(batch_query(asked.doubled, 1), batch_query(asked.doubled, 2)) == [2, 4]
    await sleep(0)
    assert pauses == [query_batches.BATCH_WINDOW_S]
