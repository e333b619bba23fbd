"""The pages for refused and failed requests. A failed view is a 503 if the database does not answer, otherwise a 500.

Django's own handlers check the CSRF token, and so read the body. A body that cannot be read is often the reason for the page, and
then the handler itself failed: a stranger got a 500 and a traceback in the log.
"""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

RETRY_AFTER_S = 5


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the page for a malformed request. It does not use the request, whose host may be a foreign one."""
    return HttpResponse(render_to_string("400.html"), status=400)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the page for a user without permission."""
    return HttpResponse(render_to_string("403.html", request=request), status=403)


def missing(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Return the page for an unknown address."""
    return HttpResponse(render_to_string("404.html", request=request), status=404)


def failed(request: HttpRequest) -> HttpResponse:
    """Return the page for a view that raised an exception. It does not use the database, so it does not show the user."""
    if isinstance(sys.exc_info()[1], (InterfaceError, OperationalError)):
        return HttpResponse(
            render_to_string("503.html"), status=503, headers={"Retry-After": str(RETRY_AFTER_S)}
        )
    return HttpResponse(render_to_string("500.html"), status=500)
