"""Rooms and memberships for the staff. What is saved here takes the way of every other change: row, store, open sockets."""

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
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from messaging import control, rooms
from messaging.bridge import run_async
from messaging.errors import MessagingError
from messaging.models import Membership, Room
from messaging.rooms import memberships
from messaging.rooms.names import clean_name, clean_topic
from messaging.store import clock_ms

from .actions import ActionAdmin
from .formatting import lasting, since
from .lists import OfRoom
from .store_actions import CHANGE_LIFETIME, CLOSE_CONNECTIONS


class RoomForm(forms.ModelForm[Room]):
    """The rules of the rooms' own page, also here."""

    class Meta:
        model = Room
        fields = ("name", "topic", "kind", "ttl_s", "ttl_max_s", "tracked")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance._state.adding and "kind" in self.fields:
            kinds = [choice for choice in Room.Kind.choices if choice[0] != Room.Kind.DIRECT]
            self.fields["kind"].choices = kinds  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Refuse names that hide something and lifetimes outside the site's bounds."""
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
    verbs = (CHANGE_LIFETIME,)
    empty_says = _("No rooms yet. People make them; so can you.")
    list_display = ("name", "kind", "lifetime", "longest", "tracked", "created")
    list_filter = ("kind", "tracked")
    search_fields = ("name", "topic", "id")
    search_help_text = _("A room's name, topic or number")

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
        # What a room is decides who may see what was said before he came: it does not change under its members.
        return ("id", "created_at", *(("kind",) if obj else ()))

    def save_model(self, request: HttpRequest, obj: Room, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change:
            return
        now_ms = run_async(clock_ms)
        memberships.record_lifetime(obj, request.user.pk, before_s=form.initial["ttl_s"], now_ms=now_ms)
        transaction.on_commit(partial(run_async, control.announce, "room_changed", room=obj.pk))


class MembershipForm(forms.ModelForm[Membership]):
    """Adds people to rooms that have room for them."""

    class Meta:
        model = Membership
        fields = ("room", "user", "role")

    def clean_room(self) -> Room:
        room: Room = self.cleaned_data["room"]
        if room.kind == Room.Kind.DIRECT:
            raise ValidationError(_("A direct room has two people."))
        return room


class InRoom(OfRoom):
    field = "room_id"


@admin.register(Membership)
class MembershipAdmin(ActionAdmin):
    form = MembershipForm
    verbs = (CLOSE_CONNECTIONS,)
    empty_says = _("Nobody is in a room yet.")
    list_display = ("user", "in_room", "role", "joined", "leaving")
    list_filter = ("role", InRoom)
    list_select_related = ("user", "room")
    search_fields = ("user__username", "room__name", "room__id")
    search_help_text = _("A user's name, or a room's name or number")
    autocomplete_fields = ("user", "room")

    def keys(self, queryset: Any, most: int) -> list[str]:
        """Return one membership of each person: what is done is done to a person, once."""
        first: dict[int, str] = {}
        for key, user in queryset.order_by("user_id", "pk").values_list("pk", "user_id"):
            first.setdefault(user, str(key))
        return list(first.values())[:most]

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
        # Without one of its two a direct room would swallow what the other one writes.
        direct = obj is not None and obj.room.kind == Room.Kind.DIRECT
        return not direct and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        tell: Callable[[], object] = partial(run_async, rooms.settle_new, obj.room, [obj.user_id])
        if change:
            tell = partial(
                run_async, control.announce, "membership_changed", room=obj.room_id, user=obj.user_id
            )
        transaction.on_commit(tell)

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        departure = memberships.mark_leaving(obj)
        transaction.on_commit(partial(run_async, rooms.finish, departure))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        for membership in queryset.exclude(room__kind=Room.Kind.DIRECT).select_related("room"):
            self.delete_model(request, membership)
