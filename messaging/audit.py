"""The audit trail: who changed what and when. Times and numbers only, never a text; part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping

from django.contrib.auth import get_user_model

from .models import AuditEntry, moment

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
    """Write down that `user` (None: a job or a command) did something. `detail` holds what else is a number."""
    person = None if user is None else get_user_model().objects.filter(pk=user).first()
    AuditEntry.objects.create(
        at=moment(now_ms),
        user=person,
        user_key=user,
        user_name=person.get_username() if person else "",
        verb=Verb(verb),
        room_key=room_key,
        seq=seq,
        message_id=message_id,
        rev=rev,
        detail=dict(detail or {}),
    )
