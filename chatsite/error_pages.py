"""The page for a failed view: 503 if the database does not answer, otherwise 500."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

RETRY_AFTER_S = 5


def failed(request: HttpRequest) -> HttpResponse:
    """Return the page for a view that raised an exception. It does not use the database, so it does not show the user."""
    if isinstance(sys.exc_info()[1], (InterfaceError, OperationalError)):
        return HttpResponse(
            render_to_string("503.html"), status=503, headers={"Retry-After": str(RETRY_AFTER_S)}
        )
    return HttpResponse(render_to_string("500.html"), status=500)
