"""Who is online: a set of users a process in the store, mirrored in every process; told in rooms of at most 100 members.

A process writes its own set and publishes each change with the rooms that may hear it; the others keep copies, read again every
20 s. The set of a process killed with -9 expires within 60 s, and its users are told offline then.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection

from messaging import protocol
from messaging.errors import Unavailable
from messaging.store import Store

from .connection import Connection
from .hub import Hub

REFRESH_S = 20.0
LIFE_S = 60
AWAY_AFTER_S = 2.0  # a page that is loaded again was never away


class Presence:
    """The mirror, and this process's share of it."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self.store = store
        self.hub = hub
        self.process = secrets.token_hex(4)
        self._elsewhere: dict[str, set[int]] = {}
        self._here: dict[int, set[str]] = {}  # user -> the rooms that may hear of him
        self._leaving: dict[int, asyncio.Task[None]] = {}

    def online(self, user: int) -> bool:
        return user in self._here or any(user in users for users in self._elsewhere.values())

    def online_of(self, people: Collection[int]) -> list[int]:
        """Return who of `people` is online, ascending."""
        return sorted(user for user in people if self.online(user))

    def connections_elsewhere(self, user: int) -> bool:
        return any(user in users for users in self._elsewhere.values())

    async def enter(self, connection: Connection, rooms: set[str]) -> None:
        """Note a user's connection; the first one is told to the rooms, and later to each room that is new."""
        user = connection.user
        leaving = self._leaving.pop(user, None)
        if leaving is not None:
            leaving.cancel()
        known = self._here.get(user)
        new = rooms - (known or set())
        self._here[user] = (known or set()) | rooms
        if known is not None and not new:
            return
        if known is not None or not self.connections_elsewhere(user):
            self._tell(user, True, new)
        with contextlib.suppress(Unavailable):
            await self.store.presence.change(self.process, user, True, new)

    def leave(self, user: int) -> None:
        """Note that a connection went; the last one is told after a moment, unless another comes."""
        if user not in self._here or user in self._leaving or self.hub.by_user.get(user):
            return
        self._leaving[user] = asyncio.create_task(self._leave_later(user))

    async def _leave_later(self, user: int) -> None:
        await asyncio.sleep(AWAY_AFTER_S)
        self._leaving.pop(user, None)
        if self.hub.by_user.get(user):
            return
        rooms = self._here.pop(user, set())
        if not self.connections_elsewhere(user):
            self._tell(user, False, rooms)
        with contextlib.suppress(Unavailable):
            await self.store.presence.change(self.process, user, False, rooms)

    def on_change(self, payload: str) -> None:
        """Take another process's news: `<process> <user> <+|-> <room,room ...>`."""
        process, user_text, sign, rooms_text = payload.split(" ")
        if process == self.process:
            return
        user, rooms = int(user_text), set(rooms_text.split(",")) - {""}
        was = self.online(user)
        users = self._elsewhere.setdefault(process, set())
        joined = sign == "+" and user in users  # said again by the same process: of rooms that are new to him
        users.add(user) if sign == "+" else users.discard(user)
        if joined or was != self.online(user):
            self._tell(user, sign == "+", rooms)

    async def run(self) -> None:
        """Refresh this process's set and the mirror until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):
                await self._refresh()
            await asyncio.sleep(REFRESH_S)

    async def _refresh(self) -> None:
        await self.store.presence.report(self.process, list(self._here), LIFE_S)
        online = await self.store.presence.online()
        online.pop(self.process, None)
        before = set().union(*self._elsewhere.values()) if self._elsewhere else set()
        self._elsewhere = online
        after = set().union(*online.values()) if online else set()
        changed = before ^ after
        if not changed:
            return
        for room in self.hub.rooms.values():
            for user in changed & room.people:
                if user not in self._here:
                    self._tell(user, user in after, {room.key.id})

    def _tell(self, user: int, online: bool, rooms: Collection[str]) -> None:
        for room_id in rooms:
            room = self.hub.rooms.get(room_id)
            if room is None:
                continue
            frame = protocol.encode(protocol.Presence(room=room_id, user=user, online=online)).decode()
            for connection in room.feeds:
                if connection.user != user and connection.welcomed:
                    connection.push(frame)

    async def shutdown(self) -> None:
        """Take this process's set away, so that the others need not wait for it to expire."""
        for task in self._leaving.values():
            task.cancel()
        with contextlib.suppress(Unavailable):
            await self.store.presence.withdraw(self.process)
