"""The store's calls, and its verbs on a room's log and members: what all other verbs stand on. A part of `store`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import redis.asyncio
from django.db import Error as DatabaseError

from messaging import policy as policies
from messaging.errors import MessagingError, Unavailable
from messaging.models import Membership

from .records import RoomKey, Standing
from .scripts import RETRY_AFTER_MS, Call, Scripts

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
        calls = [self._standing_call(room, [(user, epoch, since)]) for room, epoch, since in rooms]
        answers = await self.scripts.run(calls)
        found = [one for [one] in (_standings(answer, 1) for answer in answers)]
        for at, one in enumerate(found):
            if one is None:
                await self.join(rooms[at][0], [user])
                await self._leave_again(rooms[at][0], [user])
                [answer] = await self.scripts.run([calls[at]])
                [found[at]] = _standings(answer, 1)
        return checked(found)

    async def standings_for_many(
        self, asked: Sequence[tuple[RoomKey, Sequence[tuple[int, str, int]]]]
    ) -> list[list[Standing | Unavailable | None]]:
        """Do what `standings` does for many users (user, epoch, since) of a room.

        None for one for whom nothing was done: he must be asked for alone, by `standings`.
        """
        answers = await self.scripts.run([self._standing_call(room, users) for room, users in asked])
        return [_standings(answer, len(users)) for answer, (_, users) in zip(answers, asked, strict=True)]

    def _standing_call(self, room: RoomKey, users: Sequence[tuple[int, str, int]]) -> Call:
        most = self.policy.presence_members_max
        return "standing", (room.prefix, room.id, most, *chain(*users))

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


def _standings(answer: Any, users: int) -> list[Standing | Unavailable | None]:
    """Return where each of the users stands; None for one who is no member, or must be asked for alone."""
    if answer == NO_LOG:
        return [None] * users
    if isinstance(answer, Unavailable):
        return [answer] * users
    [(epoch, top, rev, members, people, rows)] = checked([answer])
    log = text(epoch), int(top), int(rev), int(members)
    known = frozenset(map(int, people))
    found: list[Standing | Unavailable | None] = []
    for row in rows:
        if isinstance(row, int):
            found.append(None)
        else:
            delivered, read, joined, unread = map(int, row)
            found.append(Standing(*log, delivered, read, joined, unread, known))
    return found
