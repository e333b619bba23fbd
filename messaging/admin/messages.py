"""Live messages for the staff: a list by room, a search by ROOM:SEQ or message id, and a page for each message.

The page shows the delivery of one message: its times and changes, the state of each recipient with the reason, its expiry. The text
needs a separate permission and a reason, which is logged.
"""

from __future__ import annotations

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

from messaging.bridge import run_async
from messaging.expiry import letters
from messaging.models import DeadLetter, Membership, Room, StoredMessage
from messaging.store import open_store
from messaging.store.records import Live, RoomKey

from .actions import log_each
from .formatting import ago, ends, number, signed
from .lists import RoomFilter, StoreAdmin, room_key, room_names
from .message_details import context_of, read_details
from .store_actions import DELETE_MESSAGES, EXTEND_MESSAGES

KEYS_BATCH = 10_000  # messages in one read, about a 64th of them from each partition
MAX_SENDERS = 20_000  # newest memberships that are searched for the sender of a message id

_ROOM_SEQ = re.compile(r"([^:]{1,32}):(\d{1,16})")
_MESSAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class MessageReader:
    """Reads live messages: those of a room newest first, those of all rooms in the order of their expiry."""

    def count(self, where: dict[str, str]) -> int:
        room = _room_of(where)
        return 0 if room is None and where else run_async(_count, room)

    def page(self, where: dict[str, str], start: int, stop: int) -> list[StoredMessage]:
        room = _room_of(where)
        return [] if room is None and where else _rows(*run_async(_page, start, stop, room))

    def keys(self, where: dict[str, str], limit: int) -> list[str]:
        room = _room_of(where)
        return [] if room is None and where else run_async(_keys, room, limit)

    def by_key(self, keys: Sequence[str]) -> list[StoredMessage]:
        positions = [position for position in map(room_and_seq, keys) if position]
        return _rows(*run_async(_by_position, positions)) if positions else []


def _room_of(where: dict[str, str]) -> RoomKey | None:
    return room_key(where["room"]) if "room" in where else None


def room_and_seq(key: str) -> tuple[RoomKey, int] | None:
    """Return the room and seq of ROOM:SEQ; None without such a room."""
    match = _ROOM_SEQ.fullmatch(key)
    room = room_key(match[1]) if match else None
    return (room, int(match[2])) if match and room else None


async def _count(room: RoomKey | None) -> int:
    return await open_store().lists.count_live(room)


async def _page(start: int, stop: int, room: RoomKey | None) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.lists.live(start, stop, room)


async def _keys(room: RoomKey | None, limit: int) -> list[str]:
    store = open_store()
    return [
        f"{message_room.id}:{seq}"
        for start in range(0, min(limit, await store.lists.count_live(room)), KEYS_BATCH)
        for message_room, seq in await store.lists.live_seqs(start, min(limit, start + KEYS_BATCH), room)
    ]


async def _by_position(positions: Sequence[tuple[RoomKey, int]]) -> tuple[int, list[Live]]:
    store = open_store()
    return await store.now_ms(), await store.lists.live_by_seq(positions)


def _rows(now_ms: int, messages: Sequence[Live]) -> list[StoredMessage]:
    names = room_names({message.room.id for message in messages})
    rows = []
    for message in messages:
        row: Any = StoredMessage(place=f"{message.room.id}:{message.seq}")
        row.room_name, row.live, row.now_ms = names.get(message.room.id, message.room.id), message, now_ms
        rows.append(row)
    return rows


