"""The operations for retries: owing members, attempts, and the sweep's claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from messaging.errors import MessagingError
from messaging.models import PARTITIONS

from .calls import Calls, checked, text
from .entries import Attempts
from .records import Claim, Lag, MemberBehind, Owing, RoomKey, partition_prefix


class Retries:
    """Owing members, attempts, claims of lagging rooms."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def owing(
        self, room: RoomKey, epoch: str, users: Sequence[int], *, mark: int | None = None
    ) -> list[Owing]:
        """Return those of `users` who owe a live message; with `mark`, a live message at or below this seq."""
        answer = await self._calls.run(
            "who_owes", room, epoch, "" if mark is None else mark, self._calls.max_attempts, *users
        )
        return _owing(answer)

    async def owing_among(self, lags: Sequence[Lag]) -> list[list[Owing]]:
        """Return the members behind in each room who owe a live message, in one round trip."""
        calls = [
            (
                "who_owes",
                (
                    lag.room.prefix,
                    lag.room.id,
                    lag.epoch,
                    "",
                    self._calls.max_attempts,
                    *(member.user for member in lag.members_behind),
                ),
            )
            for lag in lags
        ]
        return [_owing(answer) for answer in checked(await self._calls.scripts.run(calls))]

    async def count_undelivered(self, rooms: Sequence[RoomKey]) -> list[int]:
        """Count in each room the live messages that are above the cursor of a member who is not their sender."""
        answers = checked(
            await self._calls.scripts.run([("count_undelivered", (room.prefix, room.id)) for room in rooms])
        )
        return [int(answer) for answer in answers]

    async def record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        """Count one push if the member has `expected` attempts so far; return False if another process counted it first.

        The call is never repeated: the second answer would be False although the first call counted.
        """
        max_attempts = self._calls.policy.attempts_max
        args = (room.prefix, room.id, user, expected, int(next_s * 1000), max_attempts)
        [answer] = await self._calls.scripts.run([("record_attempt", args)], idempotent=False)
        if isinstance(answer, MessagingError):
            raise answer
        return bool(answer == 1)

    async def retry_now(self, room: RoomKey, users: Sequence[int]) -> int:
        """Make the next attempts of `users` due now; return how many users have attempts. Idempotent."""
        return int(await self._calls.run("retry_now", room, *users))

    async def reset_attempts(self, room: RoomKey, users: Sequence[int]) -> list[bool]:
        """Delete the attempts of `users`, so that they start again, even after the last one; return for each whether there were any."""
        return [
            bool(deleted)
            for deleted in await self._calls.scripts.pipeline(
                [("HDEL", f"{room.key}:attempts", user) for user in users]
            )
        ]

    async def claim(self, token: str, *, limit: int = 50, room: RoomKey | None = None) -> list[Claim]:
        """Claim the rooms whose sweep is due, at most `limit` of each partition; or claim `room`.

        A claim is a lease: after a crash the rooms are due again. The same token gets the same rows again, because a reply may be lost.
        """
        policy = self._calls.policy
        numbers = (limit, policy.lease_s * 1000, int(policy.ack_timeout_s * 1000))
        partitions = list(range(PARTITIONS)) if room is None else [room.partition]
        claims: list[Claim] = []
        while partitions:
            calls = [
                ("claim_lagging", (partition_prefix(partition), token, *numbers, room.id if room else ""))
                for partition in partitions
            ]
            answers = dict(zip(partitions, checked(await self._calls.scripts.run(calls)), strict=True))
            for partition, (_, *rows) in answers.items():
                for i in range(0, len(rows), 5):
                    name, epoch, mark, oldest, score = map(text, rows[i : i + 5])
                    claims.append(Claim(RoomKey(name, partition), epoch, int(mark), int(oldest), score))
            # A partition with `limit` rooms of which none has lagging members: they were removed from the index, so read the next ones.
            partitions = [
                partition
                for partition, answer in answers.items()
                if room is None and len(answer) == 1 and answer[0] == limit
            ]
        return claims

    async def release(self, claims: Sequence[Claim]) -> int:
        """Set the time of the next sweep of claimed rooms; return how many were not claimed by another caller since."""
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for claim in claims:
            by_partition[claim.room.partition] += (claim.room.id, claim.score)
        interval_ms = self._calls.policy.sweep_interval_s * 1000
        calls = [
            ("release_lagging", (partition_prefix(partition), interval_ms, *args))
            for partition, args in by_partition.items()
        ]
        return sum(checked(await self._calls.scripts.run(calls)))

    async def active_rooms(self, *, limit: int | None = None) -> list[tuple[RoomKey, int]]:
        """Return the rooms with unacknowledged messages and the time of the next sweep (epoch ms), soonest first.

        With `limit`, only the first rooms of each partition: twice its share of `limit`.
        """
        last_rank = -1 if limit is None else -(-2 * limit // PARTITIONS) - 1
        commands = [
            ("ZRANGE", f"{partition_prefix(partition)}unacked", 0, last_rank, "WITHSCORES")
            for partition in range(PARTITIONS)
        ]
        rooms = [
            (RoomKey(text(answer[i]), partition), int(float(answer[i + 1])))
            for partition, answer in enumerate(await self._calls.scripts.pipeline(commands))
            for i in range(0, len(answer), 2)
        ]
        return sorted(rooms, key=lambda row: row[1])

    async def count_active_rooms(self) -> int:
        """Count the rooms with unacknowledged messages."""
        commands = [("ZCARD", f"{partition_prefix(partition)}unacked") for partition in range(PARTITIONS)]
        return int(sum(await self._calls.scripts.pipeline(commands)))

    async def members_behind(self, rooms: Sequence[RoomKey], *, limit: int = 100) -> list[Lag | None]:
        """Return the members behind in each room, at most `limit` by name; None for a room without a log."""
        answers = checked(
            await self._calls.scripts.run(
                [("members_behind", (room.prefix, room.id, limit)) for room in rooms]
            )
        )
        return [_lag(room, answer) if answer else None for room, answer in zip(rooms, answers, strict=True)]


def _owing(answer: list[Any]) -> list[Owing]:
    return [
        Owing(int(answer[i]), int(answer[i + 1]), *Attempts.parse(text(answer[i + 2]))[:2])
        for i in range(0, len(answer), 3)
    ]


def _lag(room: RoomKey, answer: list[Any]) -> Lag:
    members = [
        MemberBehind(int(answer[i]), int(answer[i + 1]), *Attempts.parse(text(answer[i + 2]))[:2])
        for i in range(4, len(answer), 3)
    ]
    return Lag(room, text(answer[0]), answer[1], answer[2], int(answer[3] or 0), members)
