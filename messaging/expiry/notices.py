"""Notices: reports to a user that are kept until the user dismisses them. Clients receive each as a frame `notice`.

1. A notice is built from a dead letter and written in its transaction. It does not contain the text of the message.
2. It is pushed to open sockets, as a hint, and sent again at every connect.
3. The user dismisses it; later it is pruned.

A user has at most 1,000 undismissed notices. Older notices are summed up in one notice of kind `summary`; their dead letters stay, and
`notice_pages` reads them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db.models import Count, Q

from messaging.models import DeadLetter, Notice, epoch_ms, moment

MAX_WAITING = 1_000  # undismissed notices of a user before the older ones are summed up
MAX_AT_CONNECT = 100  # as docs/protocol.md promises
INSERT_BATCH = 500

Kind = Notice.Kind
Fields = dict[str, Any]  # of the frame `notice`
Person = dict[str, Any]  # a member who missed a message: {user, name, reason, attempts}

# A condition in the query, so that the text is not read.
_RESENDABLE = Q(dead_letter__state=DeadLetter.State.OPEN, dead_letter__body__isnull=False)


def notices_of(user: int, limit: int = MAX_AT_CONNECT) -> list[Fields]:
    """Return the newest `limit` undismissed notices of a user, oldest first."""
    waiting = Notice.objects.filter(user=user, dismissed_at=None).annotate(resendable=_RESENDABLE)
    return [fields_of(row) for row in reversed(waiting.order_by("-at", "-id")[:limit])]


def newest(users: Collection[int]) -> dict[int, list[Fields]]:
    """Return {user: `notices_of(user)`}. One query finds the users who have notices; most users have none."""
    waiting = set(
        Notice.objects.filter(user__in=users, dismissed_at=None).values_list("user", flat=True).distinct()
    )
    return {user: notices_of(user) if user in waiting else [] for user in users}


def notices_by_id(user: int, ids: Collection[str]) -> list[Fields]:
    """Return these notices of a user, also dismissed ones, oldest first. Unknown ids and notices of other users are left out."""
    rows = Notice.objects.filter(user=user, pk__in=ids).annotate(resendable=_RESENDABLE)
    return [fields_of(row) for row in rows.order_by("at", "id")]


def changed_since(users: Collection[int], since_ms: int) -> list[tuple[int, str, int, bool]]:
    """Return (user, id, `at`, whether it is dismissed) of the notices that were made, changed or dismissed at or after a time."""
    since = moment(since_ms)
    rows = Notice.objects.filter(Q(at__gte=since) | Q(dismissed_at__gte=since), user__in=users)
    return [
        (user, notice, epoch_ms(at), dismissed_at is not None)
        for user, notice, at, dismissed_at in rows.values_list("user", "pk", "at", "dismissed_at")
    ]


def dismiss(user: int, notice: str, now_ms: int) -> bool:
    """Dismiss a notice; return False if the user has no such notice. Idempotent."""
    if "\0" in notice:  # PostgreSQL refuses to compare such text
        return False
    rows = Notice.objects.filter(user=user, pk=notice)
    return bool(rows.filter(dismissed_at=None).update(dismissed_at=moment(now_ms))) or rows.exists()


def for_letters(letters: Iterable[DeadLetter], people: Mapping[UUID, Sequence[Person]]) -> list[Notice]:
    """Build the notices to the senders of new letters, in the order of their reports. Deleted senders get none.

    `people`: {letter: the named members who missed the message}.
    """
    with_sender = (letter for letter in letters if letter.sender_id is not None)
    in_order = sorted(with_sender, key=lambda letter: letter.processed_at)
    return [_undelivered(letter, people[letter.pk]) for letter in in_order]


def _undelivered(letter: DeadLetter, missing: Sequence[Person]) -> Notice:
    return Notice(
        id=letter.pk.hex,
        user_id=letter.sender_key,
        kind=Kind.UNDELIVERED,
        at=letter.processed_at,
        room_key=letter.room_key,
        dead_letter_id=letter.pk,
        data=data_of(letter, missing),
    )


def data_of(letter: DeadLetter, missing: Sequence[Person]) -> Fields:
    """Return the data of the notice of a dead letter. `missing`: the named members who missed the message."""
    return {
        "room": letter.room_key,
        "epoch": letter.epoch,
        "seq": letter.seq,
        "id": letter.message_id,
        "sent_at": epoch_ms(letter.sent_at),
        "expired_at": epoch_ms(letter.expired_at),
        "delivered": letter.delivered,
        "total": letter.total,
        "missing": missing,
        "missing_total": letter.missing_total,
    }


def insert(rows: Sequence[Notice], now_ms: int) -> dict[int, str]:
    """Write notices; return {user: id of the summary} for users with too many. Part of the caller's transaction."""
    Notice.objects.bulk_create(rows, batch_size=INSERT_BATCH)
    users = sorted({row.user_id for row in rows})
    waiting = (
        Notice.objects.filter(user__in=users, kind=Kind.UNDELIVERED, dismissed_at=None)
        .values_list("user")
        .annotate(waiting=Count("pk"))
        .order_by("user")
    )
    summaries = {
        user: _sum_up(user, count - MAX_WAITING, now_ms) for user, count in waiting if count > MAX_WAITING
    }
    return {user: summary for user, summary in summaries.items() if summary}


