"""The operations of retries: owing members, attempts, the sweep's claims."""

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
        """Return those of `users` who owe a live message, at or below `mark` if given."""
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
        """Count the live messages of each room that are above the cursor of a member who did not write them."""
        answers = checked(
            await self._calls.scripts.run([("count_undelivered", (room.prefix, room.id)) for room in rooms])
        )
        return [int(answer) for answer in answers]

    async def record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        """Count one push, if `expected` is still the count; return False if another process counted first.

        Never sent twice: the second answer would be False although the first counted.
        """
        max_attempts = self._calls.policy.attempts_max
        args = (room.prefix, room.id, user, expected, int(next_s * 1000), max_attempts)
        [answer] = await self._calls.scripts.run([("record_attempt", args)], idempotent=False)
        if isinstance(answer, MessagingError):
            raise answer
        return bool(answer == 1)

    async def retry_now(self, room: RoomKey, users: Sequence[int]) -> int:
        """Make the next attempts of `users` due now; return how many had an attempt counted. Idempotent."""
        return int(await self._calls.run("retry_now", room, *users))

    async def reset_attempts(self, room: RoomKey, users: Sequence[int]) -> list[bool]:
        """Start the attempts of `users` again, also after the last one; return for each whether any was counted."""
        return [
            bool(one)
            for one in await self._calls.scripts.pipeline(
                [("HDEL", f"{room.key}:attempts", user) for user in users]
            )
        ]

    async def claim(self, token: str, *, limit: int = 50, room: RoomKey | None = None) -> list[Claim]:
        """Claim the rooms whose sweep is due, in all partitions or only `room`. A claim is a lease: after a crash they are due again.

        The same token gets the same rows again, because a reply may be lost.
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
                for at in range(0, len(rows), 5):
                    name, epoch, mark, oldest, score = map(text, rows[at : at + 5])
                    claims.append(Claim(RoomKey(name, partition), epoch, int(mark), int(oldest), score))
            # If no member lagged in the rooms that were read, they are no longer in the index, and the next rooms are due.
            partitions = [
                partition
                for partition, answer in answers.items()
                if room is None and len(answer) == 1 and answer[0] == limit
            ]
        return claims

    async def release(self, claims: Sequence[Claim]) -> int:
        """Set the next sweep of claimed rooms; return how many were still these claims'."""
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

        With `limit`, twice its share of each partition: about `limit` rooms or more.
        """
        last = -1 if limit is None else -(-2 * limit // PARTITIONS) - 1
        commands = [
            ("ZRANGE", f"{partition_prefix(partition)}unacked", 0, last, "WITHSCORES")
            for partition in range(PARTITIONS)
        ]
        rooms = [
            (RoomKey(text(answer[at]), partition), int(float(answer[at + 1])))
            for partition, answer in enumerate(await self._calls.scripts.pipeline(commands))
            for at in range(0, len(answer), 2)
        ]
        return sorted(rooms, key=lambda row: row[1])

    async def count_active_rooms(self) -> int:
        """Count the rooms with unacknowledged messages."""
        commands = [("ZCARD", f"{partition_prefix(partition)}unacked") for partition in range(PARTITIONS)]
        return int(sum(await self._calls.scripts.pipeline(commands)))

    async def members_behind(self, rooms: Sequence[RoomKey], *, limit: int = 100) -> list[Lag | None]:
        """Return at most `limit` members behind in each room; None for a room without a log."""
        answers = checked(
            await self._calls.scripts.run(
                [("members_behind", (room.prefix, room.id, limit)) for room in rooms]
            )
        )
        return [_lag(room, answer) if answer else None for room, answer in zip(rooms, answers, strict=True)]


def _owing(answer: list[Any]) -> list[Owing]:
    return [
        Owing(int(answer[at]), int(answer[at + 1]), *Attempts.parse(text(answer[at + 2]))[:2])
        for at in range(0, len(answer), 3)
    ]


def _lag(room: RoomKey, answer: list[Any]) -> Lag:
    members = [
        MemberBehind(int(answer[at]), int(answer[at + 1]), *Attempts.parse(text(answer[at + 2]))[:2])
        for at in range(4, len(answer), 3)
    ]
    return Lag(room, text(answer[0]), answer[1], answer[2], int(answer[3] or 0), members)
