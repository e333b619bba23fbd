"""Delete old texts and records. Texts are deleted first, rows later.

Every call deletes a limited number. The job repeats its calls.

| record | kept | setting |
|---|---|---|
| text of a dead letter | 7 days after the message's expiry | `dead_letter_retention_s` |
| dead letter, audit entry, dismissed notice | 90 days | `dead_letter_days` |
| all audit entries, without those of the staff, of jobs and of commands | at most 100,000 | `dead_letter_count` |
| all dead letters | at most 100,000 | `dead_letter_count` |
| bulk action | 90 days after its end; one hour if it was not confirmed | `dead_letter_days` |
| name of a deleted user | the longest lifetime of a message, plus its grace | `ttl_max_s`, `grace_s` |
A surplus is taken from the user with the most rows, the oldest first; of dead letters those that are resolved before the open ones.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.db.models import Case, Count, Exists, OuterRef, Q, QuerySet, When

from messaging import audit, policy
from messaging.models import AuditEntry, BulkAction, DeadLetter, FormerUser, Notice, moment

log = logging.getLogger(__name__)

ROW_BATCH = 1_000  # rows of one kind in one call
DAY_MS = 86_400_000
MAX_ASKED_MS = 3_600_000  # within this time, a bulk action must be confirmed

State = DeadLetter.State
K = TypeVar("K")


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
        + _delete_surplus_letters(site.dead_letter_count, now_ms)
        + _delete(Notice.objects.filter(dismissed_at__isnull=False, at__lt=old).order_by("at"))
        + _delete(AuditEntry.objects.filter(at__lt=old).order_by("at"))
        + _delete_surplus_entries(site.dead_letter_count)
        + _delete(BulkAction.objects.filter(ended_at__lt=old).order_by("ended_at"))
        + _delete(BulkAction.objects.filter(state=BulkAction.State.ASKED, asked_at__lt=asked))
        + _delete(FormerUser.objects.filter(deleted_at__lt=forgotten).order_by("deleted_at"))
    )


def dropped_open(now_ms: int) -> int:
    """Return how many open dead letters were deleted in the last day because there were too many. `doctor` reports them."""
    entries = AuditEntry.objects.filter(verb=AuditEntry.Verb.PRUNE, at__gt=moment(now_ms - DAY_MS))
    return sum(detail["open"] for detail in entries.values_list("detail", flat=True))


def _delete_surplus_letters(limit: int, now_ms: int) -> int:
    """Delete dead letters above `limit`. Of a sender: first the resolved ones, then those whose notice was dismissed, then the oldest.

    Deleted open letters are logged and audited.
    """
    letters = DeadLetter.objects.all()
    dismissed = Notice.objects.filter(dead_letter=OuterRef("pk"), dismissed_at__isnull=False)
    told = Q(sender=None) | Exists(dismissed)  # a deleted account cannot be told
    importance = Case(When(~Q(state=State.OPEN), then=0), When(told, then=1), default=2)
    states: dict[Any, str] = {}
    for (sender, room), rows in _surplus_by_holder(letters, "sender_key", limit).items():
        of_holder = letters.filter(sender_key=sender, room_key=room).order_by(importance, "expired_at")
        states |= dict(of_holder.values_list("pk", "state")[:rows])
    dropped = sum(state == State.OPEN for state in states.values())
    with transaction.atomic():
        letters.filter(pk__in=states).only("pk").delete()
        if dropped:
            audit.note(AuditEntry.Verb.PRUNE, now_ms=now_ms, user=None, detail={"open": dropped})
    if dropped:
        log.warning("dropped %d open dead letters: more than %d (dead_letter_count)", dropped, limit)
    return len(states)


def _delete_surplus_entries(limit: int) -> int:
    """Delete the oldest audit entries above `limit`. Entries of the staff, of jobs and of commands are neither counted nor deleted."""
    staff = get_user_model().objects.filter(is_staff=True).values("pk")
    entries = AuditEntry.objects.filter(user_key__isnull=False).exclude(user_key__in=staff)
    surplus = _surplus_by_holder(entries, "user_key", limit)
    return sum(
        _delete(entries.filter(user_key=user, room_key=room).order_by("at"), rows)
        for (user, room), rows in surplus.items()
    )


# ── Shares ──


def _surplus_by_holder(rows: QuerySet[Any], user_column: str, limit: int) -> dict[tuple[int, str], int]:
    """Return {(user, room): number of rows to delete} for the rows above `limit`, at most 1,000 in all.

    The surplus is taken from the users with the most rows, and from their rooms with the most rows, so that a busy user does not
    displace the rows of others.
    """
    surplus = min(rows.count() - limit, ROW_BATCH)
    if surplus <= 0:
        return {}
    rooms_by_user: defaultdict[int, dict[str, int]] = defaultdict(dict)
    counts = rows.values_list("room_key", user_column).annotate(rows=Count("pk")).order_by()
    for room, user, count in counts:
        rooms_by_user[user][room] = count
    of_users = _largest({user: sum(rooms.values()) for user, rooms in rooms_by_user.items()}, surplus)
    return {
        (user, room): count
        for user, of_user in of_users.items()
        for room, count in _largest(rooms_by_user[user], of_user).items()
    }


def _largest(counts: Mapping[K, int], surplus: int) -> dict[K, int]:
    """Return {holder: its part of `surplus`}. The parts make the largest holders equal; the smaller ones have no part."""
    holders = sorted(counts, key=counts.__getitem__, reverse=True)
    total = 0
    for number, holder in enumerate(holders, 1):
        total += counts[holder]
        next_count = counts[holders[number]] if number < len(holders) else 0
        if total - number * next_count >= surplus:
            kept, more = divmod(total - surplus, number)
            parts = {each: counts[each] - kept - (i < more) for i, each in enumerate(holders[:number])}
            return {each: part for each, part in parts.items() if part}
    return dict(counts)


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
