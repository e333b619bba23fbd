"""What is not delivered yet, for the staff: the rooms that lag, soonest looked at first, and who is behind in one.

A row is what the store says now: a room whose members caught up since the last look has nobody behind, and goes with the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from . import policy as policies
from .admin_rows import StoreAdmin, names_of, room_key, rooms_named
from .admin_words import ago, ahead
from .crossing import run_verb
from .models import Room, UndeliveredMember, UndeliveredRoom
from .records import Lag, Laggard, Live, RoomKey
from .roster import key_of
from .store import open_store

NAMED = 3  # people named in a room's row


# ── Rooms ──


class Rooms:
    """Reads the rooms that lag, a page in a constant number of round trips."""

    def count(self, where: dict[str, str]) -> int:
        return run_verb(_count)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredRoom]:
        return _rooms(*run_verb(_page, start, stop))

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredRoom]:
        rooms = [key_of(room) for room in Room.objects.filter(pk__in=keys)]
        return _rooms(*run_verb(_lags, [(room, 0) for room in rooms]))


async def _count() -> int:
    return await open_store().count_lagging_rooms()


async def _page(start: int, stop: int) -> tuple[int, list[tuple[int, Lag]]]:
    return await _lags(await open_store().lagging_rooms(start, stop))


async def _lags(due: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[tuple[int, Lag]]]:
    """Return the store's time and how each room stands, with those of its members named who owe something."""
    store = open_store()
    found = [
        (due_at, lag)
        for (_room, due_at), lag in zip(
            due, await store.laggards([room for room, _ in due], most=NAMED), strict=True
        )
        if lag is not None
    ]
    return await store.now_ms(), found


def _rooms(now_ms: int, lags: Sequence[tuple[int, Lag]]) -> list[UndeliveredRoom]:
    rooms = rooms_named({lag.room.id for _, lag in lags})
    names = names_of({one.user for _, lag in lags for one in lag.laggards})
    rows = []
    for due_at, lag in lags:
        row: Any = UndeliveredRoom(room=lag.room.id)
        row.name = rooms.get(lag.room.id, lag.room.id)
        row.now_ms, row.due_at, row.lag = now_ms, due_at, lag
        row.people = [names.get(one.user, f"#{one.user}") for one in lag.laggards]
        rows.append(row)
    return rows


@admin.register(UndeliveredRoom)
class UndeliveredRoomAdmin(StoreAdmin):
    """The first page: where something waits."""

    reader = Rooms()
    list_display = ("name", "behind", "waiting_since", "live", "next_look")
    list_display_links = None
    search_fields = ("room",)
    search_help_text = _("A room's number or name, or user:NAME")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find rooms by number or name, or those of a user: through the database, which knows them."""
        term = search_term.strip()
        if not term:
            return queryset, False
        rooms = Room.objects.filter(name__icontains=term) | Room.objects.filter(pk=term)
        if term.startswith("user:"):
            rooms = Room.objects.filter(memberships__user__username=term.removeprefix("user:").strip())
        return queryset.filter(pk__in=rooms.values_list("pk", flat=True)[: self.list_per_page]), False

    @admin.display(description=_("room"))
    def name(self, row: Any) -> str:
        page = reverse("admin:messaging_undeliveredmember_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, row.name)

    @admin.display(description=_("behind"))
    def behind(self, row: Any) -> str:
        if not row.lag.behind:
            return gettext("nobody any more")
        others = row.lag.behind - len(row.people)
        said = ngettext("%(n)s member", "%(n)s members", row.lag.behind) % {"n": f"{row.lag.behind:,}"}
        names = ", ".join(row.people) + (f" +{others:,}" if others > 0 else "")
        return format_html("{}<br><small>{}</small>", said, names)

    @admin.display(description=_("oldest accepted"))
    def waiting_since(self, row: Any) -> str:
        return ago(row.lag.oldest_at, row.now_ms) if row.lag.behind and row.lag.oldest_at else "–"

    @admin.display(description=_("live messages"))
    def live(self, row: Any) -> str:
        page = reverse("admin:messaging_storedmessage_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, f"{row.lag.live:,}")

    @admin.display(description=_("looked at next"))
    def next_look(self, row: Any) -> str:
        return ahead(row.due_at, row.now_ms) if row.due_at else "–"


# ── Members ──


class Members:
    """Reads who is behind in one room."""

    def count(self, where: dict[str, str]) -> int:
        room = room_key(where.get("room", ""))
        return run_verb(_count_members, room) if room else 0

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredMember]:
        room = room_key(where.get("room", ""))
        return _members(room, *run_verb(_members_page, room, start, stop)) if room else []

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredMember]:
        rows: list[UndeliveredMember] = []
        for name, users in _by_room(keys).items():
            room = room_key(name)
            if room:
                rows += _members(room, *run_verb(_members_named, room, users))
        return rows


def _by_room(keys: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key in keys:
        room, _, user = key.rpartition(":")
        if user.isdecimal():
            found.setdefault(room, []).append(int(user))
    return found


_Behind = tuple[
    Laggard, Live | None, int, bool
]  # the oldest message he lacks, how many he lacks, is he connected


async def _count_members(room: RoomKey) -> int:
    return await open_store().count_laggards(room)


async def _members_page(room: RoomKey, start: int, stop: int) -> tuple[int, list[_Behind]]:
    return await _behind(room, await open_store().laggards_of(room, start, stop))


async def _members_named(room: RoomKey, users: Sequence[int]) -> tuple[int, list[_Behind]]:
    return await _behind(room, await open_store().laggards_by_id(room, users))


async def _behind(room: RoomKey, laggards: Sequence[Laggard]) -> tuple[int, list[_Behind]]:
    store = open_store()
    waiting = await store.waiting_above(room, [one.cursor for one in laggards])
    oldest = {one.seq: one for one in await store.live_by_place([(room, seq) for _, seq in waiting if seq])}
    online: set[int] = set().union(*(await store.presence()).values())
    rows = [
        (one, oldest.get(seq), count, one.user in online)
        for one, (count, seq) in zip(laggards, waiting, strict=True)
    ]
    return await store.now_ms(), rows


def _members(room: RoomKey, now_ms: int, behind: Sequence[_Behind]) -> list[UndeliveredMember]:
    names = names_of({laggard.user for laggard, *_ in behind})
    rows = []
    for laggard, oldest, count, online in behind:
        row: Any = UndeliveredMember(place=f"{room.id}:{laggard.user}")
        row.name = names.get(laggard.user, f"#{laggard.user}")
        row.room, row.now_ms, row.laggard = room.id, now_ms, laggard
        row.oldest, row.count, row.online = oldest, count, online
        rows.append(row)
    return rows


class OfRoom(admin.SimpleListFilter):
    """The room whose members are listed; chosen by a link."""

    title = _("room")
    parameter_name = "room"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        room = request.GET.get("room", "")
        return [(room, rooms_named({room}).get(room, room))] if room else []

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the room alone: there is no list of all."""
        return (choice for choice in super().choices(changelist) if choice["selected"])

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(room=self.value()) if self.value() else queryset


