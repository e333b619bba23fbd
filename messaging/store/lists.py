"""Lists for staff: pages of lagging rooms, of the members behind in one room, and of live messages.

The cost of a page does not depend on its position. Within a room, a page is read by rank. A list over all rooms is in 64 sorted sets,
one for each partition. There the first and the last score of a page are searched: each round trip counts the rows below 15 scores.
Then only the rows of the page are read.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

from messaging.models import PARTITIONS

from .calls import Calls, text, time_ms
from .entries import Attempts, LiveEntry, Outcome, parse_index_entry
from .records import (
    DeliveryDebt,
    IdempotencyRecord,
    Live,
    MemberBehind,
    Owing,
    RoomKey,
    idempotency_key,
    partition_prefix,
)

PIVOTS = 15  # scores in one round trip; a search between two dates a month apart takes nine round trips
MAX_ADDRESSED = 500  # recipients of a resend whose cursors are read
_FIELDS = ("id", "sender", "name", "sent_at", "expires_at", "edited_at", "reply_to", "resends")


class Lists:
    """Pages and their counts. `start` and `stop` are ranks, as in a slice."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    # Lagging rooms

    async def count_lagging_rooms(self) -> int:
        """Count the rooms that the sweep will check."""
        return await self._count("unacked")

    async def lagging_rooms(self, start: int, stop: int) -> list[tuple[RoomKey, int]]:
        """Return rooms with the time of the next sweep (epoch ms), soonest first."""
        rows = await self._page("unacked", start, stop)
        return [(RoomKey(member, partition), score) for score, partition, member in rows]

    async def count_members_behind(self, room: RoomKey) -> int:
        """Count the members below the newest live message."""
        newest = await self._newest(room)
        if newest is None:
            return 0
        [count] = await self._calls.scripts.pipeline(
            [("ZCOUNT", f"{room.key}:delivered", "-inf", f"({newest}")]
        )
        return int(count)

    async def members_behind(self, room: RoomKey, start: int, stop: int) -> list[MemberBehind]:
        """Return members below the newest live message, furthest behind first."""
        newest = await self._newest(room)
        if newest is None or stop <= start:
            return []
        command = ("ZRANGEBYSCORE", f"{room.key}:delivered", "-inf", f"({newest}", "WITHSCORES", "LIMIT")
        [rows] = await self._calls.scripts.pipeline([(*command, start, stop - start)])
        cursors = [(int(rows[i]), int(float(rows[i + 1]))) for i in range(0, len(rows), 2)]
        return await self._with_attempts(room, cursors)

    async def members_behind_by_id(self, room: RoomKey, users: Sequence[int]) -> list[MemberBehind]:
        """Return those of `users` who are members below the newest live message."""
        newest = await self._newest(room)
        if newest is None or not users:
            return []
        scores = await self._calls.scripts.pipeline(
            [("ZSCORE", f"{room.key}:delivered", user) for user in users]
        )
        cursors = [
            (user, int(float(score)))
            for user, score in zip(users, scores, strict=True)
            if score is not None and int(float(score)) < newest
        ]
        return await self._with_attempts(room, cursors)

    async def delivery_debts(
        self, requests: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], *, limit: int
    ) -> list[list[DeliveryDebt]]:
        """Return, for members of rooms, the messages that they owe, among the first `limit` live messages above the lowest cursor.

        Members owe a message that is for them, tracked, not expired, not their own, and not rejected by them. Later messages are only
        counted. Three round trips.
        """
        windows = await self._windows(requests, limit)
        later = [
            ("ZCOUNT", f"{room.key}:live", f"({max(member.cursor, window.upto)}", "+inf")
            for (room, members), window in zip(requests, windows, strict=True)
            for member in members
            if window.is_cut
        ]
        later_counts = iter(await self._calls.scripts.pipeline(later) if later else [])
        return [
            [window.debt_of(member, next(later_counts) if window.is_cut else 0) for member in members]
            for (_, members), window in zip(requests, windows, strict=True)
        ]

    async def _windows(
        self, requests: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], limit: int
    ) -> list[_LogWindow]:
        lowest = [min((member.cursor for member in members), default=0) for _, members in requests]
        above = [
            ("ZRANGEBYSCORE", f"{room.key}:live", f"({low}", "+inf", "LIMIT", 0, limit)
            for (room, _), low in zip(requests, lowest, strict=True)
        ]
        answers = await self._calls.scripts.pipeline(above) if above else []
        entries_by_room = [[LiveEntry.parse(text(row)) for row in rows] for rows in answers]
        commands: list[tuple[Any, ...]] = [("TIME",)]
        for (room, _), entries in zip(requests, entries_by_room, strict=True):
            seqs = [entry.seq for entry in entries] or [0]
            commands += [
                ("HMGET", f"{room.key}:only", *seqs),
                ("ZRANGEBYSCORE", f"{room.key}:outcome", seqs[0], seqs[-1], "LIMIT", 0, 2 * limit),
                *(("HMGET", f"{room.key}:msg:{seq}", "sent_at", "expires_at") for seq in seqs),
            ]
        clock, *answers = await self._calls.scripts.pipeline(commands)
        now_ms = time_ms(clock)
        windows = []
        for entries in entries_by_room:
            share = 2 + max(1, len(entries))
            (only, outcome, *times), answers = answers[:share], answers[share:]
            windows.append(
                _window(entries, only, outcome, times, is_cut=len(entries) == limit, now_ms=now_ms)
            )
        return windows

    async def _newest(self, room: RoomKey) -> int | None:
        [rows] = await self._calls.scripts.pipeline([("ZRANGE", f"{room.key}:live", -1, -1, "WITHSCORES")])
        return int(float(rows[1])) if rows else None

    async def _with_attempts(self, room: RoomKey, cursors: Sequence[tuple[int, int]]) -> list[MemberBehind]:
        if not cursors:
            return []
        [values] = await self._calls.scripts.pipeline(
            [("HMGET", f"{room.key}:attempts", *(user for user, _ in cursors))]
        )
        members = []
        for (user, cursor), value in zip(cursors, values, strict=True):
            attempts = Attempts.parse(text(value or ""))
            members.append(MemberBehind(user, cursor, attempts.n, attempts.next_at_ms))
        return members

    # Live messages

    async def count_live(self, room: RoomKey | None = None) -> int:
        """Count the messages whose expiry is not yet processed, in one room or in all rooms."""
        if room is None:
            return await self._count("expiring")
        [count] = await self._calls.scripts.pipeline([("ZCARD", f"{room.key}:live")])
        return int(count)

    async def live(self, start: int, stop: int, room: RoomKey | None = None) -> list[Live]:
        """Return live messages without their texts. In one room the newest are first; over all rooms, those that expire next."""
        return await self.live_by_seq(await self.live_seqs(start, stop, room))

    async def live_seqs(
        self, start: int, stop: int, room: RoomKey | None = None
    ) -> list[tuple[RoomKey, int]]:
        """Return only the positions of the messages that `live` returns: [(room, seq)]."""
        if room is None:
            rows = await self._page("expiring", start, stop)
            split = [(parse_index_entry(member), partition) for _, partition, member in rows]
            return [(RoomKey(name, partition), seq) for (name, seq), partition in split]
        if stop <= start:
            return []
        [seqs] = await self._calls.scripts.pipeline(
            [("ZREVRANGE", f"{room.key}:live", start, stop - 1, "WITHSCORES")]
        )
        return [(room, int(float(seq))) for seq in seqs[1::2]]

    async def live_by_seq(self, positions: Sequence[tuple[RoomKey, int]]) -> list[Live]:
        """Return messages without their texts; expired and deleted messages are omitted. Two round trips."""
        commands: list[tuple[Any, ...]] = [("TIME",)]
        for room, seq in positions:
            commands += [
                ("HMGET", f"{room.key}:msg:{seq}", *_FIELDS),
                ("ZRANGEBYSCORE", f"{room.key}:live", seq, seq),
                ("ZCOUNT", f"{room.key}:delivered", "-inf", f"({seq}"),
                ("ZCOUNT", f"{room.key}:outcome", seq, seq),
                ("HGET", f"{room.key}:only", seq),
            ]
        clock, *answers = await self._calls.scripts.pipeline(commands)
        now_ms = time_ms(clock)
        rows = zip(positions, *(answers[part::5] for part in range(5)), strict=True)
        messages = [_live(room, seq, *row) for (room, seq), *row in rows]
        live = [message for message in messages if message is not None and message.expires_at > now_ms]
        return await self._count_owing(live)

    async def _count_owing(self, messages: Sequence[Live]) -> list[Live]:
        """Correct `behind` to the members who owe the message: without the sender, and for a resend only its recipients."""
        tracked = [message for message in messages if message.behind and message.tracked]
        commands = [
            ("ZMSCORE", f"{message.room.key}:delivered", *(message.only or (message.sender,))[:MAX_ADDRESSED])
            for message in tracked
        ]
        answers = await self._calls.scripts.pipeline(commands) if commands else []
        behind = {}
        for message, cursors in zip(tracked, answers, strict=True):
            below = sum(cursor is not None and float(cursor) < message.seq for cursor in cursors)
            position = message.room, message.seq
            if message.only:  # the sender is never among the recipients
                behind[position] = min(message.behind, below + len(message.only[MAX_ADDRESSED:]))
            else:
                behind[position] = message.behind - below
        return [
            dataclasses.replace(message, behind=behind.get((message.room, message.seq), 0))
            for message in messages
        ]

    async def body(self, room: RoomKey, seq: int) -> str | None:
        """Return the text of a live message; None if it has expired or was deleted."""
        clock, [body, expires_at] = await self._calls.scripts.pipeline(
            [("TIME",), ("HMGET", f"{room.key}:msg:{seq}", "body", "expires_at")]
        )
        now_ms = time_ms(clock)
        return text(body) if body is not None and int(expires_at) > now_ms else None

    async def raw_keys(self, room: RoomKey, seq: int) -> list[tuple[str, str]]:
        """Return the store's keys for a message, each with a description of its value, never with the message's text."""
        message, entry = f"{room.key}:msg:{seq}", f"{room.id}|{seq}"
        names = ("delivered", "outcome", "changed", "only")
        ttl_ms, fields, due, cursors, outcomes, rev, only = await self._calls.scripts.pipeline(
            [
                ("PTTL", message),
                ("HKEYS", message),
                ("ZSCORE", f"{room.prefix}expiring", entry),
                ("ZCOUNT", f"{room.key}:delivered", seq, "+inf"),
                ("ZCOUNT", f"{room.key}:outcome", seq, seq),
                ("ZSCORE", f"{room.key}:changed", seq),
                ("HSTRLEN", f"{room.key}:only", seq),
            ]
        )
        values = (
            f"{cursors} at or above {seq}",
            f"{outcomes} exceptions",
            "–" if rev is None else f"rev {int(float(rev))}",
            f"{only} bytes of user ids" if only else "–",
        )
        return [
            (message, f"{', '.join(map(text, fields))}; TTL {ttl_ms // 1000} s"),
            (f"{room.prefix}expiring", "–" if due is None else f"{entry} -> {int(float(due))}"),
            *((f"{room.key}:{name}", value) for name, value in zip(names, values, strict=True)),
        ]

    async def seq_of(
        self, message: str, senders: Sequence[tuple[RoomKey, int]]
    ) -> tuple[RoomKey, int] | None:
        """Return the (room, seq) of a message id if one of `senders`, (room, user), sent it and its idempotency record still exists."""
        commands = [("GET", idempotency_key(room, user, message)) for room, user in senders]
        for (room, _), answer in zip(senders, await self._calls.scripts.pipeline(commands), strict=True):
            if answer is not None:
                return room, IdempotencyRecord.read(answer).seq
        return None

    # Over all rooms

    async def _count(self, part: str) -> int:
        counts = await self._calls.scripts.pipeline(
            [("ZCARD", f"{partition_prefix(partition)}{part}") for partition in range(PARTITIONS)]
        )
        return sum(counts)

    async def _page(self, part: str, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Return the rows with ranks `start` to `stop` - 1 over all partitions: [(score, partition, member)], ascending."""
        keys = [f"{partition_prefix(partition)}{part}" for partition in range(PARTITIONS)]
        stop = min(stop, await self._count(part))
        if stop <= start:
            return []
        low, high = await self._scores_at(keys, (start, stop - 1))
        answers = await self._calls.scripts.pipeline(
            [
                *(("ZCOUNT", key, "-inf", f"({low}") for key in keys),
                *(("ZRANGEBYSCORE", key, low, high, "WITHSCORES") for key in keys),
            ]
        )
        below = sum(answers[: len(keys)])
        rows = sorted(
            (int(float(answer[i + 1])), partition, text(answer[i]))
            for partition, answer in enumerate(answers[len(keys) :])
            for i in range(0, len(answer), 2)
        )
        return rows[max(0, start - below) : max(0, stop - below)]

    async def _scores_at(self, keys: Sequence[str], ranks: Sequence[int]) -> list[int]:
        """Return the score of the row at each rank."""
        ends = await self._calls.scripts.pipeline(
            [
                *(("ZRANGE", key, 0, 0, "WITHSCORES") for key in keys),
                *(("ZRANGE", key, -1, -1, "WITHSCORES") for key in keys),
            ]
        )
        scores = [int(float(rows[1])) for rows in ends if rows]
        spans = [[min(scores, default=0), max(scores, default=0)] for _ in ranks]
        while any(low < high for low, high in spans):
            pivots_by_span = [_pivots(low, high) for low, high in spans]
            commands = [
                ("ZCOUNT", key, "-inf", pivot)
                for pivots in pivots_by_span
                for pivot in pivots
                for key in keys
            ]
            counts = await self._calls.scripts.pipeline(commands)
            sums = iter(
                [sum(counts[start : start + len(keys)]) for start in range(0, len(counts), len(keys))]
            )
            for span, pivots, rank in zip(spans, pivots_by_span, ranks, strict=True):
                _narrow(span, pivots, [next(sums) for _ in pivots], rank)
        return [low for low, _ in spans]


@dataclasses.dataclass(frozen=True, slots=True)
class _LogWindow:
    """The first live messages above a room's lowest cursor, up to seq `upto`. `is_cut`: there are more above it."""

    rows: list[
        tuple[int, int, frozenset[int] | None, int, int]
    ]  # seq, sender, recipients, sent_at, expires_at
    rejected: frozenset[tuple[int, int]]  # (seq, user)
    upto: int
    is_cut: bool

    def debt_of(self, member: MemberBehind | Owing, later: int) -> DeliveryDebt:
        first = bisect.bisect_right(self.rows, member.cursor, key=lambda row: row[0])
        owed = [
            row
            for row in self.rows[first:]
            if row[1] != member.user
            and (row[2] is None or member.user in row[2])
            and (row[0], member.user) not in self.rejected
        ]
        seq, _, _, sent_at, expires_at = owed[0] if owed else (0, 0, None, 0, 0)
        return DeliveryDebt(len(owed) + later, seq, sent_at, expires_at, cut=bool(later))


def _window(
    entries: Sequence[LiveEntry],
    only: Sequence[bytes | None],
    outcome: Sequence[bytes],
    times: Sequence[list[bytes | None]],
    *,
    is_cut: bool,
    now_ms: int,
) -> _LogWindow:
    rows = []
    for entry, users, (sent_at, expires_at) in zip(entries, only, times, strict=False):
        if not entry.tracked or sent_at is None or expires_at is None or int(expires_at) <= now_ms:
            continue
        addressed = None if users is None else frozenset(map(int, text(users).split(",")))
        rows.append((entry.seq, entry.sender, addressed, int(sent_at), int(expires_at)))
    exceptions = (Outcome.parse(text(row)) for row in outcome)
    rejected = frozenset((row.seq, row.user) for row in exceptions)
    return _LogWindow(rows, rejected, entries[-1].seq if entries else 0, is_cut)


def _pivots(low: int, high: int) -> list[int]:
    if high - low <= PIVOTS:
        return list(range(low, high))
    return [low + (high - low) * part // (PIVOTS + 1) for part in range(1, PIVOTS + 1)]


def _narrow(span: list[int], pivots: Sequence[int], counts: Sequence[int], rank: int) -> None:
    """Narrow the range [low, high] that contains the score of a rank. `counts`: the number of rows at or below each pivot."""
    above = next((i for i, count in enumerate(counts) if count > rank), None)
    if above is None:
        span[0] = pivots[-1] + 1 if pivots else span[1]
    else:
        span[1] = pivots[above]
        span[0] = pivots[above - 1] + 1 if above else span[0]


def _live(
    room: RoomKey,
    seq: int,
    fields: list[bytes | None],
    entries: list[bytes],
    behind: int,
    unshown: int,
    only: bytes | None,
) -> Live | None:
    id_, sender, name, sent_at, expires_at, edited_at, reply_to, resends = fields
    if not entries or id_ is None or sender is None or name is None or sent_at is None or expires_at is None:
        return None
    return Live(
        room=room,
        seq=seq,
        id=text(id_),
        sender=int(sender),
        name=text(name),
        sent_at=int(sent_at),
        expires_at=int(expires_at),
        edited_at=None if edited_at is None else int(edited_at),
        reply_to=None if reply_to is None else int(reply_to),
        resends=None if resends is None else int(resends),
        tracked=LiveEntry.parse(text(entries[0])).tracked,
        behind=behind,
        unshown=unshown,
        only=None if only is None else tuple(map(int, text(only).split(","))),
    )
