"""The chat page, and the check that shows whether a socket's handshake would be accepted."""

from __future__ import annotations

import logging
from http import HTTPStatus

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from messaging import policy
from messaging.live.origins import origin_allowed

log = logging.getLogger(__name__)


@require_safe
@ensure_csrf_cookie
@never_cache
async def chat(request: HttpRequest, room: str | None = None, seq: int | None = None) -> HttpResponse:
    """Show the page. The socket reports whether the room exists and the user may read it."""
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
    """Return the status that a socket's handshake would have, because browsers hide the status of a refused one.

    Does not use the store.
    """
    allowed = frozenset(settings.SITE_ORIGINS)
    if not origin_allowed(request.headers.get("Origin"), allowed, may_be_missing=True):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    try:
        user = await request.auser()
    except (DatabaseError, InterfaceError) as error:
        log.warning("a session cannot be checked: %s", type(error).__name__)
        return HttpResponse(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "5"})
    return HttpResponse(status=HTTPStatus.NO_CONTENT if user.is_authenticated else HTTPStatus.UNAUTHORIZED)
