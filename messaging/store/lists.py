"""Lists for staff: pages of the lagging rooms, of the members behind in one room, of live messages.

The cost of a page does not depend on its position: within a room it is found by rank. A list over all rooms is in 64 sorted sets: the
first and last score of a page are found by counting rows at 15 scores at a time, in a few round trips, and only its rows are read.
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

PIVOTS = 15  # scores in one round trip; two dates a month apart take nine round trips
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
        cursors = [(int(rows[at]), int(float(rows[at + 1]))) for at in range(0, len(rows), 2)]
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
        self, asked: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], *, limit: int
    ) -> list[list[DeliveryDebt]]:
        """Return the messages that members of rooms owe, among `limit` live messages above the lowest of a room's cursors.

        Members owe a message that is for them, tracked, not expired, not their own, and not rejected by them. Three round trips.
        """
        windows = await self._windows(asked, limit)
        rest = [
            ("ZCOUNT", f"{room.key}:live", f"({max(one.cursor, window.upto)}", "+inf")
            for (room, members), window in zip(asked, windows, strict=True)
            for one in members
            if window.is_cut
        ]
        beyond = iter(await self._calls.scripts.pipeline(rest) if rest else [])
        return [
            [window.debt_of(one, next(beyond) if window.is_cut else 0) for one in members]
            for (_, members), window in zip(asked, windows, strict=True)
        ]

    async def _windows(
        self, asked: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], limit: int
    ) -> list[_LogWindow]:
        lowest = [min((one.cursor for one in members), default=0) for _, members in asked]
        above = [
            ("ZRANGEBYSCORE", f"{room.key}:live", f"({low}", "+inf", "LIMIT", 0, limit)
            for (room, _), low in zip(asked, lowest, strict=True)
        ]
        answers = await self._calls.scripts.pipeline(above) if above else []
        found = [[LiveEntry.parse(text(row)) for row in rows] for rows in answers]
        commands: list[tuple[Any, ...]] = [("TIME",)]
        for (room, _), entries in zip(asked, found, strict=True):
            seqs = [entry.seq for entry in entries] or [0]
            commands += [
                ("HMGET", f"{room.key}:only", *seqs),
                ("ZRANGEBYSCORE", f"{room.key}:outcome", seqs[0], seqs[-1], "LIMIT", 0, 2 * limit),
                *(("HMGET", f"{room.key}:msg:{seq}", "sent_at", "expires_at") for seq in seqs),
            ]
        clock, *answers = await self._calls.scripts.pipeline(commands)
        now_ms = time_ms(clock)
        windows = []
        for entries in found:
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
        found = []
        for (user, cursor), value in zip(cursors, values, strict=True):
            attempts = Attempts.parse(text(value or ""))
            found.append(MemberBehind(user, cursor, attempts.n, attempts.next_at_ms))
        return found

    # Live messages

    async def count_live(self, room: RoomKey | None = None) -> int:
        """Count the messages whose expiry was not processed, of one room or all."""
        if room is None:
            return await self._count("expiring")
        [count] = await self._calls.scripts.pipeline([("ZCARD", f"{room.key}:live")])
        return int(count)

    async def live(self, start: int, stop: int, room: RoomKey | None = None) -> list[Live]:
        """Return live messages without their texts: newest first for one room, first to expire first for all rooms."""
        return await self.live_by_seq(await self.live_seqs(start, stop, room))

    async def live_seqs(
        self, start: int, stop: int, room: RoomKey | None = None
    ) -> list[tuple[RoomKey, int]]:
        """Return only the positions of these messages: [(room, seq)]."""
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
        """Return stored messages without their texts, without expired and deleted ones. Two round trips."""
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
        found = [_live(room, seq, *row) for (room, seq), *row in rows]
        return await self._count_owing([one for one in found if one is not None and one.expires_at > now_ms])

    async def _count_owing(self, found: Sequence[Live]) -> list[Live]:
        """Count only owing members as behind: not the sender, and for a resend only its recipients."""
        asked = [one for one in found if one.behind and one.tracked]
        commands = [
            ("ZMSCORE", f"{one.room.key}:delivered", *(one.only or (one.sender,))[:MAX_ADDRESSED])
            for one in asked
        ]
        answers = await self._calls.scripts.pipeline(commands) if commands else []
        behind = {}
        for one, cursors in zip(asked, answers, strict=True):
            below = sum(cursor is not None and float(cursor) < one.seq for cursor in cursors)
            if one.only:  # never the sender
                behind[one.room, one.seq] = min(one.behind, below + len(one.only[MAX_ADDRESSED:]))
            else:
                behind[one.room, one.seq] = one.behind - below
        return [dataclasses.replace(one, behind=behind.get((one.room, one.seq), 0)) for one in found]

    async def body(self, room: RoomKey, seq: int) -> str | None:
        """Return the text of a live message, None after its expiry."""
        clock, [body, expires_at] = await self._calls.scripts.pipeline(
            [("TIME",), ("HMGET", f"{room.key}:msg:{seq}", "body", "expires_at")]
        )
        now_ms = time_ms(clock)
        return text(body) if body is not None and int(expires_at) > now_ms else None

    async def raw_keys(self, room: RoomKey, seq: int) -> list[tuple[str, str]]:
        """Return the keys with data of a message and a description of each value, never the message's text."""
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
        held = (
            f"{cursors} at or above {seq}",
            f"{outcomes} exceptions",
            "–" if rev is None else f"rev {int(float(rev))}",
            f"{only} bytes of user ids" if only else "–",
        )
        return [
            (message, f"{', '.join(map(text, fields))}; TTL {ttl_ms // 1000} s"),
            (f"{room.prefix}expiring", "–" if due is None else f"{entry} -> {int(float(due))}"),
            *((f"{room.key}:{name}", value) for name, value in zip(names, held, strict=True)),
        ]

    async def seq_of(
        self, message: str, senders: Sequence[tuple[RoomKey, int]]
    ) -> tuple[RoomKey, int] | None:
        """Return the room and seq of a message id, if one of these (room, user) sent it and its idempotency record still exists."""
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
        """Return the rows from rank `start` below `stop` over all partitions: [(score, partition, member)], ascending."""
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
            (int(float(answer[at + 1])), partition, text(answer[at]))
            for partition, answer in enumerate(answers[len(keys) :])
            for at in range(0, len(answer), 2)
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
            pivots = [_pivots(low, high) for low, high in spans]
            commands = [("ZCOUNT", key, "-inf", pivot) for some in pivots for pivot in some for key in keys]
            counts = await self._calls.scripts.pipeline(commands)
            sums = [sum(counts[at : at + len(keys)]) for at in range(0, len(counts), len(keys))]
            for span, some, rank in zip(spans, pivots, ranks, strict=True):
                mine, sums = sums[: len(some)], sums[len(some) :]
                _narrow(span, some, mine, rank)
        return [low for low, _ in spans]


