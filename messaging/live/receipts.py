"""Tell senders who holds their messages: rows that changed, at most once a second, to all of a sender's connections.

The counts come from the store's cursors; only what was told last is kept, and only for senders who are connected here. Counted
again is what lies above the lowest cursor that moved, so an acknowledgement of the newest message costs one row, not 200; the whole
is counted when a sender connects and each minute, for a note of a move may be lost. A sender whose rows are all complete costs
nothing until he sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import defaultdict

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store import Store

from .connection import Connection
from .hub import Hub

ASKED_MOST = 200  # (room, sender) pairs counted in one round of a second
AT_ONCE = 10  # of these in one round trip: 200 in one held the store for 30 ms where everybody talks
TOLD_MOST = 200  # rows of a sender in a room: as many as the store counts
WHOLE_EVERY_S = 60.0

Row = tuple[int, int, int, int]  # seq, delivered, read, total


@dataclasses.dataclass(slots=True)
class Told:
    """What a sender knows of his messages in a room: {seq: row}, ascending, and when all of it was counted (monotonic)."""

    epoch: str
    rows: dict[int, Row]
    whole_at_s: float

    def take(self, rows: list[Row]) -> set[Row]:
        """Note rows; return those that are news."""
        news = {row for row in rows if self.rows.get(row[0]) != row}
        self.rows.update((row[0], row) for row in rows)
        for seq in list(self.rows)[:-TOLD_MOST]:
            del self.rows[seq]
        return news

    @property
    def complete(self) -> bool:
        newest_first = reversed(self.rows.values())  # the likeliest not to be
        return all(read == total for _, _, read, total in newest_first)


class Receipts:
    """What each local sender was told, and what has to be counted again."""

    def __init__(self, store: Store, hub: Hub, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.policy = policy
        self._told: dict[tuple[str, int], Told] = {}
        # (top, moves of cursors) when a sender connected: complete rows above that top, or counted after a move, are news.
        self._fresh: dict[tuple[str, int], tuple[int, int]] = {}
        self._again: set[tuple[str, int]] = (
            set()
        )  # one more connection is to be told what is not yet complete
        self._open: defaultdict[str, set[int]] = defaultdict(
            set
        )  # room -> senders with a row not yet complete
        self._due: dict[tuple[str, int], int] = {}  # above which seq rows may have changed
        hub.on_accepted = self.accepted

    def accepted(self, room: str, sender: int, after: int) -> None:
        """Note that a sender who is connected here has a new message above `after`."""
        self._open[room].add(sender)
        self._is_due((room, sender), after)

    def _is_due(self, name: tuple[str, int], above: int) -> None:
        self._due[name] = min(above, self._due.get(name, above))

    def connected(self, connection: Connection) -> None:
        """Tell a new connection, after its `resumed`, the rows that are not yet complete."""
        for room_id in connection.feeds:
            name = room_id, connection.user
            room = self.hub.rooms[room_id]
            if name in self._told:
                self._again.add(name)  # what changed is still news to his other connections
            self._fresh.setdefault(name, (room.top, room.cursors_moved))
            if room.top > 0:
                self._due[name] = 0

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
            for sender in senders:
                self._is_due((room_id, sender), room.moved_above)

    async def _tell_due(self) -> None:
        due = [name for name in self._due if name[0] in self.hub.rooms][:ASKED_MOST]
        if not due:
            self._due.clear()
            return
        due.sort()  # a room's senders together: its cursors are read once for them
        for at in range(0, len(due), AT_ONCE):
            await self._tell(due[at : at + AT_ONCE])

    async def _tell(self, names: list[tuple[str, int]]) -> None:
        # Some may have gone while those before them were counted.
        due = [name for name in names if name in self._due and name[0] in self.hub.rooms]
        asked = {name: self._above(name) for name in due}
        for name in due:  # before the store is asked: what is accepted meanwhile is due again
            del self._due[name]
        try:
            counted = await self.store.cursors.receipts(
                [(self.hub.rooms[room].key, user) for room, user in due], above=list(asked.values())
            )
        except Unavailable:
            for name, above in asked.items():
                self._is_due(name, above)
            raise
        for (name, above), (epoch, rows) in zip(asked.items(), counted, strict=True):
            self._tell_one(*name, epoch, rows, above)

    def _above(self, name: tuple[str, int]) -> int:
        """Return above which seq a sender's messages are counted: 0, all of them, where not all was told, or long ago."""
        told = self._told.get(name)
        if told is None or name in self._again or time.monotonic() - told.whole_at_s > WHOLE_EVERY_S:
            return 0
        return self._due[name]

    def _tell_one(self, room: str, user: int, epoch: str, rows: list[Row], above: int) -> None:
        if room not in self.hub.rooms or user not in self.hub.by_user:
            return  # the last connection went while the store was asked
        told = self._told.get((room, user))
        if told is not None and told.epoch != epoch:  # the log began anew: none of it was told
            del self._told[room, user]
            self._due[room, user] = 0
            return
        changed = self._first(room, user, rows) if told is None else told.take(rows)
        if told is None or not above:
            told = self._told[room, user] = Told(epoch, {row[0]: row for row in rows}, time.monotonic())
        if not told.complete:
            self._open[room].add(user)
        elif room in self._open:
            self._open[room].discard(user)
        if (
            not above and (room, user) in self._again
        ):  # who connected while a part was counted waits for the whole
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
