"""The data on the page of one live message: its times, its recipients with their state, its changes. Never its text."""

from __future__ import annotations

import dataclasses
from typing import Any

from django.utils.translation import gettext

from messaging import policy as policies
from messaging.errors import NoSuchMessage, NotMember
from messaging.expiry import letters
from messaging.models import AuditEntry, DeadLetter, moment
from messaging.store import open_store
from messaging.store.records import Live, Recipient, Recipients, RoomKey

from .formatting import age, ahead, clock, number, signed
from .lists import user_names

MAX_ENTRIES = 100  # changes of one message


@dataclasses.dataclass(frozen=True, slots=True)
class Details:
    """The store's data of one message."""

    now_ms: int
    live: Live
    recipients: Recipients | None
    online: set[int]
    raw_keys: list[tuple[str, str]]


async def read_details(room: RoomKey, seq: int) -> Details | None:
    """Return the data of a live message; None without such a message. Raises Unavailable."""
    store = open_store()
    messages = await store.lists.live_by_seq([(room, seq)])
    if not messages:
        return None
    try:
        recipients = await store.cursors.recipients(room, seq)
    except (NoSuchMessage, NotMember):
        recipients = None
    online: set[int] = set().union(*(await store.presence.online()).values())
    raw_keys = await store.lists.raw_keys(room, seq)
    return Details(await store.now_ms(), messages[0], recipients, online, raw_keys)


def context_of(details: Details, letter: DeadLetter | None) -> dict[str, Any]:
    """Return the template context. `letter`: the dead letter of the message, if it has one already."""
    live, now_ms = details.live, details.now_ms
    recipients = details.recipients.members if details.recipients else []
    names = user_names({recipient.user for recipient in recipients} | {live.sender})
    people = [
        _person(
            recipient,
            names.get(recipient.user, f"#{recipient.user}"),
            recipient.user in details.online,
            now_ms,
        )
        for recipient in recipients
    ]
    return {
        "live": live,
        "sent": clock(moment(live.sent_at)),
        "ends": clock(moment(live.expires_at)),
        "left": age(max(0, live.expires_at - now_ms) / 1000),
        "lifetime": age((live.expires_at - live.sent_at) / 1000),
        "edited": clock(moment(live.edited_at)) if live.edited_at else "",
        "state": _state(details),
        "people": people,
        "more": number(max(0, (details.recipients.total if details.recipients else 0) - len(people))),
        "entries": _entries(live),
        "keys": details.raw_keys,
        "letter": letter,
        "reply_key": f"{live.room.id}:{live.reply_to}",
        "resent": letters.letter_of(live.room.id, live.resends) if live.resends else None,
    }


def _entries(live: Live) -> list[dict[str, str]]:
    """Return the changes of a message since it was accepted."""
    entries = AuditEntry.objects.filter(room_key=live.room.id, seq=live.seq, at__gte=moment(live.sent_at))
    return [
        {"at": clock(entry.at), "text": entry.get_verb_display(), "by": entry.user_name}
        for entry in entries.order_by("at")[:MAX_ENTRIES]
    ]


def _state(details: Details) -> str:
    if details.recipients is None or not details.live.tracked:
        return signed("free", gettext("untracked"))
    total, delivered = details.recipients.total, details.recipients.delivered
    if delivered >= total:
        return signed("held", gettext("delivered to all %(total)s") % {"total": number(total)})
    text = gettext("delivered to %(delivered)s of %(total)s")
    return signed("waits", text % {"delivered": number(delivered), "total": number(total)})


def _person(recipient: Recipient, name: str, online: bool, now_ms: int) -> dict[str, str]:
    kind, text = _recipient_state(recipient, online)
    is_held = kind == "held"
    return {
        "name": name,
        "state": signed(kind, text),
        "attempts": "–" if is_held else f"{recipient.attempts}/{policies.current().attempts_max}",
        "next": ahead(recipient.next_at_ms, now_ms) if recipient.next_at_ms and online else "–",
    }


def _recipient_state(recipient: Recipient, online: bool) -> tuple[str, str]:
    """Return the state of the delivery to one recipient: (kind of `ops-state`, text with the reason)."""
    if recipient.state == "read":
        return "held", gettext("read")
    if recipient.state == "delivered":
        return "held", gettext("delivered")
    if recipient.reason == "client_rejected":
        return "missed", gettext("could not be displayed")
    if recipient.reason == "no_ack":
        return "missed", gettext("gave up: no answer")
    if not online:
        return "off", gettext("offline: sent when they reconnect")
    return "waits", gettext("retrying: no answer") if recipient.attempts else gettext("just sent")
