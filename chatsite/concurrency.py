"""How many requests are in work at once, on PostgreSQL: each may hold a connection, of which its server has few (100 by itself).

Without a bound 400 pages that came at once were answered with 500 and 503 where the 97th connection was refused. The rest waits
for its turn, which costs nothing: one process has one processor at a time. Sockets share one connection and need no turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

AT_ONCE = 20  # four processes and a worker then stay below 97
ASK_NO_DATABASE = ("/healthz", "/metrics")  # so that they are answered while every turn waits for it

View = Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def few_at_once(get_response: View) -> View:
    """Let `AT_ONCE` requests in, the others in the order of their coming."""
    if not iscoroutinefunction(get_response):
        return get_response  # one at a time: a test's client
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(request: HttpRequest) -> HttpResponse:
        if request.path_info in ASK_NO_DATABASE:
            return await get_response(request)
        async with turns:
            try:
                return await get_response(request)
            finally:
                # In the request's own thread, so not before its work is done, though nobody waits for it any more. By itself
                # the connection would stay until the last byte is read.
                await sync_to_async(close_old_connections)()

    return in_turn
