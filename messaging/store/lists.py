"""The store's lists for the staff: pages of the rooms that lag, of who lags in one, of live messages. A part of `store`.

A page costs the same wherever it begins: within a room it is found by rank. A list over all rooms lies in 64 sorted sets; the
scores between which a page lies are found by counting at 15 places at a time, in a few round trips, and only these rows are read.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

from messaging.models import PARTITIONS

from .calls import Calls, text
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

PIVOTS = 15  # counted at in one round trip; two dates a month apart are nine round trips
MAX_ADDRESSED = 500  # of those whom a resend is for, looked at
_FIELDS = ("id", "sender", "name", "sent_at", "expires_at", "edited_at", "reply_to", "resends")


class Lists:
    """Pages and their counts. `start` and `stop` are ranks, as of a slice."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    # Rooms that lag

    async def count_lagging_rooms(self) -> int:
        """Count the rooms that the next looks of the sweep are for."""
        return await self._count("unacked")

    async def lagging_rooms(self, start: int, stop: int) -> list[tuple[RoomKey, int]]:
        """Return rooms with when each is looked at next (epoch ms), soonest first."""
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
        return await self._laggards(room, cursors)

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
        return await self._laggards(room, cursors)

    async def delivery_debts(
        self, asked: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], *, limit: int
    ) -> list[list[DeliveryDebt]]:
        """Say of members of rooms what each lacks, looking at `limit` live messages above the lowest of a room's cursors.

        A message is lacked by whom it is for, tracked, not yet over, not his own and not one that he could not show. Three round trips.
        """
        walks = await self._walks(asked, limit)
        rest = [
            ("ZCOUNT", f"{room.key}:live", f"({max(one.cursor, walk.upto)}", "+inf")
            for (room, members), walk in zip(asked, walks, strict=True)
            for one in members
            if walk.cut
        ]
        beyond = iter(await self._calls.scripts.pipeline(rest) if rest else [])
        return [
            [walk.lacked_by(one, next(beyond) if walk.cut else 0) for one in members]
            for (_, members), walk in zip(asked, walks, strict=True)
        ]

    async def _walks(
        self, asked: Sequence[tuple[RoomKey, Sequence[MemberBehind | Owing]]], limit: int
    ) -> list[_Walk]:
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
        now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
        walks = []
        for entries in found:
            share = 2 + max(1, len(entries))
            (only, outcome, *times), answers = answers[:share], answers[share:]
            walks.append(_walk(entries, only, outcome, times, cut=len(entries) == limit, now_ms=now_ms))
        return walks

    async def _newest(self, room: RoomKey) -> int | None:
        [rows] = await self._calls.scripts.pipeline([("ZRANGE", f"{room.key}:live", -1, -1, "WITHSCORES")])
        return int(float(rows[1])) if rows else None

    async def _laggards(self, room: RoomKey, cursors: Sequence[tuple[int, int]]) -> list[MemberBehind]:
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
        """Count the messages whose end has not been processed, of one room or all."""
        if room is None:
            return await self._count("expiring")
        [count] = await self._calls.scripts.pipeline([("ZCARD", f"{room.key}:live")])
        return int(count)

    async def live(self, start: int, stop: int, room: RoomKey | None = None) -> list[Live]:
        """Return live messages without their texts: of a room the newest first, of all rooms what ends soonest."""
        return await self.live_by_seq(await self.live_seqs(start, stop, room))

    async def live_seqs(
        self, start: int, stop: int, room: RoomKey | None = None
    ) -> list[tuple[RoomKey, int]]:
        """Return only where these messages are: [(room, seq)]."""
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

    async def live_by_seq(self, places: Sequence[tuple[RoomKey, int]]) -> list[Live]:
        """Return what is stored of messages, without texts; what is over or gone is left out. Two round trips."""
        commands: list[tuple[Any, ...]] = [("TIME",)]
        for room, seq in places:
            commands += [
                ("HMGET", f"{room.key}:msg:{seq}", *_FIELDS),
                ("ZRANGEBYSCORE", f"{room.key}:live", seq, seq),
                ("ZCOUNT", f"{room.key}:delivered", "-inf", f"({seq}"),
                ("ZCOUNT", f"{room.key}:outcome", seq, seq),
                ("HGET", f"{room.key}:only", seq),
            ]
        clock, *answers = await self._calls.scripts.pipeline(commands)
        now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
        rows = zip(places, *(answers[part::5] for part in range(5)), strict=True)
        found = [_live(room, seq, *row) for (room, seq), *row in rows]
        return await self._owed([one for one in found if one is not None and one.expires_at > now_ms])

    async def _owed(self, found: Sequence[Live]) -> list[Live]:
        """Count as behind only who owes: not the sender, and of a resend those it is for."""
        asked = [one for one in found if one.behind and one.tracked]
        commands = [
            ("ZMSCORE", f"{one.room.key}:delivered", *(one.only or (one.sender,))[:MAX_ADDRESSED])
            for one in asked
        ]
        answers = await self._calls.scripts.pipeline(commands) if commands else []
        behind = {}
        for one, cursors in zip(asked, answers, strict=True):
            below = sum(cursor is not None and float(cursor) < one.seq for cursor in cursors)
            if one.only:  # never its sender
                behind[one.room, one.seq] = min(one.behind, below + len(one.only[MAX_ADDRESSED:]))
            else:
                behind[one.room, one.seq] = one.behind - below
        return [dataclasses.replace(one, behind=behind.get((one.room, one.seq), 0)) for one in found]

    async def body(self, room: RoomKey, seq: int) -> str | None:
        """Return the text of a live message, None once it is over."""
        clock, [body, expires_at] = await self._calls.scripts.pipeline(
            [("TIME",), ("HMGET", f"{room.key}:msg:{seq}", "body", "expires_at")]
        )
        now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
        return text(body) if body is not None and int(expires_at) > now_ms else None

    async def raw_keys(self, room: RoomKey, seq: int) -> list[tuple[str, str]]:
        """Return the keys that hold something of a message, each with what it holds but never a text."""
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
            *((f"{room.key}:{name}", what) for name, what in zip(names, held, strict=True)),
        ]

    async def seq_of(
        self, message: str, senders: Sequence[tuple[RoomKey, int]]
    ) -> tuple[RoomKey, int] | None:
        """Return where a message id was accepted, if one of these (room, user) sent it and its answer is still kept."""
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
        """Return the rows from rank `start` below `stop` over all partitions: [(score, partition, member)], rising."""
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
        """Return the score that the row of each rank has."""
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
class _Walk:
    """The first live messages above a room's lowest cursor: [(seq, sender, for whom, sent_at, expires_at)], all of them up to `upto`."""

    rows: list[tuple[int, int, frozenset[int] | None, int, int]]
    unshown: frozenset[tuple[int, int]]  # (seq, user)
    upto: int
    cut: bool

    def lacked_by(self, member: MemberBehind | Owing, beyond: int) -> DeliveryDebt:
        first = bisect.bisect_right(self.rows, member.cursor, key=lambda row: row[0])
        lacked = [
            row
            for row in self.rows[first:]
            if row[1] != member.user
            and (row[2] is None or member.user in row[2])
            and (row[0], member.user) not in self.unshown
        ]
        seq, _, _, sent_at, expires_at = lacked[0] if lacked else (0, 0, None, 0, 0)
        return DeliveryDebt(len(lacked) + beyond, seq, sent_at, expires_at, cut=bool(beyond))


