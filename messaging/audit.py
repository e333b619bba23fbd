"""Write the audit entries: each change, its time and its user. No text of messages; part of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth import get_user_model

from .models import AuditEntry, DeadLetter, moment

ENTRIES_BATCH = 500

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
    """Write one audit entry. `user` is None if a job or a command made the change. `detail`: further numbers."""
    AuditEntry.objects.create(
        **_common_fields(verb, now_ms, user),
        room_key=room_key,
        seq=seq,
        message_id=message_id,
        rev=rev,
        detail=dict(detail or {}),
    )


def note_letters(verb: str, letters: Iterable[DeadLetter], *, now_ms: int, user: int | None) -> None:
    """Write an audit entry for each dead letter."""
    fields = _common_fields(verb, now_ms, user)
    entries = [
        AuditEntry(**fields, room_key=letter.room_key, seq=letter.seq, message_id=letter.message_id)
        for letter in letters
    ]
    AuditEntry.objects.bulk_create(entries, batch_size=ENTRIES_BATCH)


def _common_fields(verb: str, now_ms: int, user: int | None) -> dict[str, Any]:
    row = None if user is None else get_user_model().objects.filter(pk=user).first()
    return {
        "verb": Verb(verb),
        "at": moment(now_ms),
        "user": row,
        "user_key": user,
        "user_name": row.get_username() if row else "",
    }
