"""The members of one room who have not received everything, for the staff: their undelivered messages, and the reasons."""

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
from messaging.models import UndeliveredMember, UndeliveredRoom
from messaging.store import open_store
from messaging.store.records import DeliveryDebt, MemberBehind, Owing, RoomKey

from .formatting import ago, ahead, ends, number
from .lists import RoomFilter, StoreAdmin, room_key, room_names, user_names
from .store_actions import RESET_ATTEMPTS, RETRY_MEMBERS

MAX_CHECKED_MEMBERS = (
    1_000  # a longer list also has members who are behind and owe nothing: the store pages it
)
MEMBERS_BATCH = 500  # in one script
CHECKED_MESSAGES = 500  # above the lowest cursor of a page of members


class MemberReader:
    """Reads the members of one room who have not received everything."""

    def count(self, where: dict[str, str]) -> int:
        room = room_key(where.get("room", ""))
        return run_async(_count, room) if room else 0

    def page(self, where: dict[str, str], start: int, stop: int) -> list[UndeliveredMember]:
        room = room_key(where.get("room", ""))
        return _rows(room, *run_async(_page, room, start, stop)) if room else []

    def keys(self, where: dict[str, str], limit: int) -> list[str]:
        room = room_key(where.get("room", ""))
        return run_async(_keys, room, limit) if room else []

    def by_key(self, keys: Sequence[str]) -> list[UndeliveredMember]:
        rows: list[UndeliveredMember] = []
        for room_id, users in _users_by_room(keys).items():
            room = room_key(room_id)
            if room:
                rows += _rows(room, *run_async(_by_user, room, users))
        return rows


def _users_by_room(keys: Sequence[str]) -> dict[str, list[int]]:
    users: dict[str, list[int]] = {}
    for key in keys:
        room_id, _, user = key.rpartition(":")
        if user.isdecimal():
            users.setdefault(room_id, []).append(int(user))
    return users


_MemberState = tuple[
    MemberBehind | Owing, DeliveryDebt, bool
]  # the member, their undelivered messages, whether they are connected


async def _owing(room: RoomKey) -> list[Owing] | None:
    """Return the owing members, furthest behind first; None if too many are behind to check each."""
    store = open_store()
    [lag] = await store.retries.members_behind([room], limit=MAX_CHECKED_MEMBERS)
    if lag is None:
        return []
    if lag.behind > MAX_CHECKED_MEMBERS:
        return None
    batches = [
        dataclasses.replace(lag, members_behind=lag.members_behind[start : start + MEMBERS_BATCH])
        for start in range(0, len(lag.members_behind), MEMBERS_BATCH)
    ]
    return [member for owing in await store.retries.owing_among(batches) for member in owing]


async def _count(room: RoomKey) -> int:
    owing = await _owing(room)
    return await open_store().lists.count_members_behind(room) if owing is None else len(owing)


async def _page(room: RoomKey, start: int, stop: int) -> tuple[int, list[_MemberState]]:
    owing = await _owing(room)
    if owing is None:
        return await _states(room, await open_store().lists.members_behind(room, start, stop))
    return await _states(room, owing[start:stop])


async def _keys(room: RoomKey, limit: int) -> list[str]:
    owing = await _owing(room)
    members: list[MemberBehind | Owing] = list(owing or [])
    while owing is None and len(members) < limit:
        stop = min(limit, len(members) + MAX_CHECKED_MEMBERS)
        batch = await open_store().lists.members_behind(room, len(members), stop)
        members += batch
        if len(batch) < MAX_CHECKED_MEMBERS:
            break
    return [f"{room.id}:{member.user}" for member in members[:limit]]


async def _by_user(room: RoomKey, users: Sequence[int]) -> tuple[int, list[_MemberState]]:
    owing = await _owing(room)
    if owing is None:
        return await _states(room, await open_store().lists.members_behind_by_id(room, users))
    return await _states(room, [member for member in owing if member.user in users])