def _walk(
    entries: Sequence[LiveEntry],
    only: Sequence[bytes | None],
    outcome: Sequence[bytes],
    times: Sequence[list[bytes | None]],
    *,
    cut: bool,
    now_ms: int,
) -> _Walk:
    rows = []
    for entry, users, (sent_at, expires_at) in zip(entries, only, times, strict=False):
        if not entry.tracked or sent_at is None or expires_at is None or int(expires_at) <= now_ms:
            continue
        some = None if users is None else frozenset(map(int, text(users).split(",")))
        rows.append((entry.seq, entry.sender, some, int(sent_at), int(expires_at)))
    exceptions = (Outcome.parse(text(row)) for row in outcome)
    unshown = frozenset((row.seq, row.user) for row in exceptions)
    return _Walk(rows, unshown, entries[-1].seq if entries else 0, cut)


def _pivots(low: int, high: int) -> list[int]:
    if high - low <= PIVOTS:
        return list(range(low, high))
    return [low + (high - low) * part // (PIVOTS + 1) for part in range(1, PIVOTS + 1)]


def _narrow(span: list[int], pivots: Sequence[int], counts: Sequence[int], rank: int) -> None:
    """Narrow [low, high], in which the rank's score lies, by how many rows stand at or below each pivot."""
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
        tracked=not text(entries[0]).endswith("|u"),
        behind=behind,
        unshown=unshown,
        only=None if only is None else tuple(map(int, text(only).split(","))),
    )
