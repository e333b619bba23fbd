"""Receipts: inform each sender how many members have received and read each of their messages.

A row has these counts of one message. The store counts rows from its cursors. Changed rows are sent at most once a second, to all
connections of the sender. This process keeps the newest version of each row, only for senders with a connection to it. Only rows above the
lowest cursor that moved are counted again: an acknowledgement of the newest message costs one row, not 200. All rows are counted when a
sender connects. They are counted again at the first count that is due more than a minute later, because a publication may be lost. A sender
whose rows are all complete costs nothing until their next message.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterable

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store import Store

from .connection import Connection
from .registry import Registry

MAX_DUE = 200  # (room, sender) pairs counted in one second
COUNT_BATCH = 10  # pairs in one round trip: 200 occupied the store for 30 ms when every member was sending
MAX_ROWS = 200  # rows of a sender in a room: as many as the store counts
COUNT_ALL_INTERVAL_S = 60.0

Row = tuple[int, int, int, int]  # seq, delivered, read, total
Key = tuple[str, int]  # room, sender


@dataclasses.dataclass(slots=True)
class SentRows:
    """The rows of a room as last counted for a sender: {seq: row}, ascending, and the time when all were counted (monotonic)."""

    epoch: str
    rows: dict[int, Row]
    counted_all_s: float

    def update(self, rows: list[Row]) -> set[Row]:
        """Record counted rows; return the changed ones."""
        changed = {row for row in rows if self.rows.get(row[0]) != row}
        self.rows.update((row[0], row) for row in rows)
        for seq in list(self.rows)[:-MAX_ROWS]:
            del self.rows[seq]
        return changed

    @property
    def complete(self) -> bool:
        newest_first = reversed(self.rows.values())  # the newest are the least likely to be complete
        return all(read == total for _, _, read, total in newest_first)


@dataclasses.dataclass(slots=True)
class Moves:
    """The moves of a room's cursors that this process has received."""

    count: int = 0
    counted: int = 0  # the value of `count` when the rows were last made due
    above: int = 0  # the lowest seq from which a cursor has moved since then


