"""Dead letters as CSV, as filtered on the list: streamed in batches, without the text of any message.

Names come from users: a cell that a spreadsheet would take for a formula starts with an apostrophe. States and reasons are codes
and times are UTC, in every language.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from messaging.bridge import in_db_thread
from messaging.models import DeadLetter

LETTERS_BATCH = 500  # in one query
COLUMNS = (
    *("state", "room", "room_name", "seq", "message", "sender", "sender_name", "sent_at", "expired_at"),
    *("reached", "recipients", "missed", "missed_by", "resolved_at", "resolved_by", "set_aside_for"),
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> str:
    """Return a value as text that a spreadsheet shows and never computes."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


async def lines(letters: QuerySet[DeadLetter]) -> AsyncIterator[str]:
    """Yield the file in parts, newest letters first. Each batch continues after the last letter of the previous batch."""
    writer = csv.writer(_Echo())
    yield "\ufeff" + writer.writerow(
        COLUMNS
    )  # without the byte order mark, spreadsheets read names as Latin-1
    ordered = letters.order_by("-expired_at", "id").prefetch_related("missed_recipients", "resolved_by")
    remaining = ordered
    while True:
        batch = await in_db_thread(list, remaining[:LETTERS_BATCH])
        if batch:
            yield "".join(writer.writerow([cell(value) for value in _row(letter)]) for letter in batch)
        if len(batch) < LETTERS_BATCH:
            return
        last = batch[-1]
        remaining = ordered.filter(
            Q(expired_at__lt=last.expired_at) | Q(expired_at=last.expired_at, id__gt=last.id)
        )


def _row(letter: DeadLetter) -> Sequence[Any]:
    recipients = letter.missed_recipients.all()
    missed_by = "; ".join(f"{recipient.name} ({recipient.reason})" for recipient in recipients)
    return (
        *(letter.state, letter.room_key, letter.room_name, letter.seq, letter.message_id),
        *(letter.sender_key, letter.sender_name, letter.sent_at, letter.expired_at),
        *(letter.delivered, letter.total, letter.missing_total, missed_by),
        *(letter.resolved_at, letter.resolved_by, letter.fault),
    )


class _Echo:
    """A file that returns each line that is written to it."""

    def write(self, line: str) -> str:
        return line