@admin.register(UndeliveredMember)
class UndeliveredMemberAdmin(StoreAdmin):
    """The second page: who waits in a room, and why."""

    reader = Members()
    list_display = ("name", "reachable", "waiting", "oldest_waits", "attempts", "next_attempt", "ends")
    list_display_links = None
    list_filter = (OfRoom,)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("messaging.view_undeliveredroom")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False  # reached from its room

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        room = request.GET.get("room", "")
        title = gettext("Undelivered in %(room)s") % {"room": rooms_named({room}).get(room, room or "–")}
        return super().changelist_view(request, {**(extra_context or {}), "title": title})

    @admin.display(description=_("member"))
    def name(self, row: Any) -> str:
        return str(row.name)

    @admin.display(description=_("connected"), boolean=True)
    def reachable(self, row: Any) -> bool:
        return bool(row.online)

    @admin.display(description=_("lacks"))
    def waiting(self, row: Any) -> str:
        return ngettext("%(n)s message", "%(n)s messages", row.count) % {"n": f"{row.count:,}"}

    @admin.display(description=_("oldest of them"))
    def oldest_waits(self, row: Any) -> str:
        if row.oldest is None:
            return "–"
        page = reverse("admin:messaging_storedmessage_change", args=[f"{row.room}:{row.oldest.seq}"])
        return format_html(
            '<a href="{}">{}</a> {}', page, row.oldest.seq, ago(row.oldest.sent_at, row.now_ms)
        )

    @admin.display(description=_("attempts"))
    def attempts(self, row: Any) -> str:
        most = policies.current().attempts_max
        why = gettext("no answer") if row.laggard.attempts else gettext("offline")
        if row.online and not row.laggard.attempts:
            why = gettext("just sent")
        return format_html("{}/{}<br><small>{}</small>", row.laggard.attempts, most, why)

    @admin.display(description=_("next attempt"))
    def next_attempt(self, row: Any) -> str:
        if not row.online:
            return gettext("when they are back")
        if row.laggard.attempts >= policies.current().attempts_max:
            return gettext("gave up; waits for an answer or a new connection")
        return ahead(row.laggard.next_at_ms, row.now_ms) if row.laggard.next_at_ms else "–"

    @admin.display(description=_("oldest ends"))
    def ends(self, row: Any) -> str:
        return ahead(row.oldest.expires_at, row.now_ms) if row.oldest else "–"
