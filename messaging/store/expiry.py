"""The operations at the expiry of messages: claim due messages, read the members who missed them, clear them.

A claim removes nothing: it moves the due time forward. The members who missed a message are computed from the cursors, which are read
first, and then from the exceptions: `left`, written when a member leaves, and `outcome`, written before a cursor passes a message that
the member does not hold. This order omits no member. It may name a member whose acknowledgement had not yet arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any, NamedTuple

from messaging.models import PARTITIONS

from .calls import Calls, checked, text
from .entries import Attempts, Leaver, LiveEntry, parse_index_entry
from .missed import MissedCalculator
from .records import (
    Due,
    Expired,
    IdempotencyRecord,
    Missed,
    Overdue,
    RoomKey,
    idempotency_key,
    partition_prefix,
)

CLAIM_TRIES = (
    5  # the clocks of a Cluster's nodes may differ: rows that are counted as due are then not claimed
)
FINALIZE_BATCH = 100  # rows in one round trip, so that the store is not busy for longer than 5 ms
READ_BATCH = 100  # messages in one round trip
SCAN_BATCH = 500  # rows in one answer
_FIELDS = ("sender", "name", "body", "sent_at", "expires_at", "reply_to", "resends")
NOBODY: tuple[Missed, ...] = ()
_REASONS = ("offline", "no_ack", "late", "client_rejected", "left_room")


class Expiry:
    """Claims, reports and clearing of expired messages."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def overdue(self) -> Overdue:
        """Return the number of due rows of the expiry index, and the age of the oldest."""
        now_ms = await self._calls.now_ms()
        newest_ms = now_ms - self._calls.policy.claim_delay_s * 1000
        commands: list[tuple[Any, ...]] = []
        for partition in range(PARTITIONS):
            key = f"{partition_prefix(partition)}expiring"
            commands += [("ZCOUNT", key, "-inf", newest_ms), ("ZRANGE", key, 0, 0, "WITHSCORES")]
        answers = await self._calls.scripts.pipeline(commands)
        due = sum(answers[0::2])
        oldest = min((float(rows[1]) for rows in answers[1::2] if rows), default=None)
        return Overdue(due, (now_ms - oldest) / 1000 if due and oldest is not None else None)

    async def claim(self, token: str, *, limit: int = 500, room: RoomKey | None = None) -> list[Due]:
        """Claim at most `limit` due rows, of all rooms or of one.

        A claim is a lease: after a crash the rows are due again. The same token gets the same rows again, because a reply may be lost.
        """
        if room is not None:
            return await self._claim_room(token, limit, room)
        for _ in range(CLAIM_TRIES):
            shares = _shares(await self._claimable(token), limit)
            calls = [
                (partition, self._claim_args(partition, token, share, "", 0)) for partition, share in shares
            ]
            answers = checked(await self._calls.scripts.run([("claim_expired", args) for _, args in calls]))
            dues = [
                due
                for (partition, _), answer in zip(calls, answers, strict=True)
                for due in _dues(partition, answer)
            ]
            if dues or not calls:  # otherwise another worker claimed these rows, and there may be more
                return dues
        return []

    async def _claimable(self, token: str) -> dict[int, int]:
        """Return {partition: number of due rows}; if the token has claims already, only their partitions, with the number 1."""
        newest_ms = await self._calls.now_ms() - self._calls.policy.claim_delay_s * 1000
        commands: list[tuple[Any, ...]] = []
        for partition in range(PARTITIONS):
            prefix = partition_prefix(partition)
            commands += [
                ("ZCOUNT", f"{prefix}expiring", "-inf", newest_ms),
                ("EXISTS", f"{prefix}claim:{token}"),
            ]
        answers = await self._calls.scripts.pipeline(commands)
        counted, claimed = answers[0::2], answers[1::2]
        chosen = claimed if any(claimed) else counted
        return {partition: due for partition, due in enumerate(chosen) if due}

    async def due(self, *, limit: int, room: RoomKey | None = None) -> list[Due]:
        """Return the rows that a claim would take, without claiming them. Within a partition the oldest are first."""
        newest_ms = await self._calls.now_ms() - self._calls.policy.claim_delay_s * 1000
        partitions = list(range(PARTITIONS)) if room is None else [room.partition]
        dues: list[Due] = []
        for partition in partitions:
            key = f"{partition_prefix(partition)}expiring"
            passed = 0
            while len(dues) < limit:
                [rows] = await self._calls.scripts.pipeline(
                    [("ZRANGEBYSCORE", key, "-inf", newest_ms, "WITHSCORES", "LIMIT", passed, SCAN_BATCH)]
                )
                passed += len(rows) // 2
                flat = [
                    value for at in range(0, len(rows), 2) for value in (*rows[at : at + 2], rows[at + 1])
                ]
                dues += [due for due in _dues(partition, [0, 0, *flat]) if room is None or due.room == room]
                if len(rows) < 2 * SCAN_BATCH:
                    break
        return dues[:limit]

    async def _claim_room(self, token: str, limit: int, room: RoomKey) -> list[Due]:
        dues: list[Due] = []
        passed, more = 0, 1
        while more and len(dues) < limit:
            args = self._claim_args(
                room.partition, f"{token}.{len(dues)}.{passed}", limit - len(dues), room.id, passed
            )
            [answer] = checked(await self._calls.scripts.run([("claim_expired", args)]))
            dues += _dues(room.partition, answer)
            passed, more = passed + answer[0], answer[1]
        return dues

    def _claim_args(self, partition: int, token: str, limit: int, room: str, passed: int) -> tuple[Any, ...]:
        delay_ms = self._calls.policy.claim_delay_s * 1000
        return partition_prefix(partition), token, limit, self._calls.lease_ms, delay_ms, room, passed

    async def read(self, dues: Sequence[Due]) -> list[Expired]:
        """Return the messages of claimed rows, each with the members who missed it. Writes nothing."""
        reports: list[Expired] = []
        for start in range(0, len(dues), READ_BATCH):
            reports += await self._expired(dues[start : start + READ_BATCH])
        return reports

    async def _expired(self, dues: Sequence[Due]) -> list[Expired]:
        commands: list[tuple[Any, ...]] = []
        for due in dues:
            key = due.room.key
            commands += [
                ("HGET", key, "epoch"),
                ("ZRANGEBYSCORE", f"{key}:live", due.seq, due.seq),
                ("HMGET", f"{key}:msg:{due.seq}", *_FIELDS),
                ("HGET", f"{key}:only", due.seq),
            ]
        answers = await self._calls.scripts.pipeline(commands)
        rows = []
        for due, start in zip(dues, range(0, len(answers), 4), strict=True):
            epoch, entries, fields, only = answers[start : start + 4]
            rows.append(
                _Row(due, epoch, LiveEntry.parse(text(entries[0])) if entries else None, fields, only)
            )
        tracked = [row.due for row in rows if row.entry and row.entry.tracked]
        calculators = await self._calculators({due.room for due in tracked})
        outcomes = await self._outcomes(tracked)
        firsts = await self._first_answers(
            [(row.due, row.entry) for row in rows if row.entry and row.fields[0] is None]
        )
        reports = []
        for row in rows:
            total, missed = 0, NOBODY
            if row.entry and row.due in outcomes:
                addressed = None if row.only is None else frozenset(map(int, row.only.split(b",")))
                total, missed = calculators[row.due.room.id].for_message(
                    row.due.seq, row.entry.sender, only=addressed, outcome=outcomes[row.due]
                )
            reports.append(_report(row, total, missed, firsts.get(row.due)))
        return reports

    async def _calculators(self, rooms: Iterable[RoomKey]) -> dict[str, MissedCalculator]:
        """Read the cursors first and the leavers last, so that a member who leaves in the meantime is among the leavers."""
        keys = list(rooms)
        cursors = await self._scan("ZSCAN", keys, ":delivered")
        joined = await self._scan("ZSCAN", keys, ":joined")
        attempts = await self._scan("HSCAN", keys, ":attempts")
        left = await self._scan("ZSCAN", keys, ":left")
        return {
            room.id: MissedCalculator(
                {int(user): int(float(seq)) for user, seq in joined[room.id]},
                {int(user): int(float(seq)) for user, seq in cursors[room.id]},
                {int(user): Attempts.parse(value).n for user, value in attempts[room.id]},
                [Leaver.parse(row, int(float(top))) for row, top in left[room.id]],
            )
            for room in keys
        }

    async def _scan(
        self, command: str, rooms: Sequence[RoomKey], part: str
    ) -> dict[str, list[tuple[str, str]]]:
        """Read a sorted set or a hash of each room as pairs. An element that exists during the whole scan is never omitted."""
        pairs: dict[str, list[tuple[str, str]]] = {room.id: [] for room in rooms}
        unread = [(room, "0") for room in rooms]
        while unread:
            answers = await self._calls.scripts.pipeline(
                [(command, room.key + part, cursor, "COUNT", SCAN_BATCH) for room, cursor in unread]
            )
            unfinished = []
            for (room, _), (cursor, values) in zip(unread, answers, strict=True):
                pairs[room.id] += zip(map(text, values[0::2]), map(text, values[1::2]), strict=True)
                if text(cursor) != "0":
                    unfinished.append((room, text(cursor)))
            unread = unfinished
        return pairs

    async def _outcomes(self, dues: Sequence[Due]) -> dict[Due, list[str]]:
        """Read the exceptions of messages, in pages by rank. A row added in the meantime may repeat a row, but never hides one."""
        outcomes: dict[Due, list[str]] = {due: [] for due in dues}
        unread = list(dues)
        while unread:
            answers = await self._calls.scripts.pipeline(
                [
                    (
                        "ZRANGEBYSCORE",
                        f"{due.room.key}:outcome",
                        due.seq,
                        due.seq,
                        "LIMIT",
                        len(outcomes[due]),
                        SCAN_BATCH,
                    )
                    for due in unread
                ]
            )
            for due, rows in zip(unread, answers, strict=True):
                outcomes[due] += map(text, rows)
            unread = [due for due, rows in zip(unread, answers, strict=True) if len(rows) == SCAN_BATCH]
        return outcomes

    async def _first_answers(self, rows: Sequence[tuple[Due, LiveEntry]]) -> dict[Due, IdempotencyRecord]:
        """Read the idempotency records of messages whose Hash was deleted: the records still have the times."""
        if not rows:
            return {}
        keys = [idempotency_key(due.room, entry.sender, entry.id) for due, entry in rows]
        answers = await self._calls.scripts.pipeline([("GET", key) for key in keys])
        records = {
            due: IdempotencyRecord.read(answer)
            for (due, _), answer in zip(rows, answers, strict=True)
            if answer
        }
        # An id that was used again after a day has the record of another message.
        return {due: first for due, first in records.items() if first.seq == due.seq}

    async def finalize(self, expired: Sequence[Expired]) -> int:
        """Clear reported messages, count them and publish their end; return how many were cleared.

        Rows that another caller has claimed since are not cleared.
        """
        remaining = sorted(expired, key=_partition)
        cleared = 0
        while remaining:
            # All calls of a round trip together have at most FINALIZE_BATCH rows: the store serves no other client between them.
            rows, remaining = remaining[:FINALIZE_BATCH], remaining[FINALIZE_BATCH:]
            calls = [
                ("finalize_expired", (partition_prefix(partition), *_finalize_args(chunk)))
                for partition, chunk in groupby(rows, _partition)
            ]
            codes = list(chain.from_iterable(checked(await self._calls.scripts.run(calls))))
            cleared += codes.count(1)
            remaining = [row for row, code in zip(rows, codes, strict=True) if code == 2] + remaining
        return cleared