@dataclasses.dataclass(frozen=True, slots=True)
class _LogWindow:
    """The first live messages above a room's lowest cursor, up to `upto`: [(seq, sender, recipients or None, sent_at, expires_at)]."""

    rows: list[tuple[int, int, frozenset[int] | None, int, int]]
    rejected: frozenset[tuple[int, int]]  # (seq, user)
    upto: int
    is_cut: bool

    def debt_of(self, member: MemberBehind | Owing, beyond: int) -> DeliveryDebt:
        first = bisect.bisect_right(self.rows, member.cursor, key=lambda row: row[0])
        owed = [
            row
            for row in self.rows[first:]
            if row[1] != member.user
            and (row[2] is None or member.user in row[2])
            and (row[0], member.user) not in self.rejected
        ]
        seq, _, _, sent_at, expires_at = owed[0] if owed else (0, 0, None, 0, 0)
        return DeliveryDebt(len(owed) + beyond, seq, sent_at, expires_at, cut=bool(beyond))


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
        some = None if users is None else frozenset(map(int, text(users).split(",")))
        rows.append((entry.seq, entry.sender, some, int(sent_at), int(expires_at)))
    exceptions = (Outcome.parse(text(row)) for row in outcome)
    rejected = frozenset((row.seq, row.user) for row in exceptions)
    return _LogWindow(rows, rejected, entries[-1].seq if entries else 0, is_cut)


def _pivots(low: int, high: int) -> list[int]:
    if high - low <= PIVOTS:
        return list(range(low, high))
    return [low + (high - low) * part // (PIVOTS + 1) for part in range(1, PIVOTS + 1)]


def _narrow(span: list[int], pivots: Sequence[int], counts: Sequence[int], rank: int) -> None:
    """Narrow [low, high], which contains the rank's score, by the number of rows at or below each pivot."""
    above = next((at for at, count in enumerate(counts) if count > rank), None)
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
