"""Live messages for the staff: found by room, by ROOM:SEQ or by message id, and what is stored of one message's life.

The fate of a message in one page: accepted, changed, who holds it, who does not and why, when it ends. Its text is not shown here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from . import letters
from . import policy as policies
from .admin_rows import StoreAdmin, names_of, room_key, rooms_named
from .admin_words import ago, ahead, clock
from .crossing import run_verb
from .errors import NoSuchMessage, NotMember
from .models import AuditEntry, DeadLetter, Membership, Room, StoredMessage
from .records import Live, Recipient, Recipients, RoomKey
from .roster import key_of
from .store import open_store

SENDERS_MOST = 20_000  # memberships among which the sender of a message id is looked for

_PLACE = re.compile(r"(.+):(\d{1,16})")


class Messages:
    """Reads live messages: of a room the newest first, of all rooms what ends soonest."""

    def count(self, where: dict[str, str]) -> int:
        room = _room_of(where)
        return 0 if room is None and where else run_verb(_count, room)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[StoredMessage]:
        room = _room_of(where)
        return [] if room is None and where else _rows(*run_verb(_page, start, stop, room))

    def by_key(self, keys: Sequence[str]) -> list[StoredMessage]:
        places = [place for place in map(place_of, keys) if place]
        return _rows(*run_verb(_named, places)) if places else []


def _room_of(where: dict[str, str]) -> RoomKey | None:
    return room_key(where["room"]) if "room" in where else None


def place_of(key: str) -> tuple[RoomKey, int] | None:
    """Return what ROOM:SEQ means, None where there is no such room."""
    found = _PLACE.fullmatch(key)
    room = room_key(found[1]) if found else None
    return (room, int(found[2])) if found and room else None


async def _count(room: RoomKey | None) -> int:
    return await open_store().count_live(room)


async def _page(start: int, stop: int, room: RoomKey | None) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.live(start, stop, room)


async def _named(places: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.live_by_place(places)


def _rows(now_ms: int, found: Sequence[Live]) -> list[StoredMessage]:
    rooms = rooms_named({one.room.id for one in found})
    rows = []
    for one in found:
        row: Any = StoredMessage(place=f"{one.room.id}:{one.seq}")
        row.room_name, row.live, row.now_ms = rooms.get(one.room.id, one.room.id), one, now_ms
        rows.append(row)
    return rows


class OfRoom(admin.SimpleListFilter):
    """The room whose messages are listed; chosen by a link or a search."""

    title = _("room")
    parameter_name = "room"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        room = request.GET.get("room", "")
        return [(room, rooms_named({room}).get(room, room))] if room else []

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(room=self.value()) if self.value() else queryset


@admin.register(StoredMessage)
class StoredMessageAdmin(StoreAdmin):
    """The list, and one message's page."""

    reader = Messages()
    list_display = ("place", "room_name", "sender", "sent", "reach", "ends")
    list_filter = (OfRoom,)
    search_fields = ("place",)
    search_help_text = _("ROOM:SEQ, a message's number, or a room's name")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by ROOM:SEQ or message number, else the newest of a room by its number or name."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if _PLACE.fullmatch(term):
            return queryset.filter(pk__in=[term]), False
        rooms = list((Room.objects.filter(pk=term) | Room.objects.filter(name__iexact=term))[:1])
        if rooms:
            return queryset.filter(room=rooms[0].pk), False
        return queryset.filter(pk__in=_by_message(term)), False

    @admin.display(description=_("room"))
    def room_name(self, row: Any) -> str:
        return format_html('<a href="?room={}">{}</a>', row.live.room.id, row.room_name)

    @admin.display(description=_("sender"))
    def sender(self, row: Any) -> str:
        return str(row.live.name)

    @admin.display(description=_("sent"))
    def sent(self, row: Any) -> str:
        return ago(row.live.sent_at, row.now_ms)

    @admin.display(description=_("reach"))
    def reach(self, row: Any) -> str:
        if not row.live.tracked:
            return gettext("not tracked")
        if not row.live.behind:
            return gettext("with everybody")
        return gettext("%(n)s behind") % {"n": f"{row.live.behind:,}"}

    @admin.display(description=_("ends"))
    def ends(self, row: Any) -> str:
        return ahead(row.live.expires_at, row.now_ms)

    # One message

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one message's life, or lead to its dead letter."""
        if not self.has_view_permission(request):
            return super().change_view(request, object_id, form_url, extra_context)
        return self.or_away(request, lambda: self._message(request, object_id))

    def _message(self, request: HttpRequest, key: str) -> HttpResponse:
        found = _PLACE.fullmatch(key)
        place = place_of(key)
        told = run_verb(_look, *place) if place else None
        letter = letters.letter_of(found[1], int(found[2])) if found else None
        if told is None and letter is not None:
            page = reverse("admin:messaging_deadletter_change", args=[letter.pk])
            return HttpResponseRedirect(page)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Message %(place)s") % {"place": key},
            "key": key,
        }
        if told is None:
            return TemplateResponse(
                request, "admin/messaging/no_message.html", context, status=HTTPStatus.NOT_FOUND
            )
        return TemplateResponse(request, "admin/messaging/message.html", context | _told(told, letter))


