"""What is not delivered yet, for the staff: the rooms that lag, soonest looked at first, and who is behind in one.

A row is what the store says now: a room whose members caught up since the last look has nobody behind, and goes with the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging import policy as policies
from messaging.bridge import run_async
from messaging.models import Room, UndeliveredMember, UndeliveredRoom
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.records import DeliveryDebt, Lag, MemberBehind, Owing, RoomKey

from .formatting import ago, ahead, ends, number
from .lists import OfRoom, StoreAdmin, names_of, room_key, rooms_named
from .store_actions import RESET_ATTEMPTS, RETRY_MEMBERS, RETRY_ROOMS

NAMED = 3  # people named in a room's row
ROOMS_AT_ONCE = 25  # in one round trip, whose scripts nothing comes between
MEMBERS_LOOKED_AT = 100  # of a room in the list of rooms; who is beyond them counts as behind
FIRST_MEMBERS, FIRST_MESSAGES = 10, 10  # among which the oldest undelivered message of a room is looked for
WHOLE = 1_000  # members behind, up to which a room's list has only those who owe something; a longer one is paged in the store
ASKED_AT_ONCE = 500  # members in one script
MESSAGES_LOOKED_AT = 500  # above the lowest cursor of a page of members


# ── Rooms ──


class Rooms:
    """Reads the rooms that lag, a page in a constant number of round trips."""

    def count(self, where: dict[str, str]) -> int:
        return run_async(_count)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredRoom]:
        return _rooms(*run_async(_page, start, stop))

    def keys(self, where: dict[str, str], most: int) -> list[str]:
        return run_async(_room_keys, most)

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredRoom]:
        rooms = [key_of(room) for room in Room.objects.filter(pk__in=keys)]
        return _rooms(*run_async(_lags, [(room, 0) for room in rooms]))


async def _count() -> int:
    return await open_store().lists.count_lagging_rooms()


async def _page(start: int, stop: int) -> tuple[int, list[_Room]]:
    return await _lags(await open_store().lists.lagging_rooms(start, stop))


async def _room_keys(most: int) -> list[str]:
    return [room.id for room, _ in await open_store().lists.lagging_rooms(0, most)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Room:
    """How a room of the list stands. `behind` members owe something; `oldest` is of what the first of them lack."""

    lag: Lag
    due_at: int
    behind: int
    first: list[Owing]
    oldest: DeliveryDebt | None


async def _lags(due: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[_Room]]:
    """Return the store's time and how each room stands."""
    store = open_store()
    lags: list[Lag] = []
    owing: list[list[Owing]] = []
    for at in range(0, len(due), ROOMS_AT_ONCE):
        rooms = [room for room, _ in due[at : at + ROOMS_AT_ONCE]]
        some = [lag for lag in await store.retries.members_behind(rooms, limit=MEMBERS_LOOKED_AT) if lag]
        lags += some
        owing += await store.retries.owing_among(some)
    first = [rows[:FIRST_MEMBERS] for rows in owing]
    lacked = await store.lists.delivery_debts(
        [(lag.room, rows) for lag, rows in zip(lags, first, strict=True)], limit=FIRST_MESSAGES
    )
    due_at = dict(due)
    return await store.now_ms(), [
        _Room(
            lag,
            due_at[lag.room],
            len(rows) + lag.behind - len(lag.members_behind),
            rows[:NAMED],
            min((one for one in what if one.seq), key=lambda one: one.seq, default=None),
        )
        for lag, rows, what in zip(lags, owing, lacked, strict=True)
    ]


def _rooms(now_ms: int, found: Sequence[_Room]) -> list[UndeliveredRoom]:
    rooms = rooms_named({one.lag.room.id for one in found})
    names = names_of({member.user for one in found for member in one.first})
    rows = []
    for one in found:
        row: Any = UndeliveredRoom(room=one.lag.room.id)
        row.name = rooms.get(one.lag.room.id, one.lag.room.id)
        row.now_ms, row.due_at, row.lag = now_ms, one.due_at, one.lag
        row.owing, row.oldest = one.behind, one.oldest
        row.people = [names.get(member.user, f"#{member.user}") for member in one.first]
        rows.append(row)
    return rows


