"""Dead letters as CSV, as the list's filters leave them: streamed in portions, without any text of a message.

Names are other people's: a cell that a spreadsheet would take for a formula begins with an apostrophe. States and reasons are
codes and times are UTC, in every language.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from messaging.bridge import in_db_thread
from messaging.models import DeadLetter

PORTION = 500  # letters read at once
COLUMNS = (
    *("state", "room", "room_name", "seq", "message", "sender", "sender_name", "sent_at", "expired_at"),
    *("reached", "recipients", "missed", "missed_by", "resolved_at", "resolved_by", "set_aside_for"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> str:
    """Return a value as a spreadsheet shows it and never computes it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = str(value)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


async def lines(letters: QuerySet[DeadLetter]) -> AsyncIterator[str]:
    """Yield the file in parts, the newest letter first. Each portion goes on behind the last letter of the one before."""
    writer = csv.writer(_Echo())
    yield "\ufeff" + writer.writerow(COLUMNS)  # without the mark spreadsheets take names for Latin-1
    ordered = letters.order_by("-expired_at", "id").prefetch_related("missed_recipients", "resolved_by")
    rest = ordered
    while True:
        portion = await in_db_thread(list, rest[:PORTION])
        if portion:
            yield "".join(writer.writerow([cell(value) for value in _row(letter)]) for letter in portion)
        if len(portion) < PORTION:
            return
        last = portion[-1]
        behind = Q(expired_at__lt=last.expired_at) | Q(expired_at=last.expired_at, id__gt=last.id)
        rest = ordered.filter(behind)


def _row(letter: DeadLetter) -> Sequence[Any]:
    missed_by = "; ".join(f"{one.name} ({one.reason})" for one in letter.missed_recipients.all())
    return (
        *(letter.state, letter.room_key, letter.room_name, letter.seq, letter.message_id),
        *(letter.sender_key, letter.sender_name, letter.sent_at, letter.expired_at),
        *(letter.delivered, letter.total, letter.missing_total, missed_by),
        *(letter.resolved_at, letter.resolved_by, letter.fault),
    )


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, line: str) -> str:
        return line