def _shares(due: dict[int, int], limit: int) -> list[tuple[int, int]]:
    """Divide `limit` among the partitions, so that no partition waits until a larger one is empty."""
    shares = []
    for finished, (partition, rows) in enumerate(sorted(due.items(), key=lambda item: item[1])):
        share = min(rows, -(-limit // (len(due) - finished)))
        if share > 0:
            shares.append((partition, share))
            limit -= share
    return sorted(shares)


def _dues(partition: int, answer: list[Any]) -> list[Due]:
    dues = []
    for start in range(2, len(answer), 3):
        room, seq = parse_index_entry(text(answer[start]))
        dues.append(
            Due(RoomKey(room, partition), seq, int(float(answer[start + 1])), text(answer[start + 2]))
        )
    return dues


def _partition(expired: Expired) -> int:
    return expired.due.room.partition


def _finalize_args(rows: Iterable[Expired]) -> list[Any]:
    args: list[Any] = []
    for row in rows:
        reasons = [missed.reason for missed in row.missed]
        args += (row.due.room.id, row.due.seq, row.due.score, *map(reasons.count, _REASONS))
    return args


class _Row(NamedTuple):
    """The stored parts of one expired message."""

    due: Due
    epoch: bytes | None
    entry: LiveEntry | None
    fields: list[bytes | None]
    only: bytes | None


def _report(row: _Row, total: int, missed: tuple[Missed, ...], first: IdempotencyRecord | None) -> Expired:
    """Return the report of one message. Without its Hash, the times are those of its idempotency record, or the time it was due.

    Invalid fields of a Hash count as missing: one corrupt message must not block the others.
    """
    due, entry = row.due, row.entry
    _, name, body, sent_at, expires_at, reply_to, resends = row.fields
    return Expired(
        due=due,
        epoch=text(row.epoch or b""),
        live=entry is not None,
        sender=entry.sender if entry else 0,
        id=entry.id if entry else "",
        name=text(name or b"", errors="replace"),
        body=None if body is None else text(body, errors="replace"),
        sent_at=_number(sent_at) or (first.sent_at if first else due.due_at),
        expires_at=_number(expires_at) or (first.expires_at if first else due.due_at),
        reply_to=_number(reply_to),
        resends=_number(resends),
        total=total,
        missed=missed,
    )


def _number(value: bytes | None) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        return None