@admin.register(StoredMessage)
class StoredMessageAdmin(StoreAdmin):
    """The list, and the page of one message."""

    reader = MessageReader()
    row_actions = (DELETE_MESSAGES, EXTEND_MESSAGES)
    list_display = ("number", "room_name", "sender", "sent", "delivery", "ends")
    list_filter = (RoomFilter,)
    search_fields = ("place",)
    search_help_text = _("A message ID or ROOM:SEQ opens the message; a room's name or ID lists its messages")
    empty_text = _("No live messages.")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find a message by ROOM:SEQ or its id, else the messages of a room by its id or name."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if _ROOM_SEQ.fullmatch(term):
            return queryset.filter(pk__in=[term]), False
        if _MESSAGE_ID.fullmatch(term.lower()):
            return queryset.filter(pk__in=_keys_by_message_id(term.lower())), False
        rooms = list((Room.objects.filter(pk=term) | Room.objects.filter(name__iexact=term))[:1])
        return queryset.filter(room=rooms[0].pk) if rooms else queryset.none(), False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirect a search for one message to its page, or to the page of its dead letter."""
        term = request.GET.get("q", "").strip()
        if request.method == "GET" and self.has_view_permission(request):
            if _ROOM_SEQ.fullmatch(term):
                return HttpResponseRedirect(_page_of(term))
            if _MESSAGE_ID.fullmatch(term.lower()):
                return self.or_away(
                    request, lambda: self._by_message_id(request, term.lower(), extra_context)
                )
        return super().changelist_view(request, extra_context)

    def _by_message_id(
        self, request: HttpRequest, message_id: str, extra_context: dict[str, Any] | None
    ) -> HttpResponse:
        keys = _keys_by_message_id(message_id)
        if keys:
            return HttpResponseRedirect(_page_of(keys[0]))
        return super().changelist_view(request, extra_context)

    def describe(self, row: Any) -> str:
        position = {"room": row.room_name, "seq": row.live.seq, "sender": row.live.name}
        return gettext("%(room)s, seq %(seq)s, from %(sender)s") % position

    @admin.display(description=_("message"))
    def number(self, row: Any) -> str:
        return str(row.live.seq)

    @admin.display(description=_("room"))
    def room_name(self, row: Any) -> str:
        return format_html('<a href="?room={}">{}</a>', row.live.room.id, row.room_name)

    @admin.display(description=_("sender"))
    def sender(self, row: Any) -> str:
        return str(row.live.name)

    @admin.display(description=_("sent"))
    def sent(self, row: Any) -> str:
        return ago(row.live.sent_at, row.now_ms)

    @admin.display(description=_("delivery"))
    def delivery(self, row: Any) -> str:
        if not row.live.tracked:
            return signed("free", gettext("untracked"))
        parts = []
        if row.live.behind:
            parts.append(gettext("not received by %(n)s") % {"n": number(row.live.behind)})
        if row.live.unshown:
            parts.append(gettext("not displayed for %(n)s") % {"n": number(row.live.unshown)})
        kind = "waits" if row.live.behind else "missed" if row.live.unshown else "held"
        return signed(kind, gettext(", ").join(parts) or gettext("received by all"))

    @admin.display(description=_("expires"))
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
        """Show one message, or redirect to its dead letter."""
        if not self.has_view_permission(request):
            return super().change_view(request, object_id, form_url, extra_context)
        return self.or_away(request, lambda: self._message_page(request, unquote(object_id)))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.text_view)  # its responses are never cached
        return [
            path("<path:object_id>/text/", view, name="messaging_storedmessage_text"),
            *super().get_urls(),
        ]

    def text_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show one message with its text. Needs the permission and a reason."""
        if not (self.has_view_permission(request) and request.user.has_perm("messaging.view_body")):
            raise PermissionDenied
        form = ReasonForm(request.POST) if request.method == "POST" else None
        return self.or_away(request, lambda: self._message_page(request, unquote(object_id), form))

    def _message_page(self, request: HttpRequest, key: str, form: ReasonForm | None = None) -> HttpResponse:
        match = _ROOM_SEQ.fullmatch(key)
        position = room_and_seq(key)
        details = run_async(read_details, *position) if position else None
        letter = letters.letter_of(match[1], int(match[2])) if match else None
        if details is None and letter is not None:
            page = reverse("admin:messaging_deadletter_change", args=[letter.pk])
            return HttpResponseRedirect(page)
        name = room_names({match[1]}).get(match[1], match[1]) if match else ""
        title = gettext("Message %(seq)s in %(room)s") % {"seq": match[2], "room": name} if match else key
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "key": key,
            "room_key": match[1] if match else "",
            "room_name": name,
        }
        if details is None:
            return TemplateResponse(
                request, "admin/messaging/no_message.html", context, status=HTTPStatus.NOT_FOUND
            )
        context |= context_of(details, letter)
        if request.user.has_perm("messaging.view_body"):
            context["reason"] = form or ReasonForm()
        if position is not None and form is not None and form.is_valid():
            # Logged before the text is read, so that no access remains unlogged.
            entry = gettext("viewed the text: %(reason)s") % form.cleaned_data
            log_each(request, [StoredMessage(place=key)], entry)
            context |= {"read": True, "body": run_async(_body, *position)}
        is_invalid = form is not None and not form.is_valid()
        status = HTTPStatus.BAD_REQUEST if is_invalid else HTTPStatus.OK
        return TemplateResponse(request, "admin/messaging/message.html", context, status=status)


class ReasonForm(forms.Form):
    """The reason for viewing a text."""

    reason = forms.CharField(label=_("Reason"), max_length=200)


async def _body(room: RoomKey, seq: int) -> str | None:
    return await open_store().lists.body(room, seq)


def _page_of(key: str) -> str:
    return reverse("admin:messaging_storedmessage_change", args=[key])


def _keys_by_message_id(message_id: str) -> list[str]:
    """Return [ROOM:SEQ] of a live message from the newest 20,000 memberships, or of a dead letter."""
    newest = Membership.objects.order_by("-pk").values_list("room_id", "room__partition", "user_id")
    senders = [(RoomKey(room, partition), user) for room, partition, user in newest[:MAX_SENDERS]]
    position = run_async(_position_of, message_id, senders)
    if position:
        return [f"{position[0].id}:{position[1]}"]
    letter = DeadLetter.objects.filter(message_id=message_id).only("room_key", "seq").first()
    return [f"{letter.room_key}:{letter.seq}"] if letter else []


async def _position_of(message_id: str, senders: Sequence[tuple[RoomKey, int]]) -> tuple[RoomKey, int] | None:
    return await open_store().lists.seq_of(message_id, senders)
