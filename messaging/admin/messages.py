"""Live messages for the staff: found by room, by ROOM:SEQ or by message id, and what is stored of one message's life.

The fate of a message in one page: accepted, changed, who holds it, who does not and why, when it ends. Its text is not shown here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from messaging import policy as policies
from messaging.bridge import run_async
from messaging.errors import NoSuchMessage, NotMember
from messaging.expiry import letters
from messaging.models import AuditEntry, DeadLetter, Membership, Room, StoredMessage, moment
from messaging.store import open_store
from messaging.store.records import Live, Recipient, Recipients, RoomKey

from .actions import log_each
from .formatting import age, ago, ahead, clock, ends, number, signed
from .lists import OfRoom, StoreAdmin, names_of, room_key, rooms_named
from .store_actions import DELETE_MESSAGES, EXTEND_MESSAGES

KEYS_AT_ONCE = 10_000  # places of messages in one reading, of which a partition has a 64th part
SENDERS_MOST = 20_000  # memberships among which the sender of a message id is looked for

_PLACE = re.compile(r"([^:]{1,32}):(\d{1,16})")
_NUMBER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Messages:
    """Reads live messages: of a room the newest first, of all rooms what ends soonest."""

    def count(self, where: dict[str, str]) -> int:
        room = _room_of(where)
        return 0 if room is None and where else run_async(_count, room)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[StoredMessage]:
        room = _room_of(where)
        return [] if room is None and where else _rows(*run_async(_page, start, stop, room))

    def keys(self, where: dict[str, str], most: int) -> list[str]:
        room = _room_of(where)
        return [] if room is None and where else run_async(_keys, room, most)

    def by_key(self, keys: Sequence[str]) -> list[StoredMessage]:
        places = [place for place in map(place_of, keys) if place]
        return _rows(*run_async(_named, places)) if places else []


def _room_of(where: dict[str, str]) -> RoomKey | None:
    return room_key(where["room"]) if "room" in where else None


def place_of(key: str) -> tuple[RoomKey, int] | None:
    """Return what ROOM:SEQ means, None where there is no such room."""
    found = _PLACE.fullmatch(key)
    room = room_key(found[1]) if found else None
    return (room, int(found[2])) if found and room else None


async def _count(room: RoomKey | None) -> int:
    return await open_store().lists.count_live(room)


async def _page(start: int, stop: int, room: RoomKey | None) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.lists.live(start, stop, room)


async def _keys(room: RoomKey | None, most: int) -> list[str]:
    store = open_store()
    return [
        f"{place.id}:{seq}"
        for start in range(0, min(most, await store.lists.count_live(room)), KEYS_AT_ONCE)
        for place, seq in await store.lists.live_seqs(start, min(most, start + KEYS_AT_ONCE), room)
    ]


async def _named(places: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.lists.live_by_seq(places)


def _rows(now_ms: int, found: Sequence[Live]) -> list[StoredMessage]:
    rooms = rooms_named({one.room.id for one in found})
    rows = []
    for one in found:
        row: Any = StoredMessage(place=f"{one.room.id}:{one.seq}")
        row.room_name, row.live, row.now_ms = rooms.get(one.room.id, one.room.id), one, now_ms
        rows.append(row)
    return rows


@admin.register(StoredMessage)
class StoredMessageAdmin(StoreAdmin):
    """The list, and one message's page."""

    reader = Messages()
    verbs = (DELETE_MESSAGES, EXTEND_MESSAGES)
    list_display = ("number", "room_name", "sender", "sent", "reach", "ends")
    list_filter = (OfRoom,)
    search_fields = ("place",)
    search_help_text = _(
        "A message's number or ROOM:SEQ leads to it; a room's name or number to its messages"
    )
    empty_says = _("No message lives. Each was delivered and ended, was reported, or was deleted.")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by ROOM:SEQ or message number, else the newest of a room by its number or name."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if _PLACE.fullmatch(term):
            return queryset.filter(pk__in=[term]), False
        if _NUMBER.fullmatch(term.lower()):
            return queryset.filter(pk__in=_by_message(term.lower())), False
        rooms = list((Room.objects.filter(pk=term) | Room.objects.filter(name__iexact=term))[:1])
        return queryset.filter(room=rooms[0].pk) if rooms else queryset.none(), False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead who looks for one message to its page, or to that of its dead letter."""
        term = request.GET.get("q", "").strip()
        if request.method == "GET" and self.has_view_permission(request):
            if _PLACE.fullmatch(term):
                return HttpResponseRedirect(_page_of(term))
            if _NUMBER.fullmatch(term.lower()):
                return self.or_away(request, lambda: self._found(request, term.lower(), extra_context))
        return super().changelist_view(request, extra_context)

    def _found(
        self, request: HttpRequest, message: str, extra_context: dict[str, Any] | None
    ) -> HttpResponse:
        found = _by_message(message)
        if found:
            return HttpResponseRedirect(_page_of(found[0]))
        return super().changelist_view(request, extra_context)

    @admin.display(description=_("message"))
    def number(self, row: Any) -> str:
        return str(row.live.seq)

    def describe(self, row: Any) -> str:
        place = {"room": row.room_name, "seq": row.live.seq, "sender": row.live.name}
        return gettext("%(room)s, seq %(seq)s, from %(sender)s") % place

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
            return signed("free", gettext("owed by nobody"))
        said = []
        if row.live.behind:
            said.append(gettext("%(n)s lack it") % {"n": number(row.live.behind)})
        if row.live.unshown:
            said.append(gettext("%(n)s could not show it") % {"n": number(row.live.unshown)})
        kind = "waits" if row.live.behind else "missed" if row.live.unshown else "held"
        return signed(kind, gettext(", ").join(said) or gettext("with everybody"))

    @admin.display(description=_("ends"))
    def ends(self, row: Any) -> str:
        return ends(row.live.expires_at, row.now_ms)

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
        return self.or_away(request, lambda: self._message(request, unquote(object_id)))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.text_view)  # it forbids to cache the answer
        return [
            path("<path:object_id>/text/", view, name="messaging_storedmessage_text"),
            *super().get_urls(),
        ]

    def text_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show a message's page with its text to whoever may see that and says why."""
        if not (self.has_view_permission(request) and request.user.has_perm("messaging.view_body")):
            raise PermissionDenied
        reason = ReasonForm(request.POST) if request.method == "POST" else None
        return self.or_away(request, lambda: self._message(request, unquote(object_id), reason))

    def _message(self, request: HttpRequest, key: str, reason: ReasonForm | None = None) -> HttpResponse:
        found = _PLACE.fullmatch(key)
        place = place_of(key)
        told = run_async(_look, *place) if place else None
        letter = letters.letter_of(found[1], int(found[2])) if found else None
        if told is None and letter is not None:
            page = reverse("admin:messaging_deadletter_change", args=[letter.pk])
            return HttpResponseRedirect(page)
        room = rooms_named({found[1]}).get(found[1], found[1]) if found else ""
        title = gettext("Message %(seq)s in %(room)s") % {"seq": found[2], "room": room} if found else key
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "key": key,
            "room_key": found[1] if found else "",
            "room_name": room,
        }
        if told is None:
            return TemplateResponse(
                request, "admin/messaging/no_message.html", context, status=HTTPStatus.NOT_FOUND
            )
        context |= _told(told, letter)
        if request.user.has_perm("messaging.view_body"):
            context["reason"] = reason or ReasonForm()
        if place is not None and reason is not None and reason.is_valid():
            # Written down first: no look goes without.
            why = gettext("looked at the text: %(reason)s") % reason.cleaned_data
            log_each(request, [StoredMessage(place=key)], why)
            context |= {"read": True, "body": run_async(_body, *place)}
        wrong = reason is not None and not reason.is_valid()
        status = HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK
        return TemplateResponse(request, "admin/messaging/message.html", context, status=status)


