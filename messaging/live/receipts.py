"""Receipts: tell senders how many members hold their messages. Changed rows, at most once a second, to all of their connections.

The counts come from the store's cursors. Only the rows told last are kept, and only for senders who are connected here. Rows above
the lowest cursor that moved are counted again, so an acknowledgement of the newest message costs one row, not 200. All rows are
counted when a sender connects and every minute, because a publication of a move may be lost. A sender whose rows are all complete
costs nothing until their next message.
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
from .registry import Registry

MAX_DUE = 200  # (room, sender) pairs counted in one second
COUNT_BATCH = 10  # of these in one round trip: 200 held the store for 30 ms when every member was sending
MAX_ROWS = 200  # of a sender in a room: as many as the store counts
COUNT_ALL_INTERVAL_S = 60.0

Row = tuple[int, int, int, int]  # seq, delivered, read, total
Key = tuple[str, int]  # room, sender


@dataclasses.dataclass(slots=True)
class ToldRows:
    """The rows that a sender was told in a room: {seq: row}, ascending, and when all were counted (monotonic)."""

    epoch: str
    rows: dict[int, Row]
    counted_all_s: float

    def take(self, rows: list[Row]) -> set[Row]:
        """Note rows; return the changed ones."""
        changed = {row for row in rows if self.rows.get(row[0]) != row}
        self.rows.update((row[0], row) for row in rows)
        for seq in list(self.rows)[:-MAX_ROWS]:
            del self.rows[seq]
        return changed

    @property
    def complete(self) -> bool:
        newest_first = reversed(self.rows.values())  # the newest are the least likely to be
        return all(read == total for _, _, read, total in newest_first)


@dataclasses.dataclass(slots=True)
class Moves:
    """Moves of a room's cursors, as this process received them."""

    count: int = 0
    counted: int = 0  # of these, how many the receipts know
    above: int = 0  # none of the others moved from below this seq


class Receipts:
    """The rows told to each local sender, and those that must be counted again."""

    def __init__(self, store: Store, registry: Registry, policy: Policy) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self._told: dict[Key, ToldRows] = {}
        # (top, moves) when a sender connected: complete rows above that top, or counted after another move, are news.
        self._connected: dict[Key, tuple[int, int]] = {}
        self._repeat: set[Key] = set()  # one more connection must be told the rows that are not yet complete
        self._open: defaultdict[str, set[int]] = defaultdict(set)  # room -> senders with an incomplete row
        self._due: dict[Key, int] = {}  # -> the seq above which rows may have changed
        self._moves: dict[str, Moves] = {}  # by room

    def accepted(self, room: str, sender: int, after: int) -> None:
        """Note that a sender who is connected here has a new message above `after`."""
        self._open[room].add(sender)
        self._is_due((room, sender), after)

    def cursors_moved(self, room: str, above: int) -> None:
        """Note that cursors of a room moved, none of them from below `above`."""
        moves = self._moves.get(room)
        if moves is None:
            moves = self._moves[room] = Moves()
        moves.above = above if moves.counted == moves.count else min(moves.above, above)
        moves.count += 1

    def _is_due(self, key: Key, above: int) -> None:
        self._due[key] = min(above, self._due.get(key, above))

    def _move_count(self, room: str) -> int:
        moves = self._moves.get(room)
        return moves.count if moves else 0

    def connected(self, connection: Connection) -> None:
        """Tell a new connection, after its `resumed`, the rows that are not yet complete."""
        for room_id in connection.feeds:
            key = room_id, connection.user
            room = self.registry.rooms[room_id]
            if key in self._told:
                self._repeat.add(key)  # the sender's other connections still get changes only
            self._connected.setdefault(key, (room.top, self._move_count(room_id)))
            if room.top > 0:
                self._due[key] = 0

    def forget(self, user: int, rooms: set[str]) -> None:
        """Drop what is kept of a user who has no connection left here."""
        for room in rooms:
            self._told.pop((room, user), None)
            self._connected.pop((room, user), None)
            self._repeat.discard((room, user))
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
        """Make the senders of rooms whose cursors moved due; drop the moves of rooms that are not here any more."""
        if len(self._moves) > len(self.registry.rooms):
            self._moves = {room: moves for room, moves in self._moves.items() if room in self.registry.rooms}
        for room_id, senders in self._open.items():
            moves = self._moves.get(room_id)
            if moves is None or moves.counted == moves.count or room_id not in self.registry.rooms:
                continue
            moves.counted = moves.count
            for sender in senders:
                self._is_due((room_id, sender), moves.above)

    async def _tell_due(self) -> None:
        due = [key for key in self._due if key[0] in self.registry.rooms][:MAX_DUE]
        if not due:
            self._due.clear()
            return
        due.sort()  # a room's senders together: its cursors are read once for them
        for start in range(0, len(due), COUNT_BATCH):
            await self._tell(due[start : start + COUNT_BATCH])

    async def _tell(self, keys: list[Key]) -> None:
        # Some may have left while those before them were counted.
        due = [key for key in keys if key in self._due and key[0] in self.registry.rooms]
        requests = {key: self._above(key) for key in due}
        for key in due:  # before the store is asked: a message accepted in the meantime is due again
            del self._due[key]
        try:
            counted = await self.store.cursors.receipts(
                [(self.registry.rooms[room].key, user) for room, user in due], above=list(requests.values())
            )
        except Unavailable:
            for key, above in requests.items():
                self._is_due(key, above)
            raise
        for (key, above), (epoch, rows) in zip(requests.items(), counted, strict=True):
            self._tell_one(*key, epoch, rows, above)

    def _above(self, key: Key) -> int:
        """Return the seq above which a sender's messages are counted: 0, for all, where not all were told, or long ago."""
        told = self._told.get(key)
        if (
            told is None
            or key in self._repeat
            or time.monotonic() - told.counted_all_s > COUNT_ALL_INTERVAL_S
        ):
            return 0
        return self._due[key]

    def _tell_one(self, room: str, user: int, epoch: str, rows: list[Row], above: int) -> None:
        key = room, user
        if room not in self.registry.rooms or user not in self.registry.by_user:
            return  # the last connection left while the store was asked
        told = self._told.get(key)
        if told is not None and told.epoch != epoch:  # another life of the log: none of it was told
            del self._told[key]
            self._due[key] = 0
            return
        changed = self._first(key, rows) if told is None else told.take(rows)
        if told is None or not above:
            told = self._told[key] = ToldRows(epoch, {row[0]: row for row in rows}, time.monotonic())
        if not told.complete:
            self._open[room].add(user)
        elif room in self._open:
            self._open[room].discard(user)
        if not above and key in self._repeat:  # a connection that came while a part was counted waits for all
            self._repeat.discard(key)
            changed |= {row for row in rows if row[2] < row[3]}
        if not changed:
            return
        frame = protocol.encode(protocol.Receipt(room=room, epoch=epoch, receipts=sorted(changed))).decode()
        for connection in self.registry.connections_of(user):
            if room in connection.feeds:
                connection.writer.push(frame)

    def _first(self, key: Key, rows: list[Row]) -> set[Row]:
        """Return what a sender is told at the first count: rows that are incomplete, or became complete since they connected."""
        top, moves = self._connected.get(key, (0, 0))
        if self._move_count(key[0]) != moves:
            return set(rows)
        return {row for row in rows if row[0] > top or row[2] < row[3]}
