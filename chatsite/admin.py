"""The site of the staff: its name, the order of its lists and the check of addresses."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

# Undelivered and live messages first, then missed ones and their notices, then rooms and records.
ORDER = (
    *("UndeliveredRoom", "StoredMessage", "DeadLetter", "Notice"),
    *("Room", "Membership", "BulkAction", "AuditEntry"),
)
APPS = ("messaging", "auth", "account", "mfa")


class StaffSite(AdminSite):
    """Django's admin site with the order above and the version."""

    site_header = _("Chat administration")
    site_title = _("Chat administration")

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the user is staff. Raises `BadRequest` for an address with a NUL, because PostgreSQL refuses it."""
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("no NUL in an address")
        return super().has_permission(request)

    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseRedirect:
        """Redirect to the site's page, which limits guesses of the old password."""
        return HttpResponseRedirect(reverse("account_change_password"))

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return Django's context, and the version for the footer."""
        return {**super().each_context(request), "version": settings.VERSION}

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        apps = super().get_app_list(request, app_label)
        for app in apps:
            app["models"].sort(key=lambda model: _position(ORDER, model["object_name"]))
        return sorted(apps, key=lambda app: _position(APPS, app["app_label"]))


def _position(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)
