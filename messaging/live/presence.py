"""Presence: the users who are online, shown in rooms of at most 100 members.

Every process writes the set of its online users to the store, and publishes each change with the rooms in which it may be shown. The
other processes keep copies of the set and read it again every 20 s. The set of a killed process expires within 60 s; then its users
are offline.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection

from messaging import protocol
from messaging.errors import BacklogFull, Unavailable
from messaging.store import Store

from .connection import Connection
from .registry import Registry

REFRESH_INTERVAL_S = 20.0
SET_LIFE_S = 60
ROOM_BATCH = 200  # rooms in which a change is reported in one turn of the event loop
OFFLINE_DELAY_S = 2.0  # a user who reloads the page stays online
LOST = (
    Unavailable,
    BacklogFull,
)  # presence is a hint: without it, users only seem to be offline to other processes


class Presence:
    """The users who are online in this process, and copies of the sets of other processes."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.process = secrets.token_hex(4)
        self._elsewhere: dict[str, set[int]] = {}  # other process -> its online users
        self._here: dict[int, set[str]] = {}  # user -> the rooms in which they may be shown
        self._leaving: dict[int, asyncio.Task[None]] = {}  # user -> the task that will report them offline

    @property
    def processes(self) -> int:
        """The number of server processes of the site, as last heard."""
        return len(self._elsewhere) + 1

    def online(self, user: int) -> bool:
        return user in self._here or any(user in users for users in self._elsewhere.values())

    def online_of(self, people: Collection[int]) -> list[int]:
        """Return those of `people` who are online, ascending."""
        return sorted(user for user in people if self.online(user))

    def connections_elsewhere(self, user: int) -> bool:
        return any(user in users for users in self._elsewhere.values())

    async def enter(self, connection: Connection, rooms: set[str]) -> None:
        """Record a user's connection. The first one is reported to the rooms; a later one only to rooms that are new."""
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
            self._send_change(user, True, new)
        with contextlib.suppress(*LOST):
            await self.store.presence.change(self.process, user, True, new)

    def leave(self, user: int) -> None:
        """Record the end of a connection. The end of the last one is reported after a moment, unless another one opens."""
        if user not in self._here or user in self._leaving or self.registry.by_user.get(user):
            return
        self._leaving[user] = asyncio.create_task(self._leave_later(user))

    async def _leave_later(self, user: int) -> None:
        await asyncio.sleep(OFFLINE_DELAY_S)
        self._leaving.pop(user, None)
        if self.registry.by_user.get(user):
            return
        rooms = self._here.pop(user, set())
        if not self.connections_elsewhere(user):
            self._send_change(user, False, rooms)
        with contextlib.suppress(*LOST):
            await self.store.presence.change(self.process, user, False, rooms)

    def on_change(self, payload: str) -> None:
        """Handle a change that a process published: `<process> <user> <+|-> <room,room,...>`."""
        process, user_text, sign, rooms_text = payload.split(" ")
        if process == self.process:
            return
        user, rooms = int(user_text), set(rooms_text.split(",")) - {""}
        online, was_online = sign == "+", self.online(user)
        users = self._elsewhere.setdefault(process, set())
        has_new_rooms = online and user in users  # then the same process publishes the user's new rooms
        users.add(user) if online else users.discard(user)
        if has_new_rooms or was_online != self.online(user):
            self._send_change(user, online, rooms)

    async def run(self) -> None:
        """Refresh this process's set and the copies of the others until cancelled."""
        while True:
            with contextlib.suppress(*LOST):
                await self._refresh()
            await asyncio.sleep(REFRESH_INTERVAL_S)

    async def _refresh(self) -> None:
        await self.store.presence.report(self.process, list(self._here), SET_LIFE_S)
        online = await self.store.presence.online()
        online.pop(self.process, None)
        before = set().union(*self._elsewhere.values())
        self._elsewhere = online
        after = set().union(*online.values())
        changed = before ^ after
        if not changed:
            return
        for room in self.registry.rooms.values():
            for user in changed & room.people:
                if user not in self._here:
                    self._send_change(user, user in after, {room.key.id})

    def _send_change(self, user: int, online: bool, rooms: Collection[str]) -> None:
        """Report a change to the connections in rooms, in a turn of the event loop for each batch of rooms."""
        remaining = list(rooms)
        if len(remaining) > ROOM_BATCH:
            asyncio.get_running_loop().call_soon(self._send_rest, user, online, remaining[ROOM_BATCH:])
        for room_id in remaining[:ROOM_BATCH]:
            room = self.registry.rooms.get(room_id)
            others = [connection for connection in room.feeds if connection.user != user] if room else []
            if not others:
                continue
            frame = protocol.encode(protocol.Presence(room=room_id, user=user, online=online)).decode()
            for connection in others:
                connection.push_after_welcome(frame)

    def _send_rest(self, user: int, online: bool, rooms: Collection[str]) -> None:
        if self.online(user) == online:  # otherwise the opposite is being reported
            self._send_change(user, online, rooms)

    async def shutdown(self) -> None:
        """Delete this process's set, so that its users are not shown as online until it expires."""
        for task in self._leaving.values():
            task.cancel()
        with contextlib.suppress(*LOST):
            await self.store.presence.withdraw(self.process)