def waiting_for(letters: Collection[UUID]) -> dict[int, list[str]]:
    """Return {user: ids} of the undismissed notices of these dead letters, oldest first."""
    rows = Notice.objects.filter(dead_letter__in=letters, dismissed_at=None).order_by("at", "id")
    ids: dict[int, list[str]] = defaultdict(list)
    for user, notice in rows.values_list("user_id", "pk"):
        ids[user].append(notice)
    return dict(ids)


def _sum_up(user: int, count: int, now_ms: int) -> str | None:
    """Move the user's `count` oldest notices into their summary. Return its id, or None if another worker has moved them already."""
    # With the lock, rows are left out that another worker sums up, or the user dismisses, at the same time.
    oldest = list(
        Notice.objects.select_for_update()
        .filter(user=user, kind=Kind.UNDELIVERED, dismissed_at=None)
        .order_by("at", "id")
        .values_list("pk", "room_key", "data__expired_at")[:count]
    )
    if not oldest:
        return None
    summaries = Notice.objects.select_for_update().filter(user=user, kind=Kind.SUMMARY, dismissed_at=None)
    summary = summaries.first() or Notice(id=uuid4().hex, user_id=user, kind=Kind.SUMMARY, data={})
    summary.data = _summary_data(summary.data, oldest)
    summary.at = moment(now_ms) + timedelta(microseconds=999)  # after the notices of this batch
    summary.save()
    Notice.objects.filter(pk__in=[pk for pk, _, _ in oldest]).delete()
    return summary.pk


def _summary_data(data: Fields, rows: Sequence[tuple[str, str, int]]) -> Fields:
    """Return the data of a summary after more notices were added. `rows`: [(notice, room, expired_at)]."""
    times = [expired_at for _, _, expired_at in rows]
    return {
        "messages": data.get("messages", 0) + len(rows),
        "from_at": min([*times, data.get("from_at", times[0])]),
        "to_at": max([*times, data.get("to_at", times[0])]),
        "rooms": dict(Counter(data.get("rooms", {})) + Counter(room for _, room, _ in rows)),
    }


def fields_of(row: Any) -> Fields:
    """Return the frame of a notice. The row has `resendable`."""
    data = row.data | ({"resendable": row.resendable} if row.kind == Kind.UNDELIVERED else {})
    return {
        "notice": row.pk,
        "kind": row.kind,
        "at": epoch_ms(row.at),
        "data": data,
        "dismissed": row.dismissed_at is not None,
    }
