"""The online users of each process, and hints that a user is typing. Both may be lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .calls import Calls, text
from .members import MEMBER_BATCH
from .records import RoomKey

PRESENCE_CHANNEL = "chat:presence"


class Presence:
    """The sets of online users, one for each process, and publications that are not stored."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def publish_typing(self, room: RoomKey, user: int) -> None:
        """Publish that `user` is typing; nothing is stored."""
        await self._calls.scripts.pipeline([("PUBLISH", room.key, f"T {user}")])

    async def change(self, process: str, user: int, online: bool, rooms: Iterable[str]) -> None:
        """Record and publish that a user connected to a process or disconnected from it."""
        await self._calls.scripts.pipeline(
            [
                ("SADD" if online else "SREM", f"chat:online:{process}", user),
                ("PUBLISH", PRESENCE_CHANNEL, f"{process} {user} {'+' if online else '-'} {','.join(rooms)}"),
            ]
        )

    async def report(self, process: str, users: Sequence[int], life_s: int) -> None:
        """Write the online users of a process; the set is valid for `life_s`."""
        key = f"chat:online:{process}"
        until_ms = await self._calls.now_ms() + life_s * 1000
        commands: list[tuple[Any, ...]] = [("DEL", key)]
        commands += [
            ("SADD", key, *users[start : start + MEMBER_BATCH])
            for start in range(0, len(users), MEMBER_BATCH)
        ]
        commands += [("EXPIRE", key, life_s), ("ZADD", "chat:online", until_ms, process)]
        await self._calls.scripts.pipeline(commands)

    async def withdraw(self, process: str) -> None:
        """Remove the set of a process that ends."""
        await self._calls.scripts.pipeline(
            [("DEL", f"chat:online:{process}"), ("ZREM", "chat:online", process)]
        )

    async def online(self) -> dict[str, set[int]]:
        """Return {process: online users} of the processes whose set is valid."""
        now_ms = await self._calls.now_ms()
        _, processes = await self._calls.scripts.pipeline(
            [
                ("ZREMRANGEBYSCORE", "chat:online", "-inf", now_ms),
                ("ZRANGE", "chat:online", 0, -1),
            ]
        )
        sets = await self._calls.scripts.pipeline(
            [("SMEMBERS", f"chat:online:{text(name)}") for name in processes]
        )
        return {
            text(name): {int(user) for user in users} for name, users in zip(processes, sets, strict=True)
        }
