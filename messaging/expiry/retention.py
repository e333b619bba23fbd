"""Delete old texts and records. Texts are deleted first, rows later.

Every call deletes a limited number. The job repeats its calls.

| record | kept | setting |
|---|---|---|
| text of a dead letter | 7 days after the message's expiry | `dead_letter_retention_s` |
| dead letter, audit entry, dismissed notice | 90 days | `dead_letter_days` |
| all audit entries | at most 100,000; the oldest are deleted first | `dead_letter_count` |
| all dead letters | at most 100,000; the oldest resolved are deleted first, then the oldest open | `dead_letter_count` |
| bulk action | 90 days after its end; one hour if it was not confirmed | `dead_letter_days` |
| name of a deleted user | the longest lifetime of a message, plus its grace | `ttl_max_s`, `grace_s` |
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet

from messaging import audit, policy
from messaging.models import AuditEntry, BulkAction, DeadLetter, FormerUser, Notice, moment

log = logging.getLogger(__name__)

ROW_BATCH = 1_000  # rows of one kind in one call
DAY_MS = 86_400_000
MAX_ASKED_MS = 3_600_000  # within this time, a bulk action must be confirmed

State = DeadLetter.State


def scrub(now_ms: int) -> int:
    """Delete at most 1,000 texts whose retention has ended; return their number."""
    until = moment(now_ms - policy.current().dead_letter_retention_s * 1_000)
    with transaction.atomic():
        due = DeadLetter.objects.filter(body__isnull=False, expired_at__lte=until).order_by("expired_at")
        count = DeadLetter.objects.filter(pk__in=_first(due, ROW_BATCH)).update(body=None)
    _empty_log()
    return count


def prune(now_ms: int) -> int:
    """Delete records that are too old or too many, at most 1,000 rows of every kind; return their number."""
    site = policy.current()
    old = moment(now_ms - site.dead_letter_days * DAY_MS)
    forgotten = moment(now_ms - (site.ttl_max_s + site.grace_s) * 1_000)
    asked = moment(now_ms - MAX_ASKED_MS)
    return (
        _delete(DeadLetter.objects.filter(expired_at__lt=old).order_by("expired_at"))
        + _delete_surplus(site.dead_letter_count, now_ms)
        + _delete(Notice.objects.filter(dismissed_at__isnull=False, at__lt=old).order_by("at"))
        + _delete(AuditEntry.objects.filter(at__lt=old).order_by("at"))
        + _delete_oldest(AuditEntry.objects.order_by("at"), site.dead_letter_count)
        + _delete(BulkAction.objects.filter(ended_at__lt=old).order_by("ended_at"))
        + _delete(BulkAction.objects.filter(state=BulkAction.State.ASKED, asked_at__lt=asked))
        + _delete(FormerUser.objects.filter(deleted_at__lt=forgotten).order_by("deleted_at"))
    )


def dropped_open(now_ms: int) -> int:
    """Return how many open dead letters were deleted in the last day because there were too many. `doctor` reports them."""
    entries = AuditEntry.objects.filter(verb=AuditEntry.Verb.PRUNE, at__gt=moment(now_ms - DAY_MS))
    return sum(detail["open"] for detail in entries.values_list("detail", flat=True))


def _delete_oldest(oldest_first: QuerySet[Any], limit: int) -> int:
    """Delete the oldest rows above `limit`, so that one busy user cannot fill the disk."""
    surplus = min(oldest_first.count() - limit, ROW_BATCH)
    return _delete(oldest_first, surplus) if surplus > 0 else 0


def _delete_surplus(limit: int, now_ms: int) -> int:
    """Delete the oldest dead letters above `limit`: first resolved letters, then open letters. The latter are logged and audited."""
    surplus = min(DeadLetter.objects.count() - limit, ROW_BATCH)
    if surplus <= 0:
        return 0
    letters = DeadLetter.objects.order_by("expired_at")
    resolved = _delete(letters.exclude(state=State.OPEN), surplus)
    with transaction.atomic():
        dropped = _delete(letters.filter(state=State.OPEN), surplus - resolved)
        if dropped:
            audit.note(AuditEntry.Verb.PRUNE, now_ms=now_ms, user=None, detail={"open": dropped})
    if dropped:
        log.warning("dropped %d open dead letters: more than %d (dead_letter_count)", dropped, limit)
    return resolved + dropped


def _delete(rows: QuerySet[Any], limit: int | None = None) -> int:
    """Delete the first `limit` rows and the rows that depend on them; return their number without the dependent rows."""
    keys = _first(rows, ROW_BATCH if limit is None else limit)
    if keys:
        rows.model._default_manager.filter(pk__in=keys).only("pk").delete()
    return len(keys)


def _first(rows: QuerySet[Any], limit: int) -> Sequence[Any]:
    return list(rows.values_list("pk", flat=True)[:limit])


def _empty_log() -> None:
    """Write SQLite's write-ahead log into the database and truncate it, because it still contains the deleted texts."""
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
