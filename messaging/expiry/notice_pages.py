"""Pages of a user's notices, the newest first, and of the members who missed a message, by id.

They are read from the dead letters. A dead letter has every member who missed a message, not only the first 100, and stays when a summary
replaces its notice. A notice whose dead letter was deleted is read from its own row, and so is a summary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Q, Value

from messaging.errors import BadRequest, NoSuchMessage
from messaging.models import EPOCH, DeadLetter, MissedRecipient, Notice, epoch_ms
from messaging.store.records import Missed

from . import letters
from .notices import Fields, Person, data_of, fields_of
from .reports import Names

MAX_NOTICES = 100
MISSING_BATCH = 200

# Of a notice in the order of the reports: its time, and its id or that of its dead letter.
Place = tuple[datetime, str]


def notices_before(user: int, before: str, limit: int) -> dict[str, Any]:
    """Return {notices, next}: at most `limit` notices of a user, waiting and dismissed, the newest first.

    `before` is '' or the `next` of an earlier answer; `next` is None on the last page. Raises BadRequest.
    """
    place = _place_of(before) if before else None
    limit = max(1, min(limit, MAX_NOTICES))
    rows = [*_letters(user, place, limit + 1), *_notices_without_letter(user, place, limit + 1)]
    newest = sorted(rows, key=lambda row: row[0], reverse=True)[:limit]
    return {
        "notices": [fields for _, fields in newest],
        "next": _cursor(newest[-1][0]) if len(rows) > limit else None,
    }


def missing_after(user: int, notice: str, after: int) -> dict[str, Any]:
    """Return {missing, total}: the members who missed the message of a user's notice, at most 200 with an id above `after`, by id.

    If the dead letter was deleted, only the first 100 are known. Raises NoSuchMessage.
    """
    row = Notice.objects.filter(user=user, pk=notice, kind=Notice.Kind.UNDELIVERED).first()
    key = row.dead_letter_id if row else _uuid_of(notice)
    letter = DeadLetter.objects.filter(sender=user, pk=key).defer("body").first() if key else None
    if letter is not None:
        members = sorted(letters.missing_of(letter), key=lambda member: member.user)
        page = [member for member in members if member.user > after][:MISSING_BATCH]
        return {"missing": _people(letter, page), "total": letter.missing_total}
    if row is None:
        raise NoSuchMessage("You have no such notice.")
    named = sorted(row.data["missing"], key=lambda person: person["user"])
    return {
        "missing": [person for person in named if person["user"] > after],
        "total": row.data["missing_total"],
    }


def _letters(user: int, place: Place | None, limit: int) -> Iterable[tuple[Place, Fields]]:
    """Yield the newest dead letters of a sender as notices, also those whose notice is summed up."""
    rows = DeadLetter.objects.filter(sender=user).defer("body", "missing")
    if place:
        at, key = place
        rows = rows.filter(processed_at__lte=at).exclude(processed_at=at, pk__gte=UUID(key))
    rows = rows.annotate(
        notice_key=F("notice__pk"),
        dismissed_at=F("notice__dismissed_at"),
        resendable=Q(state=DeadLetter.State.OPEN, body__isnull=False),
    )
    page: list[Any] = list(rows.order_by("-processed_at", "-pk")[:limit])
    people = _named([letter.pk for letter in page])
    waiting_from_ms = _waiting_from_ms(user)
    for letter in page:
        ended_ms = epoch_ms(letter.expired_at)
        summed_and_waiting = waiting_from_ms is not None and ended_ms >= waiting_from_ms
        yield (
            (letter.processed_at, letter.pk.hex),
            {
                "notice": letter.notice_key or letter.pk.hex,
                "kind": Notice.Kind.UNDELIVERED,
                "at": epoch_ms(letter.processed_at),
                "data": data_of(letter, people[letter.pk]) | {"resendable": letter.resendable},
                "dismissed": letter.dismissed_at is not None if letter.notice_key else not summed_and_waiting,
            },
        )


def _notices_without_letter(user: int, place: Place | None, limit: int) -> Iterable[tuple[Place, Fields]]:
    rows = Notice.objects.filter(user=user, dead_letter=None).annotate(resendable=Value(False))
    if place:
        at, key = place
        rows = rows.filter(at__lte=at).exclude(at=at, pk__gte=key)
    for row in rows.order_by("-at", "-pk")[:limit]:
        yield (row.at, row.pk), fields_of(row)


def _waiting_from_ms(user: int) -> int | None:
    """Return the first expiry in the user's summary, None if no summary waits: older summed notices were dismissed with an earlier summary."""
    summary = Notice.objects.filter(user=user, kind=Notice.Kind.SUMMARY, dismissed_at=None)
    return summary.values_list("data__from_at", flat=True).first()


def _named(keys: list[UUID]) -> dict[UUID, list[Person]]:
    people: defaultdict[UUID, list[Person]] = defaultdict(list)
    rows = MissedRecipient.objects.filter(dead_letter__in=keys).order_by("pk")
    for key, *fields in rows.values_list("dead_letter", "user_key", "name", "reason", "attempts"):
        people[key].append(dict(zip(("user", "name", "reason", "attempts"), fields, strict=True)))
    return people


def _people(letter: DeadLetter, members: list[Missed]) -> list[Person]:
    """Return members with their names: those of the report, or the present ones."""
    users = {member.user for member in members}
    rows = MissedRecipient.objects.filter(dead_letter=letter, user_key__in=users)
    reported = dict(rows.values_list("user_key", "name"))
    names = Names(users - reported.keys())
    return [
        {
            "user": member.user,
            "name": reported.get(member.user) or names.of(member.user),
            "reason": member.reason,
            "attempts": member.attempts,
        }
        for member in members
    ]


# ── Places ──


def _cursor(place: Place) -> str:
    at, key = place
    return f"{(at - EPOCH) // timedelta(microseconds=1)}-{key}"


def _place_of(cursor: str) -> Place:
    microseconds, _, key = cursor.partition("-")
    uuid = _uuid_of(key)
    try:
        at = EPOCH + timedelta(microseconds=int(microseconds))
    except (ValueError, OverflowError):
        uuid = None
    if uuid is None:
        raise BadRequest("before must be the `next` of an earlier answer.")
    return at, uuid.hex


def _uuid_of(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
