"""The common parts of the staff's lists: read-only rows, lists of store rows and their page while the store is away, filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from messaging.errors import Unavailable
from messaging.models import Room
from messaging.rooms.memberships import key_of
from messaging.store.records import RoomKey

from .action_admin import ActionAdmin
from .store_rows import Reader, StoreQuerySet


class ReadOnly:
    """Rows that nobody adds, changes or deletes by hand."""

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
        return StoreQuerySet(self.model, self.reader)

    def keys(self, queryset: Any, limit: int) -> list[str]:
        keys: list[str] = queryset.keys(limit)
        return keys

    def rows_for_log(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return rows for log entries, including deleted ones."""
        return [self.model(pk=key) for key in keys]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        if not changelist.query:  # a search shows the total, which here is the number of listed rows
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
        context = {"room_key": room, "room_name": room_names({room}).get(room, room) if room else ""}
        return self.or_away(
            request,
            lambda: super(StoreAdmin, self).changelist_view(request, {**context, **(extra_context or {})}),
        )

    def or_away(self, request: HttpRequest, page: Callable[[], HttpResponse]) -> HttpResponse:
        """Return the rendered page, or a page with status 503 if the store does not answer."""
        try:
            response = page()
            # The rows are read during rendering.
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


class RoomFilter(admin.SimpleListFilter):
    """The room whose rows are listed. It is chosen by a link or a search, because a site may have too many rooms to list."""

    title = _("room")
    parameter_name = "room"
    field = "room"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        room = request.GET.get(self.parameter_name, "")
        return [(room, room_names({room}).get(room, room))] if room else []

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


class RoomKeyFilter(RoomFilter):
    """The room of rows that outlive it."""

    field = "room_key"


def with_room_name(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Add `current_room_name` to rows that outlive their room, in the same query; None for a deleted room."""
    name = Room.objects.filter(pk=OuterRef("room_key")).values("name")[:1]
    annotated: QuerySet[Any] = rows.annotate(current_room_name=Subquery(name))
    return annotated


def user_names(users: set[int]) -> dict[int, str]:
    """Return {user: name}, without deleted users."""
    name = get_user_model().USERNAME_FIELD
    return dict(get_user_model().objects.filter(pk__in=users).values_list("pk", name))


def room_names(rooms: set[str]) -> dict[str, str]:
    """Return {room: name}, without deleted rooms."""
    return dict(Room.objects.filter(pk__in=rooms).values_list("pk", "name"))


def room_key(room_id: str) -> RoomKey | None:
    """Return the prefix of a room's keys in the store; None without such a room."""
    room = Room.objects.filter(pk=room_id).first()
    return key_of(room) if room else None
