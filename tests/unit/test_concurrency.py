"""A limit on requests: many that come at once do not use up PostgreSQL's connections."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from chatsite.concurrency import MAX_REQUESTS, limit_requests

pytestmark = pytest.mark.django_db  # the end of a request looks at the thread's connection


class Views:
    """The views behind the middleware: they answer when they may, and count how many run at the same time."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.running = self.peak = 0

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.running += 1
        self.peak = max(self.peak, self.running)
        if request.path_info != "/healthz":
            await self.may.wait()
        self.running -= 1
        return HttpResponse(request.path_info)


async def test_many_requests_are_answered_and_a_limited_number_runs_at_the_same_time() -> None:
    views = Views()
    view = limit_requests(views.answer)
    requests = [asyncio.ensure_future(view(RequestFactory().get(f"/{n}"))) for n in range(5 * MAX_REQUESTS)]
    await asyncio.sleep(0)
    views.may.set()
    answers = await asyncio.gather(*requests)
    assert [answer.content.decode() for answer in answers] == [f"/{n}" for n in range(5 * MAX_REQUESTS)]
    assert views.peak == MAX_REQUESTS


async def test_the_health_check_is_answered_while_all_places_are_taken() -> None:
    views = Views()
    view = limit_requests(views.answer)
    requests = [asyncio.ensure_future(view(RequestFactory().get("/"))) for _ in range(MAX_REQUESTS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await view(RequestFactory().get("/healthz"))
    assert views.running == MAX_REQUESTS
    views.may.set()
    await asyncio.gather(*requests)


async def test_a_request_that_fails_or_is_cancelled_frees_its_place() -> None:
    async def fail(request: HttpRequest) -> HttpResponse:
        raise ValueError

    views = Views()
    view, failing = limit_requests(views.answer), limit_requests(fail)
    cancelled = [asyncio.ensure_future(view(RequestFactory().get("/"))) for _ in range(MAX_REQUESTS)]
    await asyncio.sleep(0)
    for request in cancelled:
        request.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    views.may.set()
    async with asyncio.timeout(5):
        await view(RequestFactory().get("/"))
        for _ in range(2 * MAX_REQUESTS):
            await asyncio.gather(failing(RequestFactory().get("/")), return_exceptions=True)


async def test_a_place_is_taken_until_the_work_in_the_thread_ends_although_the_client_disconnected() -> None:
    """Users who press reload: the request before is cancelled, but its thread continues."""
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

    view = limit_requests(answer)

    async def request() -> HttpResponse:
        async with ThreadSensitiveContext():
            return await view(RequestFactory().get("/"))

    first = [asyncio.ensure_future(request()) for _ in range(MAX_REQUESTS)]
    for _ in first:
        await asyncio.to_thread(started.acquire)
    for task in first:
        task.cancel()
    second = [asyncio.ensure_future(request()) for _ in range(MAX_REQUESTS)]
    for _ in range(20):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(*first, *second, return_exceptions=True)
    assert working == [0, MAX_REQUESTS]
