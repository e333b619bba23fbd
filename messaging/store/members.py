"""The operations on a room's log and its members."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from django.db import Error as DatabaseError

from messaging.errors import Unavailable
from messaging.models import Membership

from .calls import NO_LOG, Calls, checked, text
from .records import Held, MemberPosition, RoomKey, late_args
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
    """Rooms and their members in the store."""

    def __init__(
        self, calls: Calls, members_of: Callable[[str], Awaitable[list[int]]] = members_in_database
    ) -> None:
        self._calls = calls
        self.members_of = members_of

    async def create_log(self, room: RoomKey) -> str:
        """Create the room's log, with the members from the database, if it has none; return its epoch. Idempotent."""
        members = await self._members(room)
        epoch = await self._calls.run("create_log", room, secrets.token_hex(4), *members[:MEMBER_BATCH])
        for start in range(MEMBER_BATCH, len(members), MEMBER_BATCH):
            await self._calls.run("join", room, *members[start : start + MEMBER_BATCH])
        await self._leave_again(room, members)
        return text(epoch)

    async def _members(self, room: RoomKey) -> list[int]:
        try:
            return await self.members_of(room.id)
        except DatabaseError as fault:
            raise Unavailable(retry_after_ms=RETRY_AFTER_MS) from fault

    async def _leave_again(self, room: RoomKey, joined: Iterable[int]) -> None:
        """Remove users whose membership ended in the database during the join: for them, `leave` may have run before `join`."""
        for user in set(joined) - set(await self._members(room)):
            await self.leave(room, user)

    async def join(self, room: RoomKey, users: Iterable[int]) -> None:
        """Make `users` members; create the room's log if it is missing. Idempotent."""
        members = list(users)
        for start in range(0, len(members), MEMBER_BATCH):
            await self.run_in_log("join", room, *members[start : start + MEMBER_BATCH])

    async def leave(self, room: RoomKey, user: int) -> None:
        """End a membership. If the user owes messages, keep their cursor for the reports. Idempotent."""
        await self._calls.run("leave", room, user)

    async def members_of_rooms(self, rooms: Sequence[RoomKey]) -> list[set[int]]:
        """Read the members of many rooms in one round trip."""
        answers = await self._calls.scripts.pipeline(
            [("ZRANGE", f"{room.key}:joined", 0, -1) for room in rooms]
        )
        return [set(map(int, users)) for users in answers]

    async def forget(self, room: RoomKey, users: Collection[int]) -> None:
        """Remove members who no longer exist, with everything that they owe. Idempotent."""
        if not users:
            return
        parts = [("ZREM", f"{room.key}:{part}", *users) for part in ("joined", "delivered", "read")]
        await self._calls.scripts.pipeline(
            [*parts, ("HDEL", f"{room.key}:attempts", *users), ("HINCRBY", room.key, "members", 1)]
        )

    async def member_positions(
        self, user: int, rooms: Sequence[tuple[RoomKey, Held]]
    ) -> list[MemberPosition | None]:
        """Read the positions of a user in rooms. None for a room of which they are no longer a member.

        One round trip, unless something is missing: a room without a log gets a log, and a member who is not in the log joins it.
        This completes a join that a crash interrupted between the writes to the database and to the store. If the client holds the
        room's epoch, and `since` is above the user's cursor and not above the top, `since` counts as an acknowledgement.
        """
        calls = [self._positions_call(room, [(user, held)]) for room, held in rooms]
        answers = await self._calls.scripts.run(calls)
        positions = [position for [position] in (_positions(answer, 1) for answer in answers)]
        for i, position in enumerate(positions):
            if position is None:
                await self.join(rooms[i][0], [user])
                await self._leave_again(rooms[i][0], [user])
                [answer] = await self._calls.scripts.run([calls[i]])
                [positions[i]] = _positions(answer, 1)
        return checked(positions)

    async def member_positions_for_many(
        self, requests: Sequence[tuple[RoomKey, Sequence[tuple[int, Held]]]]
    ) -> list[list[MemberPosition | Unavailable | None]]:
        """Read the positions of many users in rooms: [(room, [(user, held), ...]), ...].

        None for a user who is not a member or needs a separate `member_positions`; Unavailable if the call for the room failed.
        """
        answers = await self._calls.scripts.run(
            [self._positions_call(room, users) for room, users in requests]
        )
        return [_positions(answer, len(users)) for answer, (_, users) in zip(answers, requests, strict=True)]

    def _positions_call(self, room: RoomKey, users: Sequence[tuple[int, Held]]) -> Call:
        fields = ((user, held.epoch, held.since, *late_args(held.late, held.judged)) for user, held in users)
        max_for_presence, lease_ms = self._calls.policy.presence_members_max, self._calls.lease_ms
        return "member_positions", (room.prefix, room.id, max_for_presence, lease_ms, *chain(*fields))

    async def run_in_log(self, script: str, room: RoomKey, *args: Any) -> Any:
        """Run a script that needs the room's log; if there is none, create it and run the script again."""
        answer = await self._calls.run(script, room, *args)
        if answer != NO_LOG:
            return answer
        await self.create_log(room)
        return await self._calls.run(script, room, *args)


def _positions(answer: Any, users: int) -> list[MemberPosition | Unavailable | None]:
    """Return the position of each user; None for a user who is not a member or needs a separate call. Unavailable stands for itself."""
    if answer == NO_LOG:
        return [None] * users
    if isinstance(answer, Unavailable):
        return [answer] * users
    [(epoch, top, rev, members, people, rows, in_doubt)] = checked([answer])
    log = text(epoch), int(top), int(rev), int(members)
    known = frozenset(map(int, people))
    positions: list[MemberPosition | Unavailable | None] = []
    for row in rows:
        if isinstance(row, int):
            positions.append(None)
        else:
            delivered, read, joined, unread = map(int, row)
            positions.append(MemberPosition(*log, delivered, read, joined, unread, known, bool(in_doubt)))
    return positions
