"""Calls that many sockets make at once: one for all who ask about the same meanwhile, each with his own answer; others do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from messaging.errors import NotMember, Unavailable
from messaging.together import ASKING_MOST, KEYS_MOST, Together

Asked = Sequence[tuple[str, Sequence[int]]]


class Store:
    """What is called: it notes what it is asked; a call about `slow` waits until `go`."""

    def __init__(self, deadline_s: float = 10) -> None:
        self.calls: list[Asked] = []
        self.go = asyncio.Event()
        self.together: Together[str, int, str | NotMember] = Together(self.call, deadline_s=deadline_s)

    async def call(self, asked: Asked) -> list[list[str | NotMember | Unavailable]]:
        self.calls.append(asked)
        keys = [key for key, _ in asked]
        if "slow" in keys or "away" in keys:
            await self.go.wait()
        if "broken" in keys:
            raise ValueError("broken")
        return [[self.answer(key, who) for who in asking] for key, asking in asked]

    def answer(self, key: str, who: int) -> str | NotMember | Unavailable:
        if key == "away":
            return Unavailable()
        return NotMember() if who == 13 else f"{key}{who}"

    def ask(self, *asked: tuple[str, int]) -> asyncio.Task[list[str | NotMember]]:
        return asyncio.ensure_future(self.together.ask(asked))

    async def called(self, times: int) -> None:
        while len(self.calls) < times:
            await asyncio.sleep(0)


async def test_who_asks_about_what_is_under_way_goes_in_the_next_call_with_all_who_do() -> None:
    store = Store()
    first = store.ask(("slow", 0))
    await store.called(1)
    others = [store.ask(("slow", 1)), store.ask(("slow", 2))]
    assert await store.ask(("a", 1), ("b", 1)) == ["a1", "b1"], "what is about something else does not wait"
    store.go.set()
    assert await asyncio.gather(first, *others) == [["slow0"], ["slow1"], ["slow2"]]
    assert store.calls == [[("slow", [0])], [("a", [1]), ("b", [1])], [("slow", [1, 2])]]


async def test_what_is_asked_in_one_turn_shares_a_call() -> None:
    store = Store()
    assert await asyncio.gather(store.ask(("a", 1)), store.ask(("a", 2)), store.ask(("b", 3))) == [
        ["a1"],
        ["a2"],
        ["b3"],
    ]
    assert store.calls == [[("a", [1, 2]), ("b", [3])]]


async def test_a_call_takes_no_more_than_it_may() -> None:
    store = Store()
    many = [("a", who) for who in range(20, 20 + ASKING_MOST + 1)]
    keys = [(f"k{n}", 1) for n in range(KEYS_MOST)]
    assert await store.together.ask([*many, *keys]) == [f"{key}{who}" for key, who in (*many, *keys)]
    sizes = [[len(asking) for _, asking in call] for call in store.calls]
    assert sizes == [[ASKING_MOST] + [1] * (KEYS_MOST - 1), [1], [1]]


async def test_an_error_of_ones_own_is_an_answer() -> None:
    refused, other = await Store().together.ask([("a", 13), ("a", 1)])
    assert isinstance(refused, NotMember)
    assert other == "a1"


async def test_who_waits_behind_what_is_away_is_told_at_once_and_nobody_else() -> None:
    store = Store()
    first = store.ask(("away", 0))
    await store.called(1)
    others = [store.ask(("away", n)) for n in range(3)]
    well = await store.ask(("a", 1))
    store.go.set()
    told = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(one) for one in told] == [Unavailable] * 4
    assert len(store.calls) == 2
    assert well == ["a1"]


async def test_what_comes_too_late_is_unavailable_and_nobody_asks_for_who_has_gone() -> None:
    store = Store(deadline_s=0.05)
    first = store.ask(("slow", 0))
    await store.called(1)
    told = await asyncio.gather(first, store.ask(("slow", 1)), return_exceptions=True)
    assert [type(one) for one in told] == [Unavailable] * 2
    late = store.ask(("slow", 2))
    await asyncio.sleep(0)
    store.go.set()
    assert await late == ["slow2"]
    assert store.calls == [[("slow", [0])], [("slow", [2])]]


@pytest.mark.parametrize("key", ["broken", "a"])
async def test_a_fault_of_a_call_is_told_to_all_in_it_and_the_next_goes_on(key: str) -> None:
    store = Store()
    told = await asyncio.gather(store.ask(("broken", 1)), store.ask((key, 2)), return_exceptions=True)
    assert [type(one) for one in told] == [ValueError] * 2
    assert await store.together.ask([("a", 1)]) == ["a1"]


async def test_who_is_cancelled_takes_nobody_with_him() -> None:
    store = Store()
    first = store.ask(("slow", 1))
    await store.called(1)
    second, third = store.ask(("slow", 2)), store.ask(("slow", 3))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0)
    store.go.set()
    assert await third == ["slow3"]
    assert store.calls == [[("slow", [1])], [("slow", [3])]]


async def test_nothing_asked_is_nothing_called() -> None:
    store = Store()
    assert await store.together.ask([]) == []
    assert store.calls == []
