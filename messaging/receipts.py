"""Tell senders who holds their messages: rows that changed, at most once a second, to all of a sender's connections.

The counts come from the store's cursors each time; only what was told last is kept, and only for senders who are connected here.
A sender whose rows are all complete costs nothing until he sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

from . import protocol
from .connection import Connection
from .errors import Unavailable
from .hub import Hub
from .policy import Policy
from .store import Store

ASKED_MOST = 200  # (room, sender) pairs counted in one round of a second

Row = tuple[int, int, int, int]  # seq, delivered, read, total


class Receipts:
    """What each local sender was told, and what has to be counted again."""

    def __init__(self, store: Store, hub: Hub, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.policy = policy
        self._told: dict[tuple[str, int], set[Row]] = {}
        # (top, moves of cursors) when a sender connected: complete rows above that top, or counted after a move, are news.
        self._fresh: dict[tuple[str, int], tuple[int, int]] = {}
        self._again: set[tuple[str, int]] = (
            set()
        )  # one more connection is to be told what is not yet complete
        self._open: defaultdict[str, set[int]] = defaultdict(
            set
        )  # room -> senders with a row not yet complete
        self._due: dict[tuple[str, int], None] = {}
        hub.on_accepted = self.accepted

    def accepted(self, room: str, sender: int) -> None:
        """Note that a sender who is connected here has a new message."""
        self._open[room].add(sender)
        self._due[room, sender] = None

    def connected(self, connection: Connection) -> None:
        """Tell a new connection, after its `resumed`, the rows that are not yet complete."""
        for room_id in connection.feeds:
            name = room_id, connection.user
            room = self.hub.rooms[room_id]
            if name in self._told:
                self._again.add(name)  # what changed is still news to his other connections
            self._fresh.setdefault(name, (room.top, room.cursors_moved))
            if room.top > 0:
                self._due[name] = None

    def forget(self, user: int, rooms: set[str]) -> None:
        """Drop what is kept of a user who has no connection left here."""
        for room in rooms:
            self._told.pop((room, user), None)
            self._fresh.pop((room, user), None)
            self._again.discard((room, user))
            self._due.pop((room, user), None)
            self._open[room].discard(user)
            if not self._open[room]:
                del self._open[room]

    async def run(self) -> None:
        """Count once a second until cancelled."""
        while True:
            await asyncio.sleep(self.policy.receipt_interval_s)
            self._collect()
            with contextlib.suppress(Unavailable):
                await self._tell_due()

    def _collect(self) -> None:
        for room_id, senders in self._open.items():
            room = self.hub.rooms.get(room_id)
            if room is None or room.moves_counted == room.cursors_moved:
                continue
            room.moves_counted = room.cursors_moved
            self._due.update(dict.fromkeys((room_id, sender) for sender in senders))

    async def _tell_due(self) -> None:
        due = [name for name in self._due if name[0] in self.hub.rooms][:ASKED_MOST]
        if not due:
            self._due.clear()
            return
        for name in due:  # before the store is asked: what is accepted meanwhile is due again
            del self._due[name]
        try:
            counted = await self.store.receipts([(self.hub.rooms[room].key, user) for room, user in due])
        except Unavailable:
            self._due.update(dict.fromkeys(due))
            raise
        for (room, user), (epoch, rows) in zip(due, counted, strict=True):
            self._tell(room, user, epoch, rows)

    def _tell(self, room: str, user: int, epoch: str, rows: list[Row]) -> None:
        if room not in self.hub.rooms:
            return  # the last connection went while the store was asked
        told = self._told.get((room, user))
        self._told[room, user] = now = set(rows)
        if any(read < total for _, _, read, total in reversed(rows)):  # the newest are the likeliest
            self._open[room].add(user)
        elif room in self._open:
            self._open[room].discard(user)
        changed = now - told if told is not None else self._first(room, user, rows)
        if (room, user) in self._again:
            self._again.discard((room, user))
            changed |= {row for row in rows if row[2] < row[3]}
        if not changed:
            return
        frame = protocol.encode(protocol.Receipt(room=room, epoch=epoch, receipts=sorted(changed))).decode()
        for connection in self.hub.connections_of(user):
            if room in connection.feeds:
                connection.push(frame)

    def _first(self, room: str, user: int, rows: list[Row]) -> set[Row]:
        """Return what a sender is told at his first count: what is not complete, or became so since he connected."""
        top, moves = self._fresh.get((room, user), (0, 0))
        if self.hub.rooms[room].cursors_moved != moves:
            return set(rows)
        return {row for row in rows if row[0] > top or row[2] < row[3]}
