"""Rooms for the staff. A change is made as on the page: the row, then the store, then the open sockets."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from messaging import control
from messaging.bridge import run_async
from messaging.errors import MessagingError
from messaging.models import Room
from messaging.rooms import memberships
from messaging.rooms.names import clean_name, clean_topic
from messaging.store import clock_ms

from .action_admin import ActionAdmin
from .formatting import lasting, since
from .store_actions import CHANGE_LIFETIME


class RoomForm(forms.ModelForm[Room]):
    """The same rules as on the page of the rooms."""

    class Meta:
        model = Room
        fields = ("name", "topic", "kind", "ttl_s", "ttl_max_s", "tracked")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance._state.adding and "kind" in self.fields:
            kinds = [choice for choice in Room.Kind.choices if choice[0] != Room.Kind.DIRECT]
            self.fields["kind"].choices = kinds  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Refuse names with invisible characters and lifetimes outside the site's limits."""
        data = super().clean() or {}
        for field, rule in (("name", clean_name), ("topic", clean_topic)):
            if field in data:
                data[field] = self._checked(field, rule, data[field])
        if "ttl_s" in data and "ttl_max_s" in data:
            self._checked("ttl_s", memberships.lifetimes, data["ttl_s"], data["ttl_max_s"])
        return data

    def _checked(self, field: str, rule: Any, *values: Any) -> Any:
        try:
            return rule(*values)
        except MessagingError as error:
            self.add_error(field, ValidationError(error.detail, code=error.code))
            return values[0]


@admin.register(Room)
class RoomAdmin(ActionAdmin):
    form = RoomForm
    row_actions = (CHANGE_LIFETIME,)
    empty_text = _("No rooms yet. Users can create rooms, and so can you.")
    list_display = ("name", "kind", "lifetime", "longest", "tracked", "created")
    list_filter = ("kind", "tracked")
    search_fields = ("name", "topic", "id")
    search_help_text = _("A room's name, topic or ID")

    @admin.display(description=_("lifetime"), ordering="ttl_s")
    def lifetime(self, room: Room) -> str:
        return lasting(room.ttl_s)

    @admin.display(description=_("longest lifetime"), ordering="ttl_max_s")
    def longest(self, room: Room) -> str:
        return lasting(room.ttl_max_s)

    @admin.display(description=_("created"), ordering="created_at")
    def created(self, room: Room) -> str:
        return since(room.created_at)

    def get_readonly_fields(self, request: HttpRequest, obj: Room | None = None) -> tuple[str, ...]:
        # The kind decides who may read messages from before they joined, so it must not change while the room has members.
        return ("id", "created_at", *(("kind",) if obj else ()))

    def save_model(self, request: HttpRequest, obj: Room, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change:
            return
        now_ms = run_async(clock_ms)
        memberships.record_lifetime(obj, request.user.pk, before_s=form.initial["ttl_s"], now_ms=now_ms)
        transaction.on_commit(partial(run_async, control.announce, "room_changed", room=obj.pk))