class Receipts:
    """The rows sent to each connected sender, and the rows that must be counted again."""

    def __init__(self, store: Store, registry: Registry, policy: Policy) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self._sent_rows: dict[Key, SentRows] = {}
        # (top, moves) when a sender connected. The first count sends a complete row only if it is above that top or a cursor has moved since.
        self._connected: dict[Key, tuple[int, int]] = {}
        self._repeat: set[Key] = set()  # a further connection needs the rows that are not yet complete
        self._open: defaultdict[str, set[int]] = defaultdict(set)  # room -> senders with an incomplete row
        self._due: dict[Key, int] = {}  # the seq above which rows may have changed
        self._moves: dict[str, Moves] = {}  # by room

    def accepted(self, room: str, sender: int, after: int) -> None:
        """Record that a sender with a connection here has new messages above seq `after`."""
        self._open[room].add(sender)
        self._mark_due((room, sender), after)

    def cursors_moved(self, room: str, above: int) -> None:
        """Record that cursors of a room moved, each of them from seq `above` or higher."""
        moves = self._moves.get(room)
        if moves is None:
            moves = self._moves[room] = Moves()
        moves.above = above if moves.counted == moves.count else min(moves.above, above)
        moves.count += 1

    def _mark_due(self, key: Key, above: int) -> None:
        self._due[key] = min(above, self._due.get(key, above))

    def _move_count(self, room: str) -> int:
        moves = self._moves.get(room)
        return moves.count if moves else 0

    def resumed(self, connection: Connection, rooms: Iterable[str]) -> None:
        """Make all rows of rooms due for a new connection, after their `resumed` were sent."""
        for room_id in rooms:
            if room_id not in connection.feeds:
                continue
            key = room_id, connection.user
            room = self.registry.rooms[room_id]
            if key in self._sent_rows:
                self._repeat.add(key)
            self._connected.setdefault(key, (room.top, self._move_count(room_id)))
            if room.top > 0:
                self._due[key] = 0

    def forget(self, user: int, rooms: set[str]) -> None:
        """Delete the rows of a user without connections here."""
        for room in rooms:
            key = room, user
            self._sent_rows.pop(key, None)
            self._connected.pop(key, None)
            self._repeat.discard(key)
            self._due.pop(key, None)
            senders = self._open.get(room)
            if senders is not None:
                senders.discard(user)
                if not senders:
                    del self._open[room]

    async def run(self) -> None:
        """Count once a second until cancelled."""
        while True:
            await asyncio.sleep(self.policy.receipt_interval_s)
            self._collect()
            with contextlib.suppress(Unavailable):
                await self._send_due()

    def _collect(self) -> None:
        """Make senders with incomplete rows due in rooms whose cursors moved. Delete the moves of rooms that are no longer in this process."""
        if len(self._moves) > len(self.registry.rooms):
            self._moves = {room: moves for room, moves in self._moves.items() if room in self.registry.rooms}
        for room_id, senders in self._open.items():
            moves = self._moves.get(room_id)
            if moves is None or moves.counted == moves.count or room_id not in self.registry.rooms:
                continue
            moves.counted = moves.count
            for sender in senders:
                self._mark_due((room_id, sender), moves.above)

    async def _send_due(self) -> None:
        due = [key for key in self._due if key[0] in self.registry.rooms][:MAX_DUE]
        if not due:
            self._due.clear()
            return
        due.sort()  # the senders of a room are adjacent: its cursors are read once for all of them
        for start in range(0, len(due), COUNT_BATCH):
            await self._count_and_send(due[start : start + COUNT_BATCH])

    async def _count_and_send(self, keys: list[Key]) -> None:
        # Senders may have left while the batches before them were counted.
        due = [key for key in keys if key in self._due and key[0] in self.registry.rooms]
        requests = {key: self._above(key) for key in due}
        # Before the call of the store: a message that is accepted in the meantime makes the key due again.
        for key in due:
            del self._due[key]
        try:
            counted = await self.store.cursors.receipts(
                [(self.registry.rooms[room].key, user) for room, user in due], above=list(requests.values())
            )
        except Unavailable:
            for key, above in requests.items():
                self._mark_due(key, above)
            raise
        for (key, above), (epoch, rows) in zip(requests.items(), counted, strict=True):
            self._send(*key, epoch, rows, above)

    def _above(self, key: Key) -> int:
        """Return the seq above which a sender's rows are counted.

        It is 0 (all) if none were sent, if another connection opened, or if all were last counted more than a minute ago.
        """
        sent = self._sent_rows.get(key)
        if (
            sent is None
            or key in self._repeat
            or time.monotonic() - sent.counted_all_s > COUNT_ALL_INTERVAL_S
        ):
            return 0
        return self._due[key]

    def _send(self, room: str, user: int, epoch: str, rows: list[Row], above: int) -> None:
        key = room, user
        if room not in self.registry.rooms or user not in self.registry.by_user:
            return  # the last connection ended during the call of the store
        sent = self._sent_rows.get(key)
        if sent is not None and sent.epoch != epoch:  # a new epoch: none of its rows were sent
            del self._sent_rows[key]
            self._due[key] = 0
            return
        changed = self._first_rows(key, rows) if sent is None else sent.update(rows)
        if sent is None or not above:
            sent = self._sent_rows[key] = SentRows(epoch, {row[0]: row for row in rows}, time.monotonic())
        if not sent.complete:
            self._open[room].add(user)
        elif room in self._open:
            self._open[room].discard(user)
        # Another connection needs a count of all rows: a count above a seq that was already running is not enough.
        if not above and key in self._repeat:
            self._repeat.discard(key)
            changed |= {row for row in rows if row[2] < row[3]}
        if not changed:
            return
        frame = protocol.encode(protocol.Receipt(room=room, epoch=epoch, receipts=sorted(changed))).decode()
        for connection in self.registry.connections_of(user):
            if room in connection.feeds:
                connection.push_after_welcome(frame)

    def _first_rows(self, key: Key, rows: list[Row]) -> set[Row]:
        """Return the rows to send after the first count: all if a cursor has moved since the sender connected, else incomplete or newer rows."""
        top, moves = self._connected.get(key, (0, 0))
        if self._move_count(key[0]) != moves:
            return set(rows)
        return {row for row in rows if row[0] > top or row[2] < row[3]}
