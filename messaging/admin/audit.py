"""The audit trail for the staff: read-only, times and numbers without any text."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from messaging.models import AuditEntry

from .formatting import since
from .lists import ReadOnly, with_room_name


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, admin.ModelAdmin[AuditEntry]):
    empty_text = _("No changes yet.")
    list_display = ("age", "verb", "user_name", "room_link", "seq")
    list_filter = ("verb", "at")
    search_fields = ("user_name", "room_key", "message_id")
    search_help_text = _("A user's name, or the ID of a room or message")
    fields = ("at", "verb", "user", "user_name", "room_key", "seq", "message_id", "rev", "detail")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEntry]:
        return with_room_name(super().get_queryset(request))

    @admin.display(description=_("at"), ordering="at")
    def age(self, entry: AuditEntry) -> str:
        return since(entry.at)

    @admin.display(description=_("room"), ordering="room_key")
    def room_link(self, entry: Any) -> str:
        if entry.current_room_name is None:
            return str(entry.room_key)
        page = reverse("admin:messaging_room_change", args=[entry.room_key])
        return format_html('<a href="{}">{}</a>', page, entry.current_room_name)
