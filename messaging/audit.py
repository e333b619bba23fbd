"""The audit trail: every change with its user and time. Times and numbers only, never a text. Part of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth import get_user_model

from .models import AuditEntry, DeadLetter, moment

INSERT_BATCH = 500

Verb = AuditEntry.Verb


def note(
    verb: str,
    *,
    now_ms: int,
    user: int | None,
    room_key: str = "",
    seq: int | None = None,
    message_id: str = "",
    rev: int | None = None,
    detail: Mapping[str, int | None] | None = None,
) -> None:
    """Record an action of `user` (None: a job or a command). `detail` has further numbers."""
    AuditEntry.objects.create(
        **_signed(verb, now_ms, user),
        room_key=room_key,
        seq=seq,
        message_id=message_id,
        rev=rev,
        detail=dict(detail or {}),
    )


def note_letters(verb: str, letters: Iterable[DeadLetter], *, now_ms: int, user: int | None) -> None:
    """Record the same action of `user` on several dead letters."""
    signed = _signed(verb, now_ms, user)
    entries = [
        AuditEntry(**signed, room_key=letter.room_key, seq=letter.seq, message_id=letter.message_id)
        for letter in letters
    ]
    AuditEntry.objects.bulk_create(entries, batch_size=INSERT_BATCH)


def _signed(verb: str, now_ms: int, user: int | None) -> dict[str, Any]:
    person = None if user is None else get_user_model().objects.filter(pk=user).first()
    return {
        "verb": Verb(verb),
        "at": moment(now_ms),
        "user": person,
        "user_key": user,
        "user_name": person.get_username() if person else "",
    }
