"""The operations at the expiry of messages: claim due messages, read the members who missed them, clear them.

A claim removes nothing: it moves the due time forward. The members who missed a message follow from the cursors, read first, and then
from the exceptions: `left`, written when a member leaves, and `outcome`, written before a cursor passes a message that the member does
not hold. In this order no member is omitted; a member whose acknowledgement was under way may be named.
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

CLAIM_TRIES = 5  # the nodes of a Cluster may count and claim by different clocks
FINALIZE_BATCH = 100  # rows in one call: no call over 5 ms
READ_BATCH = 100  # messages or rooms in one round trip
SCAN_BATCH = 500  # members in one answer
_FIELDS = ("sender", "name", "body", "sent_at", "expires_at", "reply_to", "resends")
NOBODY: tuple[Missed, ...] = ()
_REASONS = ("offline", "no_ack", "client_rejected", "left_room")


class Expiry:
    """Claims of the expiry index, reports, clearing."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def overdue(self) -> Overdue:
        """Return how many rows of the expiry index are due, and the age of the oldest."""
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
        """Claim at most `limit` due rows of all partitions or one room. A claim is a lease: after a crash they are due again.

        The same token gets the same rows again, because a reply may be lost.
        """
        if room is not None:
            return await self._claim_room(token, limit, room)
        for _ in range(CLAIM_TRIES):
            shares = _shares(await self._claimable(token), limit)
            calls = [
                (partition, self._claim_args(partition, token, share, "", 0)) for partition, share in shares
            ]
            answers = checked(await self._calls.scripts.run([("claim_expired", args) for _, args in calls]))
            found = [
                due
                for (partition, _), answer in zip(calls, answers, strict=True)
                for due in _dues(partition, answer)
            ]
            if found or not calls:  # otherwise another worker was faster, and there may be more
                return found
        return []

    async def _claimable(self, token: str) -> dict[int, int]:
        """Return {partition: rows that are due}; where the token has claims already, only their partitions."""
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
        """Return the rows that a claim would take, oldest of each partition first, without claiming them."""
        newest_ms = await self._calls.now_ms() - self._calls.policy.claim_delay_s * 1000
        partitions = list(range(PARTITIONS)) if room is None else [room.partition]
        found: list[Due] = []
        for partition in partitions:
            key = f"{partition_prefix(partition)}expiring"
            passed = 0
            while len(found) < limit:
                [rows] = await self._calls.scripts.pipeline(
                    [("ZRANGEBYSCORE", key, "-inf", newest_ms, "WITHSCORES", "LIMIT", passed, SCAN_BATCH)]
                )
                passed += len(rows) // 2
                flat = [
                    value for at in range(0, len(rows), 2) for value in (*rows[at : at + 2], rows[at + 1])
                ]
                dues = _dues(partition, [0, 0, *flat])
                found += [due for due in dues if room is None or due.room == room]
                if len(rows) < 2 * SCAN_BATCH:
                    break
        return found[:limit]

    async def _claim_room(self, token: str, limit: int, room: RoomKey) -> list[Due]:
        found: list[Due] = []
        passed, more = 0, 1
        while more and len(found) < limit:
            args = self._claim_args(
                room.partition, f"{token}.{len(found)}.{passed}", limit - len(found), room.id, passed
            )
            [answer] = checked(await self._calls.scripts.run([("claim_expired", args)]))
            found += _dues(room.partition, answer)
            passed, more = passed + answer[0], answer[1]
        return found

    def _claim_args(self, partition: int, token: str, limit: int, room: str, passed: int) -> tuple[Any, ...]:
        lease_ms, delay_ms = self._calls.policy.lease_s * 1000, self._calls.policy.claim_delay_s * 1000
        return partition_prefix(partition), token, limit, lease_ms, delay_ms, room, passed

    async def read(self, dues: Sequence[Due]) -> list[Expired]:
        """Return the messages of claimed rows and the members who missed them. Writes nothing."""
        found: list[Expired] = []
        for at in range(0, len(dues), READ_BATCH):
            found += await self._expired(dues[at : at + READ_BATCH])
        return found

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
        for due, at in zip(dues, range(0, len(answers), 4), strict=True):
            epoch, entries, fields, only = answers[at : at + 4]
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
        """Read cursors first, then leavers: a member who leaves in the meantime is among these."""
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
        """Read a sorted set or a hash of each room as pairs; an element that exists all the time is never omitted."""
        found: dict[str, list[tuple[str, str]]] = {room.id: [] for room in rooms}
        todo = [(room, "0") for room in rooms]
        while todo:
            answers = await self._calls.scripts.pipeline(
                [(command, room.key + part, cursor, "COUNT", SCAN_BATCH) for room, cursor in todo]
            )
            again = []
            for (room, _), (cursor, values) in zip(todo, answers, strict=True):
                found[room.id] += zip(map(text, values[0::2]), map(text, values[1::2]), strict=True)
                if text(cursor) != "0":
                    again.append((room, text(cursor)))
            todo = again
        return found

    async def _outcomes(self, dues: Sequence[Due]) -> dict[Due, list[str]]:
        """Read the exceptions of messages; rows are only added for a message, so pages by rank omit none."""
        found: dict[Due, list[str]] = {due: [] for due in dues}
        todo = list(dues)
        while todo:
            answers = await self._calls.scripts.pipeline(
                [
                    (
                        "ZRANGEBYSCORE",
                        f"{due.room.key}:outcome",
                        due.seq,
                        due.seq,
                        "LIMIT",
                        len(found[due]),
                        SCAN_BATCH,
                    )
                    for due in todo
                ]
            )
            for due, rows in zip(todo, answers, strict=True):
                found[due] += map(text, rows)
            todo = [due for due, rows in zip(todo, answers, strict=True) if len(rows) == SCAN_BATCH]
        return found

    async def _first_answers(self, rows: Sequence[tuple[Due, LiveEntry]]) -> dict[Due, IdempotencyRecord]:
        """Read the first answers to the ids of messages whose Hash was deleted: they still have the times."""
        if not rows:
            return {}
        keys = [idempotency_key(due.room, entry.sender, entry.id) for due, entry in rows]
        answers = await self._calls.scripts.pipeline([("GET", key) for key in keys])
        records = {
            due: IdempotencyRecord.read(answer)
            for (due, _), answer in zip(rows, answers, strict=True)
            if answer
        }
        # An id that was used again after a day now has the answer of another message.
        return {due: first for due, first in records.items() if first.seq == due.seq}

    async def finalize(self, expired: Sequence[Expired]) -> int:
        """Clear reported messages, count them and tell the rooms' screens; return how many claims were still the caller's."""
        todo = sorted(expired, key=_partition)
        cleared = 0
        while todo:
            # One round trip has no more rows than one call: the store serves no other client between the calls of a round trip.
            rows, todo = todo[:FINALIZE_BATCH], todo[FINALIZE_BATCH:]
            calls = [
                ("finalize_expired", (partition_prefix(partition), *_finalize_args(some)))
                for partition, some in groupby(rows, _partition)
            ]
            codes = list(chain.from_iterable(checked(await self._calls.scripts.run(calls))))
            cleared += codes.count(1)
            todo = [row for row, code in zip(rows, codes, strict=True) if code == 2] + todo
        return cleared


