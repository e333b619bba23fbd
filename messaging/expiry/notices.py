"""What users must be told until they dismiss it: durable rows, which the wire shows as `notice`. No text of a message is in them.

A notice's life: it is written in the transaction of its dead letter -> a push, which is a hint -> shown again at each connect ->
dismissed, then pruned. Of one user at most 1,000 wait: what is older is summed in his one notice of kind `summary`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db.models import Count, Q

from messaging.models import DeadLetter, Notice, epoch_ms, moment

WAITING_MOST = 1_000  # notices a user, before the older ones are summed
AT_CONNECT_MOST = 100  # the contract
INSERTED_AT_ONCE = 500

Kind = Notice.Kind
Fields = dict[str, Any]  # of the frame `notice`

# As one condition in the query, so that no text is read for it.
_RESENDABLE = Q(dead_letter__state=DeadLetter.State.OPEN, dead_letter__body__isnull=False)


def notices_of(user: int, most: int = AT_CONNECT_MOST) -> list[Fields]:
    """Return the newest `most` that wait, the oldest of them first."""
    waiting = Notice.objects.filter(user=user, dismissed_at=None).annotate(resendable=_RESENDABLE)
    return [_fields(row) for row in reversed(waiting.order_by("-at", "-id")[:most])]


def newest(users: Collection[int]) -> dict[int, list[Fields]]:
    """Return for each user what `notices_of` does; most have none, which one query finds."""
    waiting = set(
        Notice.objects.filter(user__in=users, dismissed_at=None).values_list("user", flat=True).distinct()
    )
    return {user: notices_of(user) if user in waiting else [] for user in users}


def notices_by_id(user: int, ids: Collection[str]) -> list[Fields]:
    """Return these notices of a user, dismissed ones too, the oldest first; what is not his or not there is left out."""
    rows = Notice.objects.filter(user=user, pk__in=ids).annotate(resendable=_RESENDABLE)
    return [_fields(row) for row in rows.order_by("at", "id")]


def dismiss(user: int, notice: str, now_ms: int) -> bool:
    """End a notice; False: the user has no such one. Idempotent."""
    if "\0" in notice:  # which PostgreSQL refuses to compare with anything
        return False
    mine = Notice.objects.filter(user=user, pk=notice)
    return bool(mine.filter(dismissed_at=None).update(dismissed_at=moment(now_ms))) or mine.exists()


def insert(rows: Sequence[Notice], now_ms: int) -> dict[int, str]:
    """Write notices; return {user: his summary} where that made too many: part of the caller's transaction."""
    # All of a batch come in one millisecond; microseconds keep them in their order, a summary after them.
    for number, row in enumerate(rows):
        row.at = moment(now_ms) + timedelta(microseconds=min(number, 998))
    Notice.objects.bulk_create(rows, batch_size=INSERTED_AT_ONCE)
    users = sorted({row.user_id for row in rows})
    waiting = (
        Notice.objects.filter(user__in=users, kind=Kind.UNDELIVERED, dismissed_at=None)
        .values_list("user")
        .annotate(waiting=Count("pk"))
        .order_by("user")
    )
    summed = {
        user: _sum(user, count - WAITING_MOST, now_ms) for user, count in waiting if count > WAITING_MOST
    }
    return {user: summary for user, summary in summed.items() if summary}


def waiting_for(letters: Collection[UUID]) -> dict[int, list[str]]:
    """Return {user: ids} of the notices of these dead letters that wait, the oldest first."""
    rows = Notice.objects.filter(dead_letter__in=letters, dismissed_at=None).order_by("at", "id")
    found: dict[int, list[str]] = defaultdict(list)
    for user, notice in rows.values_list("user_id", "pk"):
        found[user].append(notice)
    return dict(found)


def _sum(user: int, most: int, now_ms: int) -> str | None:
    """Put the user's `most` oldest notices into his summary; return its id, None where another worker was quicker."""
    # Locked: what another worker sums, or the user dismisses, at this moment is not among them.
    oldest = list(
        Notice.objects.select_for_update()
        .filter(user=user, kind=Kind.UNDELIVERED, dismissed_at=None)
        .order_by("at", "id")
        .values_list("pk", "room_key", "data__expired_at")[:most]
    )
    if not oldest:
        return None
    summaries = Notice.objects.select_for_update().filter(user=user, kind=Kind.SUMMARY, dismissed_at=None)
    summary = summaries.first() or Notice(id=uuid4().hex, user_id=user, kind=Kind.SUMMARY, data={})
    summary.data = _added(summary.data, oldest)
    summary.at = moment(now_ms) + timedelta(microseconds=999)
    summary.save()
    Notice.objects.filter(pk__in=[pk for pk, _, _ in oldest]).delete()
    return summary.pk


def _added(data: Fields, rows: Sequence[tuple[str, str, int]]) -> Fields:
    """Return the data of a summary with some more [(notice, room, expired_at)]."""
    times = [expired_at for _, _, expired_at in rows]
    return {
        "messages": data.get("messages", 0) + len(rows),
        "from_at": min([*times, data.get("from_at", times[0])]),
        "to_at": max([*times, data.get("to_at", times[0])]),
        "rooms": dict(Counter(data.get("rooms", {})) + Counter(room for _, room, _ in rows)),
    }


def _fields(row: Any) -> Fields:
    data = row.data | ({"resendable": row.resendable} if row.kind == Kind.UNDELIVERED else {})
    return {
        "notice": row.pk,
        "kind": row.kind,
        "at": epoch_ms(row.at),
        "data": data,
        "dismissed": row.dismissed_at is not None,
    }
