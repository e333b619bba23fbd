"""Dead letters after their report: resend them to the members who missed the message, or discard them.

    open --begin_resend--> open, being resent --end_resend--> requeued
    open --discard--> discarded --undo_discard, within 10 minutes--> open

The letter keeps the answer of its resend, so every repeat gets the same answer. If a process dies between `begin_resend` and
`end_resend`, `unfinished_resends` returns the letter. This module only reads and writes rows; `resend` sends.
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

MAX_UNDO_MS = 10 * 60_000
UNFINISHED_MS = 60_000  # a running process has its answer within this time
UNFINISHED_BATCH = 100
KEY_BATCH = 500  # letters, or keys, in one statement

State = DeadLetter.State
Verb = AuditEntry.Verb


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """The changed letters, and the skipped letters: [(letter, reason)]. A reason is a state, `unknown`, `resending` or `too_late`."""

    done: list[UUID]
    skipped: list[tuple[UUID, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class ResendPlan:
    """A letter can be sent again to `users`, but not to `left_out`: [(user, `left_room`, `deactivated` or `deleted`)].

    `blocked_by`: the reason why the letter cannot be sent again, '' if it can. A reason is a state, `text_gone`, `room_gone`,
    `sender_left` or `nobody_left`.
    """

    blocked_by: str
    users: list[int] = dataclasses.field(default_factory=list)
    left_out: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def letter_of(room_key: str, seq: int, epoch: str | None = None) -> DeadLetter | None:
    """Return the dead letter of a message. Without an epoch, return the letter of the newest epoch."""
    if epoch is not None and "\0" in epoch:  # PostgreSQL refuses to compare such text
        return None
    letters = DeadLetter.objects.filter(room_key=room_key, seq=seq)
    if epoch is not None:
        letters = letters.filter(epoch=epoch)
    return letters.order_by("-sent_at").first()


def missing_of(letter: DeadLetter) -> list[Missed]:
    """Return all members who missed a message."""
    return packing.unpack(letter.missing)


def reachable_recipients(letter: DeadLetter) -> tuple[list[int], list[tuple[int, str]]]:
    """Split the members who missed a message: the users who can receive it, and [(user, reason)] of the others.

    A reason is `left_room`, `deactivated` or `deleted`.
    """
    users = [member.user for member in missing_of(letter)]
    members = set(
        Membership.objects.filter(room=letter.room_key, leaving_at=None).values_list("user_id", flat=True)
    )
    active: dict[int, bool] = {}
    for batch in _batches(users):
        active |= dict(get_user_model().objects.filter(pk__in=batch).values_list("pk", "is_active"))
    reasons = {user: _unreachable_because(active.get(user), user in members) for user in users}
    left_out = [(user, reason) for user, reason in reasons.items() if reason]
    return [user for user in users if not reasons[user]], left_out


def resend_plan(letter: DeadLetter) -> ResendPlan:
    """Return whether a letter can be sent again, and its recipients."""
    if letter.state != State.OPEN:
        return ResendPlan(letter.state)
    if letter.body is None:
        return ResendPlan("text_gone")
    if letter.room_id is None:
        return ResendPlan("room_gone")
    sender = Membership.objects.filter(room=letter.room_id, user_id=letter.sender_key, leaving_at=None)
    if not sender.exists():
        return ResendPlan("sender_left")
    users, left_out = reachable_recipients(letter)
    return ResendPlan("" if users else "nobody_left", users, left_out)


def _unreachable_because(active: bool | None, member: bool) -> str:
    if active is None:
        return "deleted"
    if not active:
        return "deactivated"
    return "" if member else "left_room"


# ── Resending ──


def begin_resend(letter: UUID, now_ms: int) -> bool:
    """Mark a letter as being resent; return False if it was resent or discarded, or has no text. Idempotent."""
    open_letter = DeadLetter.objects.filter(pk=letter, state=State.OPEN, body__isnull=False)
    begun = open_letter.filter(resend_started_at=None).update(resend_started_at=moment(now_ms))
    return bool(begun) or open_letter.exists()


def end_resend(
    letter: UUID, answer: dict[str, Any], by: int | None, now_ms: int, verb: str = Verb.RESEND
) -> dict[str, Any]:
    """Keep the answer of a resend in its letter; return the answer that was kept first. Raises DoesNotExist."""
    with transaction.atomic():
        row = DeadLetter.objects.select_for_update().defer("body", "missing").get(pk=letter)
        if row.answer is not None:
            first_answer: dict[str, Any] = row.answer
            return first_answer
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
    """Return letters whose resend began more than a minute ago and has no answer, oldest first."""
    begun = DeadLetter.objects.filter(
        state=State.OPEN,
        body__isnull=False,
        answer__isnull=True,
        resend_started_at__lt=moment(now_ms - UNFINISHED_MS),
    )
    return list(begun.order_by("resend_started_at")[:UNFINISHED_BATCH])


def abandon_resend(letter: UUID) -> None:
    """Remove the mark of a resend that has sent nothing. Idempotent."""
    DeadLetter.objects.filter(pk=letter, answer__isnull=True).update(resend_started_at=None)


# ── Discarding ──


def discard(letters: Collection[UUID], by: int | None, now_ms: int) -> Resolved:
    """Discard open letters, 500 in a transaction. Idempotent."""
    return _resolve(letters, discard_blocked_by, State.DISCARDED, Verb.DISCARD, by, now_ms)


def discard_blocked_by(row: DeadLetter) -> str:
    """Return the reason why a letter cannot be discarded, its state or `resending`; '' if it can. The letter has `has_text`."""
    if row.state != State.OPEN:
        return row.state
    return "resending" if row.resend_started_at and row.has_text else ""  # type: ignore[attr-defined]


def undo_discard(letters: Collection[UUID], by: int | None, now_ms: int) -> Resolved:
    """Reopen letters that were discarded in the last 10 minutes, 500 in a transaction."""

    def blocked_by(row: DeadLetter) -> str:
        if row.state != State.DISCARDED or row.resolved_at is None:
            return row.state
        return "too_late" if now_ms - epoch_ms(row.resolved_at) > MAX_UNDO_MS else ""

    return _resolve(letters, blocked_by, State.OPEN, Verb.UNDO_DISCARD, by, now_ms)


def _resolve(
    letters: Collection[UUID],
    blocked_by: Callable[[DeadLetter], str],
    state: str,
    verb: str,
    by: int | None,
    now_ms: int,
) -> Resolved:
    resolved = Resolved([], [])
    for batch in _batches(dict.fromkeys(letters)):
        with transaction.atomic():
            rows = _locked(batch)
            reasons = {key: blocked_by(rows[key]) if key in rows else "unknown" for key in batch}
            done = [key for key in batch if not reasons[key]]
            DeadLetter.objects.filter(pk__in=done).update(**_resolution(state, by, now_ms))
            audit.note_letters(verb, [rows[key] for key in done], now_ms=now_ms, user=by)
        resolved.done.extend(done)
        resolved.skipped.extend((key, reason) for key, reason in reasons.items() if reason)
    return resolved


def _locked(letters: Collection[UUID]) -> dict[UUID, DeadLetter]:
    rows = DeadLetter.objects.select_for_update().filter(pk__in=letters).order_by("pk")
    return {row.pk: row for row in rows.defer("body", "missing").annotate(has_text=Q(body__isnull=False))}


def _resolution(state: str, by: int | None, now_ms: int) -> dict[str, Any]:
    if state == State.OPEN:
        return {"state": state, "resolved_at": None, "resolved_by": None}
    return {"state": state, "resolved_at": moment(now_ms), "resolved_by": by}


def _batches(keys: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = list(keys)
    for start in range(0, len(remaining), KEY_BATCH):
        yield remaining[start : start + KEY_BATCH]