class ReasonForm(forms.Form):
    """Why somebody looks at a text."""

    reason = forms.CharField(label=_("Reason"), max_length=200)


async def _body(room: RoomKey, seq: int) -> str | None:
    return await open_store().lists.body(room, seq)


def _page_of(place: str) -> str:
    return reverse("admin:messaging_storedmessage_change", args=[place])


def _by_message(message: str) -> list[str]:
    """Return [ROOM:SEQ] of a message number: of a dead letter, or of a live one of the newest 20,000 memberships."""
    newest = Membership.objects.order_by("-pk").values_list("room_id", "room__partition", "user_id")
    senders = [(RoomKey(room, partition), user) for room, partition, user in newest[:SENDERS_MOST]]
    found = run_async(_seq_of, message, senders)
    if found:
        return [f"{found[0].id}:{found[1]}"]
    letter = DeadLetter.objects.filter(message_id=message).only("room_key", "seq").first()
    return [f"{letter.room_key}:{letter.seq}"] if letter else []


async def _seq_of(message: str, senders: Sequence[tuple[RoomKey, int]]) -> tuple[RoomKey, int] | None:
    return await open_store().lists.seq_of(message, senders)


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
    found = await store.lists.live_by_seq([(room, seq)])
    if not found:
        return None
    try:
        recipients = await store.cursors.recipients(room, seq)
    except (NoSuchMessage, NotMember):
        recipients = None
    online: set[int] = set().union(*(await store.presence.online()).values())
    return Told(await store.now_ms(), found[0], recipients, online, await store.lists.raw_keys(room, seq))


