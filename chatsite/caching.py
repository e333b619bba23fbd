"""Keep the account pages out of every cache: they show secrets such as recovery codes and the key of an authenticator app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import sync_and_async_middleware

PRIVATE = "/accounts/"

View = Callable[[HttpRequest], Any]  # returns the response, or a coroutine that does


@sync_and_async_middleware
def forbid_caching(get_response: View) -> View:
    """Send `Cache-Control: no-store` with the account pages. The browser's memory of visited pages obeys it too."""
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            return _uncached(request, await get_response(request))

        return handle
    return lambda request: _uncached(request, get_response(request))


def _uncached(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    if request.path_info.startswith(PRIVATE):
        add_never_cache_headers(response)
    return response
