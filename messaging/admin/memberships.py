"""Memberships for the staff. A change is made as on the page: the row, then the store, then the open sockets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from messaging import control, rooms
from messaging.bridge import run_async
from messaging.models import Membership, Room
from messaging.rooms import memberships

from .action_admin import ActionAdmin
from .formatting import since
from .lists import RoomFilter
from .store_actions import CLOSE_CONNECTIONS


class MembershipForm(forms.ModelForm[Membership]):
    """Adds users to rooms, except to direct rooms."""

    class Meta:
        model = Membership
        fields = ("room", "user", "role")

    def clean_room(self) -> Room:
        room: Room = self.cleaned_data["room"]
        if room.kind == Room.Kind.DIRECT:
            raise ValidationError(_("A direct room has exactly two members."))
        return room


class MembershipRoomFilter(RoomFilter):
    field = "room_id"


@admin.register(Membership)
class MembershipAdmin(ActionAdmin):
    form = MembershipForm
    row_actions = (CLOSE_CONNECTIONS,)
    empty_text = _("No memberships yet.")
    list_display = ("user", "in_room", "role", "joined", "leaving")
    list_filter = ("role", MembershipRoomFilter)
    list_select_related = ("user", "room")
    search_fields = ("user__username", "room__name", "room__id")
    search_help_text = _("A user's name, or a room's name or ID")
    autocomplete_fields = ("user", "room")

    def keys(self, queryset: Any, limit: int) -> list[str]:
        """Return one membership of each user, because the action affects a user as a whole."""
        first: dict[int, str] = {}
        for key, user in queryset.order_by("user_id", "pk").values_list("pk", "user_id"):
            first.setdefault(user, str(key))
        return list(first.values())[:limit]

    @admin.display(description=_("room"), ordering="room__name")
    def in_room(self, membership: Membership) -> str:
        return format_html('<a href="?room={}">{}</a>', membership.room_id, membership.room)

    @admin.display(description=_("joined"), ordering="joined_at")
    def joined(self, membership: Membership) -> str:
        return since(membership.joined_at)

    @admin.display(description=_("leaving since"), ordering="leaving_at")
    def leaving(self, membership: Membership) -> str:
        return since(membership.leaving_at) if membership.leaving_at else "–"

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> tuple[str, ...]:
        return ("joined_at", "leaving_at", *(("user", "room") if obj else ()))

    def has_delete_permission(self, request: HttpRequest, obj: Membership | None = None) -> bool:
        # A direct room with only one member would accept messages that nobody else receives.
        is_direct = obj is not None and obj.room.kind == Room.Kind.DIRECT
        return not is_direct and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        if not change:
            obj.joining_at = timezone.now()
        super().save_model(request, obj, form, change)
        announce: Callable[[], object] = partial(run_async, rooms.settle_new, obj.room, [obj.user_id])
        if change:
            announce = partial(
                run_async, control.announce, "membership_changed", room=obj.room_id, user=obj.user_id
            )
        transaction.on_commit(announce)

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        departure = memberships.mark_leaving(obj, removed=True)
        transaction.on_commit(partial(run_async, rooms.finish, departure))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        for membership in queryset.exclude(room__kind=Room.Kind.DIRECT).select_related("room"):
            self.delete_model(request, membership)