@admin.register(UndeliveredRoom)
class UndeliveredRoomAdmin(StoreAdmin):
    """The first page: where something waits."""

    reader = Rooms()
    verbs = (RETRY_ROOMS,)
    list_display = ("name", "behind", "waiting_since", "oldest_ends", "live", "next_look")
    list_display_links = None
    search_fields = ("room",)
    search_help_text = _("A room's number or name, or user:NAME for the rooms of a person")
    empty_says = _("Nothing waits. Everybody has everything that was sent to them.")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find rooms by number or name, or those of a user: through the database, which knows them."""
        term = search_term.strip()
        if not term:
            return queryset, False
        rooms = Room.objects.filter(name__icontains=term) | Room.objects.filter(pk=term)
        if term.startswith("user:"):
            rooms = Room.objects.filter(memberships__user__username=term.removeprefix("user:").strip())
        return queryset.filter(pk__in=rooms.values_list("pk", flat=True)[: self.list_per_page]), False

    def describe(self, row: Any) -> str:
        return str(row.name)

    @admin.display(description=_("room"))
    def name(self, row: Any) -> str:
        page = reverse("admin:messaging_undeliveredmember_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, row.name)

    @admin.display(description=_("behind"))
    def behind(self, row: Any) -> str:
        if not row.owing:
            return gettext("nobody")
        others = row.owing - len(row.people)
        said = ngettext("%(n)s member", "%(n)s members", row.owing) % {"n": number(row.owing)}
        names = gettext(", ").join(row.people) + (f" +{number(others)}" if others > 0 else "")
        return format_html("{}<small>{}</small>", said, names)

    @admin.display(description=_("oldest accepted"))
    def waiting_since(self, row: Any) -> str:
        if not row.owing:
            return "–"
        at_ms = row.oldest.sent_at if row.oldest else row.lag.oldest_at
        return ago(at_ms, row.now_ms) if at_ms else "–"

    @admin.display(description=_("oldest ends"))
    def oldest_ends(self, row: Any) -> str:
        return ends(row.oldest.expires_at, row.now_ms) if row.oldest else "–"

    @admin.display(description=_("live messages"))
    def live(self, row: Any) -> str:
        page = reverse("admin:messaging_storedmessage_changelist")
        return format_html('<a href="{}?room={}">{}</a>', page, row.room, number(row.lag.live))

    @admin.display(description=_("looked at next"))
    def next_look(self, row: Any) -> str:
        return ahead(row.due_at, row.now_ms) if row.due_at else "–"


# ── Members ──


class Members:
    """Reads who is behind in one room."""

    def count(self, where: dict[str, str]) -> int:
        room = room_key(where.get("room", ""))
        return run_async(_count_members, room) if room else 0

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredMember]:
        room = room_key(where.get("room", ""))
        return _members(room, *run_async(_members_page, room, start, stop)) if room else []

    def keys(self, where: dict[str, str], most: int) -> list[str]:
        room = room_key(where.get("room", ""))
        return run_async(_member_keys, room, most) if room else []

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredMember]:
        rows: list[UndeliveredMember] = []
        for name, users in _by_room(keys).items():
            room = room_key(name)
            if room:
                rows += _members(room, *run_async(_members_named, room, users))
        return rows


def _by_room(keys: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key in keys:
        room, _, user = key.rpartition(":")
        if user.isdecimal():
            found.setdefault(room, []).append(int(user))
    return found


_Behind = tuple[MemberBehind | Owing, DeliveryDebt, bool]  # what he lacks, is he connected


async def _owing(room: RoomKey) -> list[Owing] | None:
    """Return the members who owe something, furthest behind first; None where too many are behind to look at each."""
    store = open_store()
    [lag] = await store.retries.members_behind([room], limit=WHOLE)
    if lag is None:
        return []
    if lag.behind > WHOLE:
        return None
    parts = [
        dataclasses.replace(lag, members_behind=lag.members_behind[at : at + ASKED_AT_ONCE])
        for at in range(0, len(lag.members_behind), ASKED_AT_ONCE)
    ]
    return [one for owing in await store.retries.owing_among(parts) for one in owing]


async def _count_members(room: RoomKey) -> int:
    owing = await _owing(room)
    return await open_store().lists.count_members_behind(room) if owing is None else len(owing)


async def _members_page(room: RoomKey, start: int, stop: int) -> tuple[int, list[_Behind]]:
    owing = await _owing(room)
    if owing is None:
        return await _behind(room, await open_store().lists.members_behind(room, start, stop))
    return await _behind(room, owing[start:stop])


async def _member_keys(room: RoomKey, most: int) -> list[str]:
    owing = await _owing(room)
    found: list[MemberBehind | Owing] = list(owing or [])
    while owing is None and len(found) < most:
        more = await open_store().lists.members_behind(room, len(found), min(most, len(found) + WHOLE))
        found += more
        if len(more) < WHOLE:
            break
    return [f"{room.id}:{one.user}" for one in found[:most]]


async def _members_named(room: RoomKey, users: Sequence[int]) -> tuple[int, list[_Behind]]:
    owing = await _owing(room)
    if owing is None:
        return await _behind(room, await open_store().lists.members_behind_by_id(room, users))
    return await _behind(room, [one for one in owing if one.user in users])


async def _behind(room: RoomKey, members: Sequence[MemberBehind | Owing]) -> tuple[int, list[_Behind]]:
    store = open_store()
    [lacked] = await store.lists.delivery_debts([(room, members)], limit=MESSAGES_LOOKED_AT)
    online: set[int] = set().union(*(await store.presence.online()).values())
    rows = [(one, what, one.user in online) for one, what in zip(members, lacked, strict=True)]
    return await store.now_ms(), rows


def _members(room: RoomKey, now_ms: int, behind: Sequence[_Behind]) -> list[UndeliveredMember]:
    names = names_of({member.user for member, *_ in behind})
    rows = []
    for member, lacked, online in behind:
        row: Any = UndeliveredMember(place=f"{room.id}:{member.user}")
        row.name = names.get(member.user, f"#{member.user}")
        row.room, row.now_ms, row.laggard = room.id, now_ms, member
        row.lacked, row.online = lacked, online
        rows.append(row)
    return rows


class InRoom(OfRoom):
    """The room whose members are listed; chosen by a link."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the room alone: there is no list of all."""
        return (choice for choice in super().choices(changelist) if choice["selected"])