def _by_message(message: str) -> list[str]:
    """Return [ROOM:SEQ] of a message number: of a dead letter, or of a live one of the newest 20,000 memberships."""
    senders = [
        (key_of(membership.room), membership.user_id)
        for membership in Membership.objects.select_related("room").order_by("-pk")[:SENDERS_MOST]
    ]
    found = run_verb(_seq_of, message, senders)
    if found:
        return [f"{found[0].id}:{found[1]}"]
    letter = DeadLetter.objects.filter(message_id=message).only("room_key", "seq").first()
    return [f"{letter.room_key}:{letter.seq}"] if letter else []


async def _seq_of(message: str, senders: Sequence[tuple[RoomKey, int]]) -> tuple[RoomKey, int] | None:
    return await open_store().seq_of(message, senders)


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the store says of one message."""

    now_ms: int
    live: Live
    recipients: Recipients | None
    online: set[int]
    keys: list[tuple[str, str]]


async def _look(room: RoomKey, seq: int) -> Told | None:
    store = open_store()
    found = await store.live_by_place([(room, seq)])
    if not found:
        return None
    try:
        recipients = await store.recipients(room, seq)
    except (NoSuchMessage, NotMember):
        recipients = None
    online: set[int] = set().union(*(await store.presence()).values())
    return Told(await store.now_ms(), found[0], recipients, online, await store.raw_keys(room, seq))


def _told(told: Told, letter: DeadLetter | None) -> dict[str, Any]:
    live, now_ms = told.live, told.now_ms
    members = told.recipients.members if told.recipients else []
    names = names_of({one.user for one in members} | {live.sender})
    people = [
        _person(one, names.get(one.user, f"#{one.user}"), one.user in told.online, now_ms) for one in members
    ]
    entries = AuditEntry.objects.filter(room_key=live.room.id, seq=live.seq).order_by("at")[:100]
    return {
        "live": live,
        "room_name": rooms_named({live.room.id}).get(live.room.id, live.room.id),
        "sent": clock(live.sent_at),
        "ends": clock(live.expires_at),
        "left": ahead(live.expires_at, now_ms),
        "edited": clock(live.edited_at) if live.edited_at else "",
        "state": _state(told),
        "people": people,
        "more": max(0, (told.recipients.total if told.recipients else 0) - len(people)),
        "entries": entries,
        "keys": told.keys,
        "letter": letter,
    }


def _state(told: Told) -> str:
    if told.recipients is None or not told.live.tracked:
        return gettext("not tracked: nobody owes it")
    total, delivered = told.recipients.total, told.recipients.delivered
    if delivered >= total:
        return gettext("delivered to all %(total)s") % {"total": total}
    return gettext("delivered to %(delivered)s of %(total)s") % {"delivered": delivered, "total": total}


def _person(one: Recipient, name: str, online: bool, now_ms: int) -> dict[str, str]:
    held = one.state != "waiting"
    return {
        "name": name,
        "state": _state_of(one, online),
        "kind": "held" if held else "waits",
        "tries": "" if held else f"{one.attempts}/{policies.current().attempts_max}",
        "next": ahead(one.next_at_ms, now_ms) if one.next_at_ms else "",
    }


def _state_of(one: Recipient, online: bool) -> str:
    """Say in words where a message stands with somebody, and why."""
    if one.state == "read":
        return gettext("read")
    if one.state == "delivered":
        return gettext("delivered")
    if one.reason == "client_rejected":
        return gettext("could not be shown there")
    if one.reason == "no_ack":
        return gettext("gave up: no answer")
    if not online:
        return gettext("offline: sent as soon as they are back")
    return gettext("retrying: no answer") if one.attempts else gettext("just sent")
