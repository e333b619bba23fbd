"""What the staff's lists have in common: rows that are only looked at; those over the store, and what they say while it is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from messaging.errors import Unavailable
from messaging.models import Room
from messaging.rooms.memberships import key_of
from messaging.store.records import RoomKey

from .actions import ActionAdmin
from .store_rows import Reader, Rows


class ReadOnly:
    """Rows that are looked at."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class StoreAdmin(ReadOnly, ActionAdmin):
    """A list and a page for each row, read from the store."""

    reader: Reader[Any]
    list_per_page = 100
    list_max_show_all = 100
    show_full_result_count = False
    ordering = ("pk",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return Rows(self.model, self.reader)

    def keys(self, queryset: Any, most: int) -> list[str]:
        found: list[str] = queryset.keys(most)
        return found

    def logged(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return rows as the log names them, also those that are gone by now."""
        return [self.model(pk=key) for key in keys]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        if not changelist.query:  # else the search tells how many there are in all, which is what is listed
            changelist.full_result_count = changelist.result_count
        return changelist

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        room = request.GET.get("room", "")
        context = {"room_key": room, "room_name": rooms_named({room}).get(room, room) if room else ""}
        return self.or_away(
            request,
            lambda: super(StoreAdmin, self).changelist_view(request, {**context, **(extra_context or {})}),
        )

    def or_away(self, request: HttpRequest, page: Callable[[], HttpResponse]) -> HttpResponse:
        """Return a page made whole, or the one that says that the store does not answer."""
        try:
            response = page()
            # Its rows are read while it is rendered.
            return response.render() if isinstance(response, TemplateResponse) else response
        except Unavailable:
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": self.opts.verbose_name_plural,
            }
            return TemplateResponse(
                request, "admin/store_away.html", context, status=HTTPStatus.SERVICE_UNAVAILABLE
            )


class OfRoom(admin.SimpleListFilter):
    """The room whose rows are listed: chosen by a link or a search, for a site has too many to list."""

    title = _("room")
    parameter_name = "room"
    field = "room"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        room = request.GET.get(self.parameter_name, "")
        return [(room, rooms_named({room}).get(room, room))] if room else []

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


def names_of(users: set[int]) -> dict[int, str]:
    """Return {user: name}; who is gone has none."""
    name = get_user_model().USERNAME_FIELD
    return dict(get_user_model().objects.filter(pk__in=users).values_list("pk", name))


def rooms_named(rooms: set[str]) -> dict[str, str]:
    """Return {room: name}; a room that is gone has none."""
    return dict(Room.objects.filter(pk__in=rooms).values_list("pk", "name"))


def room_key(room: str) -> RoomKey | None:
    """Return where a room's keys lie, None without such a room."""
    row = Room.objects.filter(pk=room).first()
    return key_of(row) if row else None