async def _states(room: RoomKey, members: Sequence[MemberBehind | Owing]) -> tuple[int, list[_MemberState]]:
    """Return the store's time and the state of each member."""
    store = open_store()
    [undelivered] = await store.lists.delivery_debts([(room, members)], limit=CHECKED_MESSAGES)
    online: set[int] = set().union(*(await store.presence.online()).values())
    states = [
        (member, debt, member.user in online) for member, debt in zip(members, undelivered, strict=True)
    ]
    return await store.now_ms(), states


def _rows(room: RoomKey, now_ms: int, states: Sequence[_MemberState]) -> list[UndeliveredMember]:
    names = user_names({member.user for member, *_ in states})
    rows = []
    for member, undelivered, online in states:
        row: Any = UndeliveredMember(place=f"{room.id}:{member.user}")
        row.name = names.get(member.user, f"#{member.user}")
        row.room, row.now_ms, row.member = room.id, now_ms, member
        row.undelivered, row.online = undelivered, online
        rows.append(row)
    return rows


class OneRoomFilter(RoomFilter):
    """The room whose members are listed. A link chooses it."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield only the room, because there is no list of all members."""
        return (choice for choice in super().choices(changelist) if choice["selected"])


@admin.register(UndeliveredMember)
class UndeliveredMemberAdmin(StoreAdmin):
    reader = MemberReader()
    row_actions = (RETRY_MEMBERS, RESET_ATTEMPTS)
    list_display = ("name", "waiting", "oldest_waits", "attempts", "oldest_ends", "next_attempt")
    list_display_links = None
    list_filter = (OneRoomFilter,)
    empty_text = _("No undelivered messages in this room.")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("messaging.view_undeliveredroom")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return False  # linked from its room

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        room = request.GET.get("room", "")
        if not room and request.method == "GET":
            return HttpResponseRedirect(reverse("admin:messaging_undeliveredroom_changelist"))
        title = gettext("Undelivered in %(room)s") % {"room": room_names({room}).get(room, room)}
        return super().changelist_view(
            request, {**(extra_context or {}), "title": title, "above": UndeliveredRoom._meta}
        )

    def describe(self, row: Any) -> str:
        return str(row.name)

    @admin.display(description=_("member"))
    def name(self, row: Any) -> str:
        kind, text = ("on", gettext("connected")) if row.online else ("off", gettext("offline"))
        return format_html(
            '<span class="ops-state" data-kind="{}">{}</span><small>{}</small>', kind, row.name, text
        )

    @admin.display(description=_("not received"))
    def waiting(self, row: Any) -> str:
        count = row.undelivered.count
        if not count:
            return gettext("nothing: own messages, or sent to others only")
        text = ngettext("%(n)s message", "%(n)s messages", count) % {"n": number(count)}
        return gettext("at most %(messages)s") % {"messages": text} if row.undelivered.cut else text

    @admin.display(description=_("oldest message"))
    def oldest_waits(self, row: Any) -> str:
        if not row.undelivered.seq:
            return "–"
        page = reverse("admin:messaging_storedmessage_change", args=[f"{row.room}:{row.undelivered.seq}"])
        text = gettext("message %(seq)s") % {"seq": row.undelivered.seq}
        since = ago(row.undelivered.sent_at, row.now_ms)
        return format_html('<a href="{}">{}</a><small>{}</small>', page, text, since)

    @admin.display(description=_("oldest expires"))
    def oldest_ends(self, row: Any) -> str:
        return ends(row.undelivered.expires_at, row.now_ms) if row.undelivered.seq else "–"

    @admin.display(description=_("attempts"))
    def attempts(self, row: Any) -> str:
        if not row.undelivered.count:
            return "–"
        attempts = row.member.attempts
        reason = (
            gettext("no answer") if attempts else gettext("just sent") if row.online else gettext("offline")
        )
        return format_html("{}/{}<small>{}</small>", attempts, policies.current().attempts_max, reason)

    @admin.display(description=_("next attempt"))
    def next_attempt(self, row: Any) -> str:
        if not row.undelivered.count:
            return "–"
        if not row.online:
            return gettext("when they reconnect")
        if row.member.attempts >= policies.current().attempts_max:
            return gettext("gave up: waits for an answer or a new connection")
        return ahead(row.member.next_at_ms, row.now_ms) if row.member.next_at_ms else gettext("soon")
