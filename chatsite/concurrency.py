"""A limit on the requests that run at the same time, on PostgreSQL.

Each request holds a thread and a connection, and PostgreSQL grants 97 by default. Without a limit, of 400 requests that
came at once a quarter was answered with 500 or 503. The other requests wait, which costs nothing: a process has one core.
Sockets share one connection and are not limited. docs/explanation/decisions/0024-limit-on-requests-instead-of-a-pool.md has the
measurements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

MAX_REQUESTS = 20  # four processes and a worker then stay below 97 connections
# These need no connection. They are answered also while all other requests wait for the database.
UNLIMITED_PATHS = ("/healthz", "/metrics")

View = Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def limit_requests(get_response: View) -> View:
    """Run at most `MAX_REQUESTS` requests at the same time; the others wait in the order of their arrival."""
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
                # In the request's own thread: it runs only after the work in that thread, also after the client has disconnected.
                # Django itself would keep the connection until the client has read the last byte.
                await sync_to_async(close_old_connections)()

    return limited
