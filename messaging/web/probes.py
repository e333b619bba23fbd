"""Health and metrics for machines, and the check of the right to read the metrics."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from http import HTTPStatus

import prometheus_client
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from messaging import losses
from messaging.bridge import in_db_thread
from messaging.errors import Unavailable
from messaging.live import metrics as numbers
from messaging.models import MissedRecipient
from messaging.monitoring.status import last_hour
from messaging.store import open_store

READY_TIMEOUT_S = 4.0
PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip")


@require_safe
@never_cache
async def healthz(request: HttpRequest) -> HttpResponse:
    """Report that this process is alive, with its version in the header `X-Chat-Version`."""
    return HttpResponse("ok\n", content_type="text/plain", headers={"X-Chat-Version": settings.VERSION})


@require_safe
@never_cache
async def readyz(request: HttpRequest) -> HttpResponse:
    """Return {part: whether it answers}, with 503 while any part does not."""
    database, store = await asyncio.gather(_database_answers(), _store_answers())
    status = HTTPStatus.OK if database and store else HTTPStatus.SERVICE_UNAVAILABLE
    return JsonResponse({"database": database, "store": store}, status=status)


@require_safe
@never_cache
async def metrics(request: HttpRequest) -> HttpResponse:
    """Return the counters of this process and the state of expiry. Readable from this machine, or with the token.

    A client with a wrong token gets 403, other clients get 404.
    """
    authorization = request.headers.get("Authorization")
    if authorization is not None and not _has_token(authorization):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    if authorization is None and not _from_this_machine(request):
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return HttpResponse(numbers.page(await _site()), content_type=prometheus_client.CONTENT_TYPE_LATEST)


async def _site() -> numbers.Site | None:
    """Read the state of expiry from the store, in two round trips, and its losses from the database. None if one of them is down: the
    counters of the process remain.
    """
    store = open_store()
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            overdue, hour = await asyncio.gather(store.expiry.overdue(), last_hour(store))
            lost = await in_db_thread(losses.recent, 7)
    except (Unavailable, DatabaseError, InterfaceError, TimeoutError):
        return None
    return numbers.Site(
        expired_due=overdue.due,
        expired_due_seconds=overdue.oldest_s or 0.0,
        expired_last_hour=hour.expired,
        expired_to_all_last_hour=hour.expired_to_all,
        expired_missed_last_hour=hour.expired_missed,
        store_losses_last_week=lost.losses,
        store_lost_messages_last_week=lost.messages,
        missed={reason: getattr(hour, f"missed_{reason}") for reason in MissedRecipient.Reason.values},
    )


def _has_token(authorization: str) -> bool:
    token = settings.METRICS_TOKEN
    return bool(token) and hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode())


def _from_this_machine(request: HttpRequest) -> bool:
    """Return whether the client is on this machine and there is no proxy, which would make every client look local."""
    if any(name in request.headers for name in PROXY_HEADERS):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False  # a unix socket has no address: the client is a proxy


async def _database_answers() -> bool:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await in_db_thread(_ask_database)
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
