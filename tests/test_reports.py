"""What expired before everybody had it is reported once: letter, missed recipients and the sender's notice, or nothing."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, connection, connections
from django.test.utils import CaptureQueriesContext

from messaging import notices, packing, policy, reports
from messaging.models import DeadLetter, FormerUser, MissedRecipient, Notice, Room, epoch_ms
from messaging.policy import Policy
from messaging.records import Due, Expired, Missed, RoomKey
from messaging.roster import key_of

pytestmark = pytest.mark.django_db
NOW = 1_790_000_000_000  # epoch ms, a whole second
HOUR_MS = 3_600_000


def people(*names: str) -> list[User]:
    return [User.objects.create(username=name) for name in names]


def missed(*users: User | int, reason: str = "offline", attempts: int = 0) -> tuple[Missed, ...]:
    keys = [user if isinstance(user, int) else user.pk for user in users]
    return tuple(Missed(key, reason, attempts) for key in keys)


def expired(room: Room, sender: User | int, who: tuple[Missed, ...], seq: int = 7, **fields: Any) -> Expired:
    """Return a message that expired five seconds before NOW; everybody but `who` had it, one more than they owed it."""
    values: dict[str, Any] = {
        "due": Due(key_of(room), seq, NOW - 5_000, str(NOW - 5_000)),
        "epoch": "e1",
        "live": True,
        "sender": sender if isinstance(sender, int) else sender.pk,
        "id": str(uuid4()),
        "name": "" if isinstance(sender, int) else sender.username,
        "body": "see you at nine",
        "sent_at": NOW - 5_000 - HOUR_MS,
        "expires_at": NOW - 5_000,
        "reply_to": None,
        "resends": None,
        "total": len(who) + 1,
        "missed": who,
    }
    return Expired(**(values | fields))


@pytest.fixture
def room() -> Room:
    return Room.objects.create(name="Atlas")


class TestRecord:
    def test_what_somebody_missed_becomes_a_letter_a_recipient_and_a_notice(self, room: Room) -> None:
        ada, grace = people("ada", "grace")
        one = expired(room, ada, missed(grace, reason="no_ack", attempts=3), reply_to=4, resends=5)

        recorded = reports.record([one], NOW)

        letter = DeadLetter.objects.get()
        assert recorded.letters == [letter.pk] == [reports.key_of(one)]
        assert (letter.room, letter.room_key, letter.room_name) == (room, room.id, "Atlas")
        assert (letter.epoch, letter.seq, letter.message_id) == ("e1", 7, one.id)
        assert (letter.sender, letter.sender_key, letter.sender_name) == (ada, ada.pk, "ada")
        assert (letter.body, letter.reply_to, letter.resends) == ("see you at nine", 4, 5)
        assert [epoch_ms(at) for at in (letter.sent_at, letter.expired_at, letter.processed_at)] == [
            one.sent_at,
            one.expires_at,
            NOW,
        ]
        assert (letter.delivered, letter.total, letter.missing_total) == (1, 2, 1)
        assert (letter.state, letter.answer, letter.fault) == ("open", None, "")
        assert packing.unpack(letter.missing) == list(one.missed)
        recipient = MissedRecipient.objects.get()
        assert (recipient.dead_letter, recipient.user, recipient.user_key) == (letter, grace, grace.pk)
        assert (recipient.name, recipient.reason, recipient.attempts) == ("grace", "no_ack", 3)

        [notice] = notices.notices_of(ada.pk)
        assert recorded.notices == {ada.pk: [notice["notice"]]}
        assert notice == {
            "notice": notice["notice"],
            "kind": "undelivered",
            "at": NOW,
            "dismissed": False,
            "data": {
                "room": room.id,
                "epoch": "e1",
                "seq": 7,
                "id": one.id,
                "sent_at": one.sent_at,
                "expired_at": one.expires_at,
                "delivered": 1,
                "total": 2,
                "missing": [{"user": grace.pk, "name": "grace", "reason": "no_ack", "attempts": 3}],
                "missing_total": 1,
                "resendable": True,
            },
        }
        assert notices.notices_of(grace.pk) == []
