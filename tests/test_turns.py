"""Requests take turns, so that a crowd does not use up PostgreSQL's connections."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from chatsite.turns import AT_ONCE, few_at_once


class Views:
    """What the middleware stands before: answers when it may, and knows how many were in work at once."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.now = self.most = 0

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        if request.path_info != "/healthz":
            await self.may.wait()
        self.now -= 1
        return HttpResponse(request.path_info)


async def test_a_crowd_is_answered_and_only_so_many_are_in_work_at_once() -> None:
    views = Views()
    view = few_at_once(views.answer)
    crowd = [asyncio.ensure_future(view(RequestFactory().get(f"/{n}"))) for n in range(5 * AT_ONCE)]
    await asyncio.sleep(0)
    views.may.set()
    answers = await asyncio.gather(*crowd)
    assert [answer.content.decode() for answer in answers] == [f"/{n}" for n in range(5 * AT_ONCE)]
    assert views.most == AT_ONCE


async def test_whether_the_process_lives_is_said_while_every_turn_is_taken() -> None:
    views = Views()
    view = few_at_once(views.answer)
    crowd = [asyncio.ensure_future(view(RequestFactory().get("/"))) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await view(RequestFactory().get("/healthz"))
    assert views.now == AT_ONCE
    views.may.set()
    await asyncio.gather(*crowd)


async def test_a_request_that_fails_or_is_given_up_ends_its_turn() -> None:
    async def fail(request: HttpRequest) -> HttpResponse:
        raise ValueError

    views = Views()
    view, failing = few_at_once(views.answer), few_at_once(fail)
    given_up = [asyncio.ensure_future(view(RequestFactory().get("/"))) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)
    for one in given_up:
        one.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    views.may.set()
    async with asyncio.timeout(5):
        await view(RequestFactory().get("/"))
        for _ in range(2 * AT_ONCE):
            await asyncio.gather(failing(RequestFactory().get("/")), return_exceptions=True)
