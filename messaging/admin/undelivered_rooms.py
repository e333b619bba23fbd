"""Rooms with undelivered messages for the staff, in the order of their next sweep.

A row shows the store's current state: a room whose members caught up after the last sweep shows "nobody", and
disappears after the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging.bridge import run_async
from messaging.models import Room, UndeliveredRoom
from messaging.rooms.memberships import key_of
from messaging.rooms.names import find
from messaging.store import open_store
from messaging.store.records import DeliveryDebt, Lag, Owing, RoomKey

from .formatting import MAX_NAMES, ago, ahead, ends, number, with_names
from .lists import StoreAdmin, room_names, user_names
from .store_actions import RETRY_ROOMS

ROOMS_BATCH = 25  # in one round trip, during which the store runs nothing else
CHECKED_MEMBERS = 100  # of each room; members after them count as owing
FIRST_MEMBERS, FIRST_MESSAGES = 10, 10  # among which the oldest undelivered message of a room is searched


class RoomReader:
    """Reads the rooms with undelivered messages, a page in a constant number of round trips."""

    def count(self, where: dict[str, str]) -> int:
        return run_async(_count)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredRoom]:
        return _rows(*run_async(_page, start, stop))

    def keys(self, where: dict[str, str], limit: int) -> list[str]:
        return run_async(_keys, limit)

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredRoom]:
        rooms = [key_of(room) for room in Room.objects.filter(pk__in=keys)]
        return _rows(*run_async(_states, [(room, 0) for room in rooms]))


async def _count() -> int:
    return await open_store().lists.count_lagging_rooms()


async def _page(start: int, stop: int) -> tuple[int, list[_RoomState]]:
    return await _states(await open_store().lists.lagging_rooms(start, stop))


async def _keys(limit: int) -> list[str]:
    return [room.id for room, _due_at in await open_store().lists.lagging_rooms(0, limit)]


@dataclasses.dataclass(frozen=True, slots=True)
class _RoomState:
    """The state of one room: its number of owing members, the first of them, and the oldest message that these have not received."""

    lag: Lag
    due_at: int
    owing: int
    first_owing: list[Owing]
    oldest: DeliveryDebt | None


async def _states(due: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[_RoomState]]:
    """Return the store's time and the state of each room, [(room, due_at)]."""
    store = open_store()
    lags: list[Lag] = []
    owing: list[list[Owing]] = []
    for start in range(0, len(due), ROOMS_BATCH):
        rooms = [room for room, _due_at in due[start : start + ROOMS_BATCH]]
        batch = [lag for lag in await store.retries.members_behind(rooms, limit=CHECKED_MEMBERS) if lag]
        lags += batch
        owing += await store.retries.owing_among(batch)
    first_members = [members[:FIRST_MEMBERS] for members in owing]
    undelivered = await store.lists.delivery_debts(
        [(lag.room, members) for lag, members in zip(lags, first_members, strict=True)], limit=FIRST_MESSAGES
    )
    due_at = dict(due)
    return await store.now_ms(), [
        _RoomState(
            lag=lag,
            due_at=due_at[lag.room],
            owing=len(members) + lag.behind - len(lag.members_behind),
            first_owing=members[:MAX_NAMES],
            oldest=min((debt for debt in debts if debt.seq), key=lambda debt: debt.seq, default=None),
        )
        for lag, members, debts in zip(lags, owing, undelivered, strict=True)
    ]


def _rows(now_ms: int, states: Sequence[_RoomState]) -> list[UndeliveredRoom]:
    rooms = room_names({state.lag.room.id for state in states})
    users = user_names({member.user for state in states for member in state.first_owing})
    rows = []
    for state in states:
        room_id = state.lag.room.id
        row: Any = UndeliveredRoom(room=room_id)
        row.name, row.now_ms, row.state = rooms.get(room_id, room_id), now_ms, state
        row.people = [users.get(member.user, f"#{member.user}") for member in state.first_owing]
        rows.append(row)
    return rows


@admin.register(UndeliveredRoom)
class UndeliveredRoomAdmin(StoreAdmin):
    reader = RoomReader()
    row_actions = (RETRY_ROOMS,)
    list_display = ("name", "owing", "waiting_since", "oldest_ends", "live", "next_sweep")
    list_display_links = None
    search_fields = ("room",)
    search_help_text = _("A room's ID or name, or user:NAME for the rooms of a user")
    empty_text = _("No undelivered messages.")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find rooms by id or name, or the rooms of a user, through the database."""
        term = search_term.strip()
        if not term:
            return queryset, False
        rooms = Room.objects.filter(name__icontains=term) | Room.objects.filter(pk=term)
        if term.startswith("user:"):
            user = find(get_user_model().objects.all(), term.removeprefix("user:"))
            rooms = Room.objects.filter(memberships__user=user) if user else Room.objects.none()
        return queryset.filter(pk__in=rooms.values_list("pk", flat=True)[: self.list_per_page]), False

    def describe(self, row: Any) -> str:
        return str(row.name)

    @admin.display(description=_("room"))
    def name(self, row: Any) -> str:
        page = reverse("admin:messaging_undeliveredmember_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, row.name)

    @admin.display(description=_("not delivered to"))
    def owing(self, row: Any) -> str:
        count = row.state.owing
        if not count:
            return gettext("nobody")
        text = ngettext("%(n)s member", "%(n)s members", count) % {"n": number(count)}
        return with_names(text, row.people, count)

    @admin.display(description=_("oldest accepted"))
    def waiting_since(self, row: Any) -> str:
        if not row.state.owing:
            return "–"
        at_ms = row.state.oldest.sent_at if row.state.oldest else row.state.lag.oldest_at
        return ago(at_ms, row.now_ms) if at_ms else "–"

    @admin.display(description=_("oldest expires"))
    def oldest_ends(self, row: Any) -> str:
        return ends(row.state.oldest.expires_at, row.now_ms) if row.state.oldest else "–"

    @admin.display(description=_("live messages"))
    def live(self, row: Any) -> str:
        page = reverse("admin:messaging_storedmessage_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, number(row.state.lag.live))

    @admin.display(description=_("next sweep"))
    def next_sweep(self, row: Any) -> str:
        return ahead(row.state.due_at, row.now_ms) if row.state.due_at else "–"
