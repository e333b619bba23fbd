"""Coalesced calls: one for all requests with the same key, an answer for each of them; other keys do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from messaging.errors import NotMember, Unavailable
from messaging.live.coalescing import MAX_KEYS, MAX_MEMBERS, Coalescer
from tests.support.sockets import until

Asked = Sequence[tuple[str, Sequence[int]]]
Answer = str | NotMember | Unavailable


class Store:
    """The store that is called; it notes the calls. A call about `slow`, `away` or `late` waits until `go`; `own` has no answer in a batch."""

    def __init__(self, deadline_s: float = 10) -> None:
        self.asking = 0
        self.calls: list[Asked] = []
        self.alone: list[Sequence[tuple[str, int]]] = []
        self.go = asyncio.Event()
        self.coalescer: Coalescer[str, int, Answer] = Coalescer(
            self.call, self.call_alone, deadline_s=deadline_s
        )

    async def call(self, asked: Asked) -> list[list[Answer | None]]:
        self.calls.append(asked)
        keys = {key for key, _ in asked}
        if keys & {"slow", "away", "late"}:
            await self.go.wait()
        if keys & {"broken", "late"}:
            raise ValueError("broken")
        return [[self.answer(key, who) for who in asking] for key, asking in asked]

    async def call_alone(self, asked: Sequence[tuple[str, int]]) -> list[Answer]:
        self.alone.append(asked)
        if any(who == 98 for _, who in asked):
            await self.go.wait()
        return [Unavailable() if who == 99 else f"{key}{who} alone" for key, who in asked]

    def answer(self, key: str, who: int) -> Answer | None:
        if key == "away":
            return Unavailable()
        if key == "own":
            return None
        return NotMember() if who == 13 else f"{key}{who}"

    def ask(self, *asked: tuple[str, int]) -> asyncio.Task[list[Answer]]:
        async def asking() -> list[Answer]:
            self.asking += 1  # it makes its request before other tasks run
            return await self.coalescer.load_many(asked)

        return asyncio.ensure_future(asking())

    async def has_asked(self, times: int) -> None:
        await until(lambda: self.asking == times)

    async def called(self, times: int) -> None:
        await until(lambda: len(self.calls) == times)


async def test_requests_for_a_key_under_way_share_the_next_call() -> None:
    store = Store()
    first = store.ask(("slow", 0))
    await store.called(1)
    others = [store.ask(("slow", 1)), store.ask(("slow", 2))]
    assert await store.ask(("a", 1), ("b", 1)) == ["a1", "b1"], "another key does not wait"
    store.go.set()
    assert await asyncio.gather(first, *others) == [["slow0"], ["slow1"], ["slow2"]]
    assert store.calls == [[("slow", [0])], [("a", [1]), ("b", [1])], [("slow", [1, 2])]]


async def test_requests_of_one_turn_share_a_call() -> None:
    store = Store()
    answers = await asyncio.gather(store.ask(("a", 1)), store.ask(("a", 2)), store.ask(("b", 3)))
    assert answers == [["a1"], ["a2"], ["b3"]]
    assert store.calls == [[("a", [1, 2]), ("b", [3])]]


async def test_a_call_has_a_largest_size() -> None:
    store = Store()
    many = [("a", who) for who in range(20, 20 + MAX_MEMBERS + 1)]
    keys = [(f"k{n}", 1) for n in range(MAX_KEYS)]
    assert await store.coalescer.load_many([*many, *keys]) == [f"{key}{who}" for key, who in (*many, *keys)]
    sizes = [[len(asking) for _, asking in call] for call in store.calls]
    assert sizes == [[MAX_MEMBERS] + [1] * (MAX_KEYS - 1), [1], [1]]


async def test_requests_without_an_answer_in_the_batch_use_the_fallback() -> None:
    store = Store()
    answers = await asyncio.gather(store.ask(("own", 1), ("a", 1), ("other", 2)), store.ask(("own", 2)))
    assert answers == [["own1 alone", "a1", "other2"], ["own2 alone"]]
    assert sorted(store.alone) == [[("own", 1)], [("own", 2)]]
    failed, well = await asyncio.gather(store.ask(("own", 99)), store.ask(("own", 3)), return_exceptions=True)
    assert isinstance(failed, Unavailable)
    assert well == ["own3 alone"]


async def test_the_fallback_has_the_same_deadline() -> None:
    store = Store(deadline_s=0.05)
    with pytest.raises(Unavailable):
        await store.coalescer.load_many([("own", 98)])
    assert store.alone == [[("own", 98)]]


async def test_an_error_for_one_member_is_an_answer() -> None:
    refused, other = await Store().coalescer.load_many([("a", 13), ("a", 1)])
    assert isinstance(refused, NotMember)
    assert other == "a1"


async def test_requests_that_wait_for_an_unavailable_key_are_answered_at_once() -> None:
    store = Store()
    first = store.ask(("away", 0))
    await store.called(1)
    others = [store.ask(("away", n)) for n in range(3)]
    assert await store.ask(("a", 1)) == ["a1"]
    store.go.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(error) for error in answers] == [Unavailable] * 4
    assert len(store.calls) == 2


async def test_a_late_answer_is_unavailable_and_cancelled_requests_are_not_called() -> None:
    store = Store(deadline_s=0.05)
    first = store.ask(("slow", 0))
    await store.called(1)
    answers = await asyncio.gather(first, store.ask(("slow", 1)), return_exceptions=True)
    assert [type(error) for error in answers] == [Unavailable] * 2
    late = store.ask(("slow", 2))
    await store.has_asked(3)
    store.go.set()
    assert await late == ["slow2"]
    assert store.calls == [[("slow", [0])], [("slow", [2])]]


async def test_the_error_of_one_key_fails_only_requests_for_that_key() -> None:
    store = Store()
    *broken, well = await asyncio.gather(
        store.ask(("broken", 1)), store.ask(("broken", 2)), store.ask(("a", 1)), return_exceptions=True
    )
    assert [type(error) for error in broken] == [ValueError] * 2
    assert well == ["a1"]
    assert store.calls[1:] == [[("broken", [1, 2])], [("a", [1])]]
    assert await store.ask(("a", 2)) == ["a2"], "the next request continues"


async def test_an_error_without_a_waiting_request_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    asking = store.ask(("late", 1))
    await store.called(1)
    asking.cancel()
    await until(asking.done)
    store.go.set()
    await until(lambda: caplog.records)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["broken"]


async def test_a_cancelled_request_does_not_cancel_others() -> None:
    store = Store()
    first = store.ask(("slow", 1))
    await store.called(1)
    second, third = store.ask(("slow", 2)), store.ask(("slow", 3))
    await store.has_asked(3)
    first.cancel()
    second.cancel()
    await until(lambda: first.done() and second.done())
    store.go.set()
    assert await third == ["slow3"]
    assert store.calls == [[("slow", [1])], [("slow", [3])]]


async def test_no_request_makes_no_call() -> None:
    store = Store()
    assert await store.coalescer.load_many([]) == []
    assert store.calls == []
