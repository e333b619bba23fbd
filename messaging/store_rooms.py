"""The store's calls, and its verbs on a room's log and members: what all other verbs stand on. A part of `store`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import redis.asyncio
from django.db import Error as DatabaseError

from . import policy as policies
from .errors import MessagingError, Unavailable
from .models import Membership
from .records import RoomKey, Standing
from .scripts import RETRY_AFTER_MS, Scripts

NO_LOG, NOT_MEMBER, ASK_ALONE = -1, -2, -3  # what a script answers
INIT_MOST = 1_000  # members in one call
ATTEMPTS_MOST = 100  # in a row of `outcome`: the rows of a member are found by trying each


async def _members_in_database(room: str) -> list[int]:
    return [
        user
        async for user in Membership.objects.filter(room=room, leaving_at=None).values_list(
            "user_id", flat=True
        )
    ]


class Rooms:
    """Rooms and members. Every verb raises `Unavailable` when the store cannot be reached or does not answer in time."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        policy: policies.Policy,
        *,
        members_of: Callable[[str], Awaitable[list[int]]] = _members_in_database,
    ) -> None:
        self.client = client
        self.policy = policy
        self.scripts = Scripts(client, deadline_s=policy.verb_deadline_s * 0.95)
        # A script touches one slot there; elsewhere one call for all partitions costs a third less than one for each.
        self.cluster = isinstance(client, redis.asyncio.RedisCluster)
        self._members_of = members_of

    @property
    def life(self) -> str:
        """The server's run_id, once a script has run."""
        return self.scripts.life

    # A room and its members

    async def init(self, room: RoomKey) -> str:
        """Make the room's log with the database's members when it has none; return its epoch. Idempotent."""
        members = await self._members(room)
        epoch = await self._run("init", room, secrets.token_hex(4), *members[:INIT_MOST])
        for at in range(INIT_MOST, len(members), INIT_MOST):
            await self._run("join", room, *members[at : at + INIT_MOST])
        await self._leave_again(room, members)
        return text(epoch)

    async def _members(self, room: RoomKey) -> list[int]:
        try:
            return await self._members_of(room.id)
        except DatabaseError as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault

    async def _leave_again(self, room: RoomKey, joined: Iterable[int]) -> None:
        """End the memberships of those who left the database while they were joined from it: their own leave came too soon."""
        for user in set(joined) - set(await self._members(room)):
            await self.leave(room, user)

    async def join(self, room: RoomKey, users: Iterable[int]) -> None:
        """Make `users` members; the room's log is made when it is missing. Idempotent."""
        members = list(users)
        for at in range(0, len(members), INIT_MOST):
            await self._in_log("join", room, *members[at : at + INIT_MOST])

    async def leave(self, room: RoomKey, user: int) -> None:
        """End a membership and keep what the leaver owed for the report. Idempotent."""
        await self._run("leave", room, user)

    async def standings(self, user: int, rooms: Sequence[tuple[RoomKey, str, int]]) -> list[Standing | None]:
        """Say where a user stands in rooms, each (room, epoch, since), in one round trip; None where he is no member any more.

        A `since` of the room's epoch above the cursor counts as an ack. A room that has no log gets one; a member that the
        log does not know joins it: that is where a crash between database and store is repaired.
        """
        asked = [(room, [(user, epoch, since)]) for room, epoch, since in rooms]
        return checked([standing for [standing] in await self.standings_for_many(asked)])

    async def standings_for_many(
        self, asked: Sequence[tuple[RoomKey, Sequence[tuple[int, str, int]]]]
    ) -> list[list[Standing | Unavailable | None]]:
        """Do what `standings` does for many users (user, epoch, since) in each room; `Unavailable` stands in its place."""
        found = await self._stand(asked)
        for (room, users), rows in zip(asked, found, strict=True):
            if unknown := [user for (user, *_), row in zip(users, rows, strict=True) if row == NOT_MEMBER]:
                await self.join(room, unknown)
                await self._leave_again(room, unknown)
        again = [(i, j) for i, rows in enumerate(found) for j, row in enumerate(rows) if isinstance(row, int)]
        if again:
            others = await self._stand([(asked[i][0], [asked[i][1][j]]) for i, j in again])
            for (i, j), [other] in zip(again, others, strict=True):
                found[i][j] = other
        return [[None if isinstance(row, int) else row for row in rows] for rows in found]

    async def _stand(
        self, asked: Sequence[tuple[RoomKey, Sequence[tuple[int, str, int]]]]
    ) -> list[list[Standing | Unavailable | int]]:
        """Ask once; a number is `NOT_MEMBER` or `ASK_ALONE`."""
        most = self.policy.presence_members_max
        calls = [("standing", (room.prefix, room.id, most, *chain(*users))) for room, users in asked]
        answers = await self.scripts.run(calls)
        return [_standings(answer, len(users)) for answer, (_, users) in zip(answers, asked, strict=True)]

    # Calls

    async def now_ms(self) -> int:
        """Return the store's clock in epoch ms."""
        [(seconds, microseconds)] = await self.scripts.pipeline([("TIME",)])
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def ping(self) -> None:
        """Raise `Unavailable` unless the store answers; afterwards `life` is known."""
        await self.scripts.pipeline([("PING",)])
        await self.scripts.known()

    @property
    def attempts_most(self) -> int:
        return min(self.policy.attempts_max, ATTEMPTS_MOST)

    async def _in_log(self, script: str, room: RoomKey, *args: Any) -> Any:
        """Run a script that needs the room's log; make the log when it is missing and run it again."""
        answer = await self._run(script, room, *args)
        if answer != NO_LOG:
            return answer
        await self.init(room)
        return await self._run(script, room, *args)

    async def _run(self, script: str, room: RoomKey, *args: Any) -> Any:
        [answer] = checked(await self.scripts.run([(script, (room.prefix, room.id, *args))]))
        return answer


def checked(answers: list[Any]) -> list[Any]:
    """Return the answers; raise the first that is an error."""
    for answer in answers:
        if isinstance(answer, MessagingError):
            raise answer
    return answers


def text(value: bytes | str, *, errors: str = "strict") -> str:
    """Return what the store says as text."""
    return value.decode(errors=errors) if isinstance(value, bytes) else value


def _standings(answer: Any, users: int) -> list[Standing | Unavailable | int]:
    if answer == NO_LOG:
        return [NOT_MEMBER] * users
    if isinstance(answer, Unavailable):
        return [answer] * users
    [(epoch, top, rev, members, people, rows)] = checked([answer])
    known = frozenset(map(int, people))
    standings: list[Standing | Unavailable | int] = []
    for row in rows:
        if isinstance(row, int):
            standings.append(row)
            continue
        delivered, read, joined, unread = map(int, row)
        standings.append(
            Standing(text(epoch), int(top), int(rev), int(members), delivered, read, joined, unread, known)
        )
    return standings