def _shares(due: dict[int, int], limit: int) -> list[tuple[int, int]]:
    """Divide `limit` rows over the partitions, so that no partition waits until a larger one is empty."""
    shares = []
    for waiting, (partition, rows) in enumerate(sorted(due.items(), key=lambda item: item[1])):
        share = min(rows, -(-limit // (len(due) - waiting)))
        if share > 0:
            shares.append((partition, share))
            limit -= share
    return sorted(shares)


def _dues(partition: int, answer: list[Any]) -> list[Due]:
    dues = []
    for at in range(2, len(answer), 3):
        room, seq = parse_index_entry(text(answer[at]))
        dues.append(Due(RoomKey(room, partition), seq, int(float(answer[at + 1])), text(answer[at + 2])))
    return dues


def _partition(one: Expired) -> int:
    return one.due.room.partition


def _finalize_args(rows: Iterable[Expired]) -> list[Any]:
    args: list[Any] = []
    for one in rows:
        reasons = [missed.reason for missed in one.missed]
        args += (one.due.room.id, one.due.seq, one.due.score, *map(reasons.count, _REASONS))
    return args


class _Row(NamedTuple):
    """The stored parts of one expired message."""

    due: Due
    epoch: bytes | None
    entry: LiveEntry | None
    fields: list[bytes | None]
    only: bytes | None


def _report(row: _Row, total: int, missed: tuple[Missed, ...], first: IdempotencyRecord | None) -> Expired:
    """Return the report of one message. Without its Hash, the times are those of the first answer, or the time it was due.

    Unreadable fields of a Hash count as missing: one corrupt message must not block the others.
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
