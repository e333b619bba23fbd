"""A limit on the requests that run at the same time, on PostgreSQL.

Each request holds a thread and a connection, and PostgreSQL allows 97 connections by default. Without a limit, a quarter of 400
simultaneous requests was answered with 500 or 503. With the limit, further requests wait. This costs no time, because a process
uses one core. Sockets share one connection and are not limited. The measurements are in
docs/explanation/decisions/0024-limit-on-requests-instead-of-a-pool.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

MAX_REQUESTS = 20  # four processes and a worker then stay below 97 connections
# These need no connection, so they are answered while all other requests wait for the database.
UNLIMITED_PATHS = ("/healthz", "/metrics")

View = Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def limit_requests(get_response: View) -> View:
    """Run at most `MAX_REQUESTS` requests at the same time. Further requests wait in the order of their arrival."""
    if not iscoroutinefunction(get_response):
        return get_response  # Django's synchronous test client sends one request at a time
    running = asyncio.Semaphore(MAX_REQUESTS)

    async def limited(request: HttpRequest) -> HttpResponse:
        if request.path_info in UNLIMITED_PATHS:
            return await get_response(request)
        async with running:
            try:
                return await get_response(request)
            finally:
                # This runs in the thread of the request, after the work in that thread, even if the client has disconnected.
                # Django itself would keep the connection until the client has read the last byte.
                await sync_to_async(close_old_connections)()

    return limited
