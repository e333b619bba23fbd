"""Notices for the staff: read-only, because every notice must reach its user."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from messaging.models import MissedRecipient, Notice

from .formatting import MAX_NAMES, missed_by, number, since
from .lists import ReadOnly, with_room_name


class DismissedFilter(admin.SimpleListFilter):
    """Whether the user has dismissed the notice."""

    title = _("dismissed by the user")
    parameter_name = "dismissed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(dismissed_at__isnull=self.value() == "no") if self.value() else queryset


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin[Notice]):
    empty_text = _("No notices. No missed message has been reported to its sender.")
    list_display = ("age", "user", "kind", "about", "dismissed")
    list_filter = ("kind", DismissedFilter, "at")
    list_select_related = ("user",)
    search_fields = ("user__username", "room_key", "id")
    search_help_text = _("A user's name, or the ID of a room or notice")
    fieldsets = (
        (None, {"fields": ("user", "kind", "at", "about", "dead_letter", "dismissed_at")}),
        (_("All stored fields"), {"classes": ("collapse",), "fields": ("id", "room_key", "data")}),
    )
    readonly_fields = ("about",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notice]:
        return with_room_name(super().get_queryset(request))

    @admin.display(description=_("at"), ordering="at")
    def age(self, notice: Notice) -> str:
        return since(notice.at)

    @admin.display(description=_("dismissed"), ordering="dismissed_at")
    def dismissed(self, notice: Notice) -> str:
        return since(notice.dismissed_at) if notice.dismissed_at else "–"

    @admin.display(description=_("about"))
    def about(self, notice: Any) -> str:
        """Return the content of the notice as one sentence."""
        data = notice.data
        if notice.kind == Notice.Kind.SUMMARY:
            text = ngettext("%(n)s missed message", "%(n)s missed messages", data["messages"])
            return text % {"n": number(data["messages"])}
        message = f"{notice.current_room_name or notice.room_key} · {data['seq']}"
        reasons: dict[str, Any] = dict(MissedRecipient.Reason.choices)
        people = [
            (person["name"], reasons.get(person["reason"], person["reason"]))
            for person in data["missing"][:MAX_NAMES]
        ]
        return missed_by(message, people, data["missing_total"])

    # Deleting a user deletes their notices, and checks this permission. A single notice is never deleted.

    def has_delete_permission(self, request: HttpRequest, obj: Notice | None = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        raise PermissionDenied

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "show_delete": False}
        )
