"""Expired messages and their records in the database."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User

from messaging import policy
from messaging.expiry import reports
from messaging.models import DeadLetter, Room
from messaging.policy import Policy
from messaging.rooms.memberships import key_of
from messaging.store.records import Due, Expired, Missed

NOW = 1_790_000_000_000  # epoch ms, a whole second
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TEXT = "see you at nine"


def people(*names: str) -> list[User]:
    return [User.objects.create(username=name) for name in names]


def missed(*users: User | int, reason: str = "offline", attempts: int = 0) -> tuple[Missed, ...]:
    keys = [user if isinstance(user, int) else user.pk for user in users]
    return tuple(Missed(key, reason, attempts) for key in keys)


def expired(room: Room, sender: User | int, who: tuple[Missed, ...], seq: int = 7, **fields: Any) -> Expired:
    """Return a message that expired five seconds before NOW. `who` missed it; one other member received it."""
    expires_at = fields.get("expires_at", NOW - 5_000)
    values: dict[str, Any] = {
        "due": Due(key_of(room), seq, expires_at, str(expires_at)),
        "epoch": "e1",
        "live": True,
        "sender": sender if isinstance(sender, int) else sender.pk,
        "id": str(uuid4()),
        "name": "" if isinstance(sender, int) else sender.username,
        "body": TEXT,
        "sent_at": expires_at - HOUR_MS,
        "expires_at": expires_at,
        "reply_to": None,
        "resends": None,
        "total": len(who) + 1,
        "missed": who,
    }
    return Expired(**(values | fields))


def report(room: Room, sender: User, who: User, *seqs: int, now_ms: int = NOW) -> reports.Report:
    """Report messages that `who` missed. They expired in the order of `seqs`."""
    records = [expired(room, sender, missed(who), seq, expires_at=NOW - 100_000 + seq) for seq in seqs]
    return reports.record(records, now_ms)


def letter(room: Room, sender: User, *who: User, now_ms: int = NOW, **fields: Any) -> DeadLetter:
    """Report one message and return its dead letter."""
    [key] = reports.record([expired(room, sender, missed(*who), **fields)], now_ms).letters
    return again(key)


def again(key: UUID) -> DeadLetter:
    return DeadLetter.objects.get(pk=key)


def with_policy(monkeypatch: pytest.MonkeyPatch, **numbers: Any) -> None:
    site = Policy(**numbers)
    monkeypatch.setattr(policy, "current", lambda: site)
