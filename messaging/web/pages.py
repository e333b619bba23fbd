"""The chat page, the address that says whether a socket would be let in, and those that machines ask for health and numbers."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from http import HTTPStatus

import prometheus_client
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from messaging import policy
from messaging.bridge import in_database
from messaging.errors import Unavailable
from messaging.live import metrics as numbers
from messaging.live.origins import origin_allowed
from messaging.models import MissedRecipient
from messaging.monitoring.status import last_hour
from messaging.store import open_store

log = logging.getLogger(__name__)

READY_DEADLINE_S = 4.0
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip")


@require_safe
@ensure_csrf_cookie
@never_cache
async def chat(request: HttpRequest, room: str | None = None, seq: int | None = None) -> HttpResponse:
    """Show the page. Whether there is such a room, and for whom, the socket says."""
    user = await request.auser()
    if not user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    boot = {
        "user": {"id": user.pk, "name": user.get_username()},
        "room": room,
        "seq": seq,
        "language": get_language(),
        "dead_letter_retention_s": policy.current().dead_letter_retention_s,
    }
    return render(request, "chat/index.html", {"boot": boot})


@require_safe
@never_cache
async def check(request: HttpRequest) -> HttpResponse:
    """Say what a socket's handshake would: a browser cannot see the status of a refused one. The store is not asked."""
    allowed = frozenset(settings.SITE_ORIGINS)
    if not origin_allowed(request.headers.get("Origin"), allowed, may_be_missing=True):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    try:
        user = await request.auser()
    except (DatabaseError, InterfaceError) as error:
        log.warning("a session cannot be checked: %s", type(error).__name__)
        return HttpResponse(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
    return HttpResponse(status=HTTPStatus.NO_CONTENT if user.is_authenticated else HTTPStatus.UNAUTHORIZED)


@require_safe
@never_cache
async def healthz(request: HttpRequest) -> HttpResponse:
    """Answer that this process is alive, with its version in the header `X-Chat-Version`."""
    return HttpResponse("ok\n", content_type="text/plain", headers={"X-Chat-Version": settings.VERSION})


@require_safe
@never_cache
async def readyz(request: HttpRequest) -> HttpResponse:
    """Say whether this process can serve: {part: does it answer}, 503 while one does not."""
    database, store = await asyncio.gather(_database_answers(), _store_answers())
    status = HTTPStatus.OK if database and store else HTTPStatus.SERVICE_UNAVAILABLE
    return JsonResponse({"database": database, "store": store}, status=status)


@require_safe
@never_cache
async def metrics(request: HttpRequest) -> HttpResponse:
    """Say what this process has done and how late expiry is, to this machine itself or to who knows the token.

    To others it is not there.
    """
    given = request.headers.get("Authorization")
    if given is not None and not _knows_token(given):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    if given is None and not _from_this_machine(request):
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return HttpResponse(numbers.page(await _site()), content_type=prometheus_client.CONTENT_TYPE_LATEST)


async def _site() -> numbers.Site | None:
    """Ask the store for what the jobs do, in two round trips; None while it does not answer: the process's own numbers are told."""
    store = open_store()
    try:
        overdue, hour = await asyncio.gather(store.expiry.overdue(), last_hour(store))
    except Unavailable:
        return None
    return numbers.Site(
        expired_due=overdue.due,
        expired_due_seconds=overdue.oldest_s or 0.0,
        expired_last_hour=hour.expired,
        expired_to_all_last_hour=hour.expired_to_all,
        expired_missed_last_hour=hour.expired_missed,
        missed={reason: getattr(hour, f"missed_{reason}") for reason in MissedRecipient.Reason.values},
    )


def _knows_token(given: str) -> bool:
    token = settings.METRICS_TOKEN
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _from_this_machine(request: HttpRequest) -> bool:
    """Say whether no proxy is between: one on this machine makes everybody look local."""
    if any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False  # a unix socket has no address: only a proxy stands there


async def _database_answers() -> bool:
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            await in_database(_ask_database)
    except (DatabaseError, InterfaceError, TimeoutError):
        return False
    return True


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


async def _store_answers() -> bool:
    try:
        await open_store().ping()
    except Unavailable:
        return False
    return True
