"""Requests take turns, so that a crowd does not use up PostgreSQL's connections."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from chatsite.concurrency import AT_ONCE, few_at_once

pytestmark = pytest.mark.django_db  # the end of a turn looks at the thread's connection


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


async def test_a_turn_lasts_as_long_as_the_work_in_its_thread_though_nobody_waits_for_it() -> None:
    """People who press reload: the request before is given up, its thread works on."""
    working, started, may_end = [0, 0], threading.Semaphore(0), threading.Event()
    counting = threading.Lock()

    def work() -> None:
        with counting:
            working[0] += 1
            working[1] = max(working)
        started.release()
        may_end.wait(10)
        with counting:
            working[0] -= 1

    async def answer(request: HttpRequest) -> HttpResponse:
        await sync_to_async(work)()
        return HttpResponse()

    view = few_at_once(answer)

    async def request() -> HttpResponse:
        async with ThreadSensitiveContext():
            return await view(RequestFactory().get("/"))

    first = [asyncio.ensure_future(request()) for _ in range(AT_ONCE)]
    for _ in first:
        await asyncio.to_thread(started.acquire)
    for one in first:
        one.cancel()
    second = [asyncio.ensure_future(request()) for _ in range(AT_ONCE)]
    for _ in range(20):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*first, *second, return_exceptions=True)
    assert working == [0, AT_ONCE]
