"""Calls that many sockets make at once: one call for all who ask while another is under way, each with his own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from messaging.errors import NotMember, Unavailable
from messaging.together import ASKING_MOST, KEYS_MOST, Together

Asked = Sequence[tuple[str, Sequence[int]]]


class Store:
    """What is called: it notes what it is asked and waits at the first call until `go`."""

    def __init__(self) -> None:
        self.calls: list[Asked] = []
        self.go = asyncio.Event()
        self.together: Together[str, int, str | NotMember] = Together(self.call)

    async def call(self, asked: Asked) -> list[list[str | NotMember | Unavailable]]:
        self.calls.append(asked)
        await self.go.wait()
        if any(key == "broken" for key, _ in asked):
            raise ValueError("broken")
        if any(key == "raises" for key, _ in asked):
            raise Unavailable()
        return [[self.answer(key, who) for who in asking] for key, asking in asked]

    def answer(self, key: str, who: int) -> str | NotMember | Unavailable:
        if key == "away":
            return Unavailable()
        return NotMember() if who == 13 else f"{key}{who}"

    async def behind(self, *asked: Sequence[tuple[str, int]]) -> list[object]:
        """Let one ask, and others while that is under way; return what the others were told."""
        first = asyncio.ensure_future(self.together.ask([("first", 0)]))
        while not self.calls:
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(self.together.ask(one)) for one in asked]
        await asyncio.sleep(0)
        self.go.set()
        assert await first == ["first0"]
        return list(await asyncio.gather(*others, return_exceptions=True))


async def test_what_waits_goes_in_one_call_and_nobody_in_one_that_has_begun() -> None:
    store = Store()
    told = await store.behind([("a", 1), ("b", 1)], [("a", 2)], [("first", 3)])
    assert told == [["a1", "b1"], ["a2"], ["first3"]]
    assert store.calls == [[("first", [0])], [("a", [1, 2]), ("b", [1]), ("first", [3])]]


async def test_a_call_takes_no_more_than_it_may() -> None:
    store = Store()
    many = [[("a", who)] for who in range(20, 20 + ASKING_MOST + 1)]
    told = await store.behind(*many, [(f"k{n}", 1) for n in range(KEYS_MOST)])
    assert told[:-1] == [[f"a{who}"] for [(_, who)] in many]
    assert told[-1] == [f"k{n}1" for n in range(KEYS_MOST)]
    assert [[len(asking) for _, asking in call] for call in store.calls] == [
        [1],
        [ASKING_MOST] + [1] * (KEYS_MOST - 1),
        [1, 1],
    ]


async def test_an_error_of_ones_own_is_an_answer() -> None:
    [[refused], [other]] = await Store().behind([("a", 13)], [("a", 1)])  # type: ignore[misc]
    assert isinstance(refused, NotMember)
    assert other == "a1"


async def test_what_is_away_is_raised_to_who_asked_for_it() -> None:
    away, well = await Store().behind([("away", 1), ("a", 1)], [("a", 2)])
    assert isinstance(away, Unavailable)
    assert well == ["a2"]


@pytest.mark.parametrize("how", ["away", "raises"])
async def test_who_waits_behind_a_store_that_is_away_is_told_at_once(how: str) -> None:
    store = Store()
    together = store.together
    first = asyncio.ensure_future(together.ask([(how, 0)]))
    while not store.calls:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(together.ask([(f"k{n}", 1)])) for n in range(3)]
    await asyncio.sleep(0)
    store.go.set()
    told = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(one) for one in told] == [Unavailable] * 4
    assert len(store.calls) == 1
    assert await together.ask([("a", 1)]) == ["a1"]


async def test_a_fault_of_the_call_is_everybodys_and_the_next_goes_on() -> None:
    store = Store()
    told = await store.behind([("broken", 1)], [("a", 1)])
    assert [type(one) for one in told] == [ValueError] * 2
    assert await store.together.ask([("a", 1)]) == ["a1"]


async def test_who_has_gone_is_not_answered_and_the_rest_goes_on() -> None:
    store = Store()
    first = asyncio.ensure_future(store.together.ask([("a", 1)]))
    while not store.calls:
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(store.together.ask([("a", 2)]))
    await asyncio.sleep(0)
    store.go.set()
    assert await second == ["a2"]


async def test_nothing_asked_is_nothing_called() -> None:
    store = Store()
    assert await store.together.ask([]) == []
    assert store.calls == []
