"""The verbs on a room's log and its members."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from django.db import Error as DatabaseError

from messaging.errors import Unavailable
from messaging.models import Membership

from .calls import NO_LOG, Calls, checked, text
from .records import MemberPosition, RoomKey
from .scripts import RETRY_AFTER_MS, Call

MEMBER_BATCH = 1_000  # members in one call


async def members_in_database(room: str) -> list[int]:
    return [
        user
        async for user in Membership.objects.filter(room=room, leaving_at=None).values_list(
            "user_id", flat=True
        )
    ]


class Members:
    """Rooms and their members, as the store knows them."""

    def __init__(
        self, calls: Calls, members_of: Callable[[str], Awaitable[list[int]]] = members_in_database
    ) -> None:
        self._calls = calls
        self.members_of = members_of

    async def create_log(self, room: RoomKey) -> str:
        """Make the room's log with the database's members when it has none; return its epoch. Idempotent."""
        members = await self._members(room)
        epoch = await self._calls.run("create_log", room, secrets.token_hex(4), *members[:MEMBER_BATCH])
        for at in range(MEMBER_BATCH, len(members), MEMBER_BATCH):
            await self._calls.run("join", room, *members[at : at + MEMBER_BATCH])
        await self._leave_again(room, members)
        return text(epoch)

    async def _members(self, room: RoomKey) -> list[int]:
        try:
            return await self.members_of(room.id)
        except DatabaseError as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault

    async def _leave_again(self, room: RoomKey, joined: Iterable[int]) -> None:
        """End the memberships of those who left the database while they were joined from it: their own leave came too soon."""
        for user in set(joined) - set(await self._members(room)):
            await self.leave(room, user)

    async def join(self, room: RoomKey, users: Iterable[int]) -> None:
        """Make `users` members; the room's log is made when it is missing. Idempotent."""
        members = list(users)
        for at in range(0, len(members), MEMBER_BATCH):
            await self.run_in_log("join", room, *members[at : at + MEMBER_BATCH])

    async def leave(self, room: RoomKey, user: int) -> None:
        """End a membership and keep what the leaver owed for the report. Idempotent."""
        await self._calls.run("leave", room, user)

    async def member_positions(
        self, user: int, rooms: Sequence[tuple[RoomKey, str, int]]
    ) -> list[MemberPosition | None]:
        """Say where a user stands in rooms, each (room, epoch, since), in one round trip; None where he is no member any more.

        A `since` of the room's epoch above the cursor counts as an ack. A room that has no log gets one; a member that the
        log does not know joins it: that is where a crash between database and store is repaired.
        """
        calls = [self._standing_call(room, [(user, epoch, since)]) for room, epoch, since in rooms]
        answers = await self._calls.scripts.run(calls)
        found = [one for [one] in (_standings(answer, 1) for answer in answers)]
        for at, one in enumerate(found):
            if one is None:
                await self.join(rooms[at][0], [user])
                await self._leave_again(rooms[at][0], [user])
                [answer] = await self._calls.scripts.run([calls[at]])
                [found[at]] = _standings(answer, 1)
        return checked(found)

    async def member_positions_for_many(
        self, asked: Sequence[tuple[RoomKey, Sequence[tuple[int, str, int]]]]
    ) -> list[list[MemberPosition | Unavailable | None]]:
        """Do what `member_positions` does for many users (user, epoch, since) of a room.

        None for one for whom nothing was done: he must be asked for alone, by `member_positions`.
        """
        answers = await self._calls.scripts.run([self._standing_call(room, users) for room, users in asked])
        return [_standings(answer, len(users)) for answer, (_, users) in zip(answers, asked, strict=True)]

    def _standing_call(self, room: RoomKey, users: Sequence[tuple[int, str, int]]) -> Call:
        max_for_presence = self._calls.policy.presence_members_max
        return "member_positions", (room.prefix, room.id, max_for_presence, *chain(*users))

    async def run_in_log(self, script: str, room: RoomKey, *args: Any) -> Any:
        """Run a script that needs the room's log; make the log when it is missing and run it again."""
        answer = await self._calls.run(script, room, *args)
        if answer != NO_LOG:
            return answer
        await self.create_log(room)
        return await self._calls.run(script, room, *args)


def _standings(answer: Any, users: int) -> list[MemberPosition | Unavailable | None]:
    """Return where each of the users stands; None for one who is no member, or must be asked for alone."""
    if answer == NO_LOG:
        return [None] * users
    if isinstance(answer, Unavailable):
        return [answer] * users
    [(epoch, top, rev, members, people, rows)] = checked([answer])
    log = text(epoch), int(top), int(rev), int(members)
    known = frozenset(map(int, people))
    found: list[MemberPosition | Unavailable | None] = []
    for row in rows:
        if isinstance(row, int):
            found.append(None)
        else:
            delivered, read, joined, unread = map(int, row)
            found.append(MemberPosition(*log, delivered, read, joined, unread, known))
    return found
