"""Views of the JSON API: login, request body, and every error as `{"error": {"code", "detail"}}` with its status.

| status | when |
|---|---|
| 400 | the body is not the JSON that the address accepts, or a value in it is invalid |
| 401 | not logged in |
| 403 | not allowed here, removed from the room; also a missing CSRF token |
| 404 | no such room, person or message, or the user must not know of it |
| 405, 409, 413 | another method; a conflict with existing data; a body over 64 KiB |
| 429 | too many requests, rooms or people added; `Retry-After` has the seconds |
| 503 | the store or the database does not answer |

Writing needs Django's CSRF token, as on every page.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.csrf import csrf_failure as csrf_failure_page

from messaging import errors
from messaging.bridge import in_db_thread
from messaging.errors import BadRequest, MessagingError, NotLoggedIn, TooLarge, Unavailable
from messaging.rooms import allowances

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 65_536
SAFE_METHODS = ("GET", "HEAD")

_STATUS: dict[type[MessagingError], HTTPStatus] = {
    errors.NotLoggedIn: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Removed: HTTPStatus.FORBIDDEN,
    errors.NotMember: HTTPStatus.NOT_FOUND,
    errors.NoSuchMessage: HTTPStatus.NOT_FOUND,
    errors.NoSuchUser: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.NotAddable: HTTPStatus.CONFLICT,
    errors.TooManyRooms: HTTPStatus.CONFLICT,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BacklogFull: HTTPStatus.SERVICE_UNAVAILABLE,
}

Answer = tuple[HTTPStatus, dict[str, Any]]
Handler = Callable[..., Awaitable[Answer]]
T = TypeVar("T")


def endpoint(**handlers: Handler) -> Callable[..., Coroutine[Any, Any, HttpResponse]]:
    """Return a view with a handler for each method: `(user, request, **parts_of_the_address) -> (status, data)`."""

    async def view(request: HttpRequest, **address: Any) -> HttpResponse:
        handler = handlers.get(request.method or "")
        if handler is None:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, BadRequest(), {"Allow": ", ".join(handlers)})
        try:
            user = await request.auser()
            if not user.is_authenticated:
                raise NotLoggedIn()
            if request.method not in SAFE_METHODS:
                await in_db_thread(allowances.take_write, user.pk)
            status, data = await handler(user, request, **address)
        except MessagingError as error:
            headers = {}
            if error.retry_after_ms is not None:
                headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1000))
            return _refusal(_STATUS.get(type(error), HTTPStatus.BAD_REQUEST), error, headers)
        except (OperationalError, InterfaceError) as error:
            log.warning("the database does not answer: %s", type(error).__name__)
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, Unavailable("The database does not answer."))
        if status == HTTPStatus.NO_CONTENT:
            return HttpResponse(status=status)
        return JsonResponse(data, status=status, headers={"Cache-Control": "no-store"})

    return view


def body_of(request: HttpRequest, shape: type[T]) -> T:
    """Return the request's JSON body as `shape`, a struct. Raises BadRequest, TooLarge."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        raise TooLarge()
    body = request.read(MAX_BODY_BYTES + 1)  # a chunked request has no Content-Length
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge()
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadRequest(f"The body is invalid: {error}.") from None


def text_of(request: HttpRequest, name: str) -> str:
    """Return a text from the query, stripped and at most 150 characters; '' if missing. Without NUL, which PostgreSQL refuses."""
    return request.GET.get(name, "").replace("\0", "").strip()[:150]


def number_of(request: HttpRequest, name: str) -> int:
    """Return a whole number from the query, 0 if missing. Raises BadRequest."""
    text = request.GET.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 16):
        raise BadRequest(f"{name} must be a whole number.")
    return int(text)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a request without the CSRF token: in JSON below `/api/`, with Django's page for other addresses."""
    if not request.path_info.startswith("/api/"):
        return csrf_failure_page(request, reason=reason)
    return _refusal(
        HTTPStatus.FORBIDDEN, errors.Forbidden("The CSRF token is missing or wrong. Load the page again.")
    )


def _refusal(
    status: HTTPStatus, error: MessagingError, headers: Mapping[str, str] | None = None
) -> JsonResponse:
    data = {"error": {"code": error.code, "detail": error.detail}}
    return JsonResponse(data, status=status, headers={"Cache-Control": "no-store", **(headers or {})})