@admin.register(UndeliveredMember)
class UndeliveredMemberAdmin(StoreAdmin):
    """The second page: who waits in a room, and why."""

    reader = Members()
    verbs = (RETRY_MEMBERS, RESET_ATTEMPTS)
    list_display = ("name", "waiting", "oldest_waits", "attempts", "oldest_ends", "next_attempt")
    list_display_links = None
    list_filter = (InRoom,)
    empty_says = _("Nobody waits here. Everybody in this room has everything that was sent to them.")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("messaging.view_undeliveredroom")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False  # reached from its room

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        room = request.GET.get("room", "")
        if not room and request.method == "GET":
            return HttpResponseRedirect(reverse("admin:messaging_undeliveredroom_changelist"))
        title = gettext("Undelivered in %(room)s") % {"room": rooms_named({room}).get(room, room)}
        return super().changelist_view(
            request, {**(extra_context or {}), "title": title, "above": UndeliveredRoom._meta}
        )

    def describe(self, row: Any) -> str:
        return str(row.name)

    @admin.display(description=_("member"))
    def name(self, row: Any) -> str:
        kind, said = ("on", gettext("connected")) if row.online else ("off", gettext("offline"))
        return format_html(
            '<span class="ops-state" data-kind="{}">{}</span><small>{}</small>', kind, row.name, said
        )

    @admin.display(description=_("lacks"))
    def waiting(self, row: Any) -> str:
        count = row.lacked.count
        if not count:
            return gettext("nothing: own messages, or not for them")
        said = ngettext("%(n)s message", "%(n)s messages", count) % {"n": number(count)}
        return gettext("at most %(messages)s") % {"messages": said} if row.lacked.cut else said

    @admin.display(description=_("oldest of them"))
    def oldest_waits(self, row: Any) -> str:
        if not row.lacked.seq:
            return "–"
        page = reverse("admin:messaging_storedmessage_change", args=[f"{row.room}:{row.lacked.seq}"])
        said = gettext("message %(seq)s") % {"seq": row.lacked.seq}
        since = ago(row.lacked.sent_at, row.now_ms)
        return format_html('<a href="{}">{}</a><small>{}</small>', page, said, since)

    @admin.display(description=_("oldest ends"))
    def oldest_ends(self, row: Any) -> str:
        return ends(row.lacked.expires_at, row.now_ms) if row.lacked.seq else "–"

    @admin.display(description=_("attempts"))
    def attempts(self, row: Any) -> str:
        tried = row.laggard.attempts
        why = gettext("no answer") if tried else gettext("just sent") if row.online else gettext("offline")
        most = policies.current().attempts_max
        return format_html("{}/{}<small>{}</small>", tried, most, why) if row.lacked.count else "–"

    @admin.display(description=_("next attempt"))
    def next_attempt(self, row: Any) -> str:
        if not row.lacked.count:
            return "–"
        if not row.online:
            return gettext("when they are back")
        if row.laggard.attempts >= policies.current().attempts_max:
            return gettext("gave up; waits for an answer or a new connection")
        return ahead(row.laggard.next_at_ms, row.now_ms) if row.laggard.next_at_ms else gettext("soon")