def _told(told: Told, letter: DeadLetter | None) -> dict[str, Any]:
    live, now_ms = told.live, told.now_ms
    members = told.recipients.members if told.recipients else []
    names = names_of({one.user for one in members} | {live.sender})
    people = [
        _person(one, names.get(one.user, f"#{one.user}"), one.user in told.online, now_ms) for one in members
    ]
    return {
        "live": live,
        "sent": clock(moment(live.sent_at)),
        "ends": clock(moment(live.expires_at)),
        "left": age(max(0, live.expires_at - now_ms) / 1000),
        "lifetime": age((live.expires_at - live.sent_at) / 1000),
        "edited": clock(moment(live.edited_at)) if live.edited_at else "",
        "state": _state(told),
        "people": people,
        "more": number(max(0, (told.recipients.total if told.recipients else 0) - len(people))),
        "entries": _entries(live),
        "keys": told.keys,
        "letter": letter,
        "reply_key": f"{live.room.id}:{live.reply_to}",
        "resent": letters.letter_of(live.room.id, live.resends) if live.resends else None,
    }


def _entries(live: Live) -> list[dict[str, str]]:
    """Return what was done to a message since it was accepted."""
    rows = AuditEntry.objects.filter(room_key=live.room.id, seq=live.seq, at__gte=moment(live.sent_at))
    return [
        {"at": clock(row.at), "said": row.get_verb_display(), "by": row.user_name}
        for row in rows.order_by("at")[:100]
    ]


def _state(told: Told) -> str:
    if told.recipients is None or not told.live.tracked:
        return signed("free", gettext("owed by nobody"))
    total, delivered = told.recipients.total, told.recipients.delivered
    if delivered >= total:
        return signed("held", gettext("delivered to all %(total)s") % {"total": number(total)})
    said = gettext("delivered to %(delivered)s of %(total)s")
    return signed("waits", said % {"delivered": number(delivered), "total": number(total)})


def _person(one: Recipient, name: str, online: bool, now_ms: int) -> dict[str, str]:
    kind, said = _state_of(one, online)
    held = kind == "held"
    return {
        "name": name,
        "state": signed(kind, said),
        "kind": kind,
        "tries": "–" if held else f"{one.attempts}/{policies.current().attempts_max}",
        "next": ahead(one.next_at_ms, now_ms) if one.next_at_ms and online else "–",
    }


def _state_of(one: Recipient, online: bool) -> tuple[str, str]:
    """Say where a message stands with somebody, and why: (kind, words)."""
    if one.state == "read":
        return "held", gettext("read")
    if one.state == "delivered":
        return "held", gettext("delivered")
    if one.reason == "client_rejected":
        return "missed", gettext("could not be shown there")
    if one.reason == "no_ack":
        return "missed", gettext("gave up: no answer")
    if not online:
        return "off", gettext("offline: sent as soon as they are back")
    return "waits", gettext("retrying: no answer") if one.attempts else gettext("just sent")
