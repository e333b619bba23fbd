"""What becomes of dead letters: sent again to those who missed the message, or discarded, which may be taken back for 10 minutes.

    open --begin_resend--> open, being resent --end_resend--> requeued
    open --discard--> discarded --undo_discard, within 10 minutes--> open

The answer to a resend stays in the letter: whoever repeats it, however late, gets the same one. One whose process died between
beginning and end is found by `unfinished_resends`. Rows only: sending is `resend`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Q

from messaging import audit
from messaging.models import AuditEntry, DeadLetter, Membership, epoch_ms, moment
from messaging.store.records import Missed

from . import packing

UNDO_MS = 10 * 60_000
UNFINISHED_MS = 60_000  # a process that lives has its answer by then
UNFINISHED_AT_ONCE = 100
AT_ONCE = 500  # letters, or keys, in one statement

State = DeadLetter.State
Verb = AuditEntry.Verb


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """Which letters it was done to, and which not: [(letter, why)]; why is a state, `unknown`, `resending` or `too_late`."""

    done: list[UUID]
    skipped: list[tuple[UUID, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Prospect:
    """Whether a letter can be sent again: to `users`, without `left_out`: [(user, `left_room`, `deactivated` or `deleted`)].

    `obstacle`: '' or a state, `text_gone`, `room_gone`, `sender_left`, `nobody_left`.
    """

    obstacle: str
    users: list[int] = dataclasses.field(default_factory=list)
    left_out: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def letter_of(room_key: str, seq: int, epoch: str | None = None) -> DeadLetter | None:
    """Return the dead letter of a message; without an epoch, that of the newest life of the log which has one."""
    if epoch is not None and "\0" in epoch:  # which PostgreSQL refuses to compare with anything
        return None
    letters = DeadLetter.objects.filter(room_key=room_key, seq=seq)
    if epoch is not None:
        letters = letters.filter(epoch=epoch)
    return letters.order_by("-sent_at").first()


def missing_of(letter: DeadLetter) -> list[Missed]:
    """Return all who missed it."""
    return packing.unpack(letter.missing)


def addressees(letter: DeadLetter) -> tuple[list[int], list[tuple[int, str]]]:
    """Return of those who missed it who can be sent to, and who not: [(user, `left_room`, `deactivated` or `deleted`)]."""
    users = [one.user for one in missing_of(letter)]
    members = set(
        Membership.objects.filter(room=letter.room_key, leaving_at=None).values_list("user_id", flat=True)
    )
    active: dict[int, bool] = {}
    for some in _portions(users):
        active |= dict(get_user_model().objects.filter(pk__in=some).values_list("pk", "is_active"))
    why = {user: _hindrance(active.get(user), user in members) for user in users}
    return [user for user in users if not why[user]], [(user, said) for user, said in why.items() if said]


def prospect(letter: DeadLetter) -> Prospect:
    """Say whether a letter can be sent again, and to whom."""
    if letter.state != State.OPEN:
        return Prospect(letter.state)
    if letter.body is None:
        return Prospect("text_gone")
    if letter.room_id is None:
        return Prospect("room_gone")
    sender = Membership.objects.filter(room=letter.room_id, user_id=letter.sender_key, leaving_at=None)
    if not sender.exists():
        return Prospect("sender_left")
    users, left_out = addressees(letter)
    return Prospect("" if users else "nobody_left", users, left_out)


def _hindrance(active: bool | None, member: bool) -> str:
    if active is None:
        return "deleted"
    if not active:
        return "deactivated"
    return "" if member else "left_room"


# ── Resending ──


def begin_resend(letter: UUID, now_ms: int) -> bool:
    """Note that a letter is about to be sent again; False: it cannot be (discarded, text gone) or has been. Idempotent."""
    free = DeadLetter.objects.filter(pk=letter, state=State.OPEN, body__isnull=False)
    begun = free.filter(resend_started_at=None).update(resend_started_at=moment(now_ms))
    return bool(begun) or free.exists()


def end_resend(
    letter: UUID, answer: dict[str, Any], by: int | None, now_ms: int, verb: str = Verb.RESEND
) -> dict[str, Any]:
    """Keep the answer of a resend in its letter and return it, or the one that is there already. Raises DoesNotExist."""
    with transaction.atomic():
        row = DeadLetter.objects.select_for_update().defer("body", "missing").get(pk=letter)
        if row.answer is not None:
            kept: dict[str, Any] = row.answer
            return kept
        resolution = _resolution(State.REQUEUED, by, now_ms)
        DeadLetter.objects.filter(pk=letter).update(answer=answer, **resolution)
        audit.note(
            verb,
            now_ms=now_ms,
            user=by,
            room_key=row.room_key,
            seq=row.seq,
            message_id=row.message_id,
            detail={name: answer[name] for name in ("seq", "sent_at", "expires_at")},
        )
    return answer


def unfinished_resends(now_ms: int) -> list[DeadLetter]:
    """Return letters whose resend began more than a minute ago and has no answer, the oldest first."""
    begun = DeadLetter.objects.filter(
        state=State.OPEN,
        body__isnull=False,
        answer__isnull=True,
        resend_started_at__lt=moment(now_ms - UNFINISHED_MS),
    )
    return list(begun.order_by("resend_started_at")[:UNFINISHED_AT_ONCE])


def abandon_resend(letter: UUID) -> None:
    """Forget that a resend began, where it is certain that nothing was sent. Idempotent."""
    DeadLetter.objects.filter(pk=letter, answer__isnull=True).update(resend_started_at=None)


# ── Discarding ──


def discard(letters: Collection[UUID], by: int | None, now_ms: int) -> Resolved:
    """Drop open letters: nobody sends them any more. A transaction each 500. Idempotent."""
    return _each(letters, hindrance_to_discard, State.DISCARDED, Verb.DISCARD, by, now_ms)


def hindrance_to_discard(row: DeadLetter) -> str:
    """Say why a letter, read with `has_text`, cannot be discarded: its state or `resending`; '' if it can."""
    if row.state != State.OPEN:
        return row.state
    return "resending" if row.resend_started_at and row.has_text else ""  # type: ignore[attr-defined]


def undo_discard(letters: Collection[UUID], by: int | None, now_ms: int) -> Resolved:
    """Open letters again that were discarded in the last 10 minutes. A transaction each 500."""

    def hindrance(row: DeadLetter) -> str:
        if row.state != State.DISCARDED or row.resolved_at is None:
            return row.state
        return "too_late" if now_ms - epoch_ms(row.resolved_at) > UNDO_MS else ""

    return _each(letters, hindrance, State.OPEN, Verb.UNDO_DISCARD, by, now_ms)


def _each(
    letters: Collection[UUID],
    hindrance: Callable[[DeadLetter], str],
    state: str,
    verb: str,
    by: int | None,
    now_ms: int,
) -> Resolved:
    found = Resolved([], [])
    for some in _portions(dict.fromkeys(letters)):
        with transaction.atomic():
            rows = _locked(some)
            why = {key: hindrance(rows[key]) if key in rows else "unknown" for key in some}
            done = [key for key in some if not why[key]]
            DeadLetter.objects.filter(pk__in=done).update(**_resolution(state, by, now_ms))
            audit.note_letters(verb, [rows[key] for key in done], now_ms=now_ms, user=by)
        found.done.extend(done)
        found.skipped.extend((key, said) for key, said in why.items() if said)
    return found


def _locked(letters: Collection[UUID]) -> dict[UUID, DeadLetter]:
    rows = DeadLetter.objects.select_for_update().filter(pk__in=letters).order_by("pk")
    return {row.pk: row for row in rows.defer("body", "missing").annotate(has_text=Q(body__isnull=False))}


def _resolution(state: str, by: int | None, now_ms: int) -> dict[str, Any]:
    if state == State.OPEN:
        return {"state": state, "resolved_at": None, "resolved_by": None}
    return {"state": state, "resolved_at": moment(now_ms), "resolved_by": by}


def _portions(keys: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = list(keys)
    for at in range(0, len(remaining), AT_ONCE):
        yield remaining[at : at + AT_ONCE]
