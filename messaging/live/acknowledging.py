"""Acknowledgements from clients: merged for each user and room, and stored together."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

import msgspec

from messaging import protocol
from messaging.errors import AckTooHigh, Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import AckRow

from . import metrics
from .connection import Connection
from .hub import Hub

ABOVE_TOP = -5  # the store's answer to an ack above the newest message
RETRY_AFTER_S = 1.0
STORE_BATCH = 500  # rows in one call: more would delay the event loop by more than 5 ms
CHECK_BATCH = 200  # rows above top in one call
MAX_LATE = 1_000  # late messages of a user and room that wait for the store
CHECK_INTERVAL_S = 1.0  # between two of these calls for a connection

T = TypeVar("T")


class Acknowledger:
    """The acknowledgements of one process's clients."""

    def __init__(self, store: Store, hub: Hub, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.policy = policy
        self._queue: dict[tuple[str, int], AckRow] = {}
        self._settling = False

    @property
    def busy(self) -> bool:
        """Whether acknowledgements wait for the store."""
        return self._settling

    def acknowledge(self, connection: Connection, frame: protocol.Ack) -> None:
        """Handle cumulative acks. Unknown rooms and other epochs are ignored. An ack above the log's top does not affect the others."""
        for ack in frame.rooms:
            feed = connection.feeds.get(ack.room)
            if feed is None or ack.epoch != feed.epoch:
                continue
            delivered, read = ack.delivered, ack.read
            row = AckRow(
                feed.room.key,
                ack.epoch,
                connection.user,
                delivered,
                read,
                tuple(ack.late or ()),
                ack.late is not None,
            )
            top = self.hub.registry.rooms[ack.room].top
            if (delivered or 0) > top or (read or 0) > top:
                self._check_later(connection, row)
                continue
            if delivered is not None and delivered > feed.acked:
                feed.acknowledged(delivered)
                if delivered < feed.last:
                    self.hub.report_pushed(connection, feed)
            self._put(row)

    def _check_later(self, connection: Connection, row: AckRow) -> None:
        """Queue an ack that is above the top that this process knows. A connection has one check at a time, for all of them."""
        rows = connection.acks_above_top
        if rows is None:
            rows = connection.acks_above_top = {}
            connection.spawn(self._check_above_top(connection, rows))
        lowest, merged = rows.get(row.room.id, (row, row))
        rows[row.room.id] = min(lowest, row, key=_height), _merged(merged, row)

    async def _check_above_top(self, connection: Connection, rows: dict[str, tuple[AckRow, AckRow]]) -> None:
        """Store the acks in `rows`, to which others are added; refuse those that are above the store's top too."""
        loop = asyncio.get_running_loop()
        try:
            while rows:
                await asyncio.sleep(connection.ack_check_due_s - loop.time())
                connection.ack_check_due_s = loop.time() + CHECK_INTERVAL_S
                await self._acknowledge_or_refuse(connection, _take(rows, CHECK_BATCH))
        finally:
            connection.acks_above_top = None

    async def _acknowledge_or_refuse(self, connection: Connection, rows: list[tuple[AckRow, AckRow]]) -> None:
        try:
            answers = await self.store.cursors.acknowledge([merged for _, merged in rows])
        except Unavailable:
            for _, merged in rows:
                self._put(merged)
            return
        for (lowest, merged), answer in zip(rows, answers, strict=True):
            if answer == ABOVE_TOP:
                connection.refuse(protocol.Refused(AckTooHigh(), "ack", room=merged.room.id))
                if _height(lowest) < _height(merged):
                    self._check_later(connection, lowest)  # it may be valid

    def _put(self, row: AckRow) -> None:
        """Queue an ack, merged with a queued ack of the same user and room."""
        key = row.room.id, row.user
        self._queue[key] = _merged(self._queue.get(key), row)
        if not self._settling:
            self._settling = True
            self._settler = asyncio.ensure_future(self._settle())  # the loop keeps only weak references

    async def _settle(self) -> None:
        """Store the acks of all connections together, until the queue is empty.

        Before each call wait `ack_flush_s` for more of them, unless many are queued already.
        """
        try:
            while self._queue:
                if len(self._queue) < STORE_BATCH:
                    await asyncio.sleep(self.policy.ack_flush_s)
                acks = _take(self._queue, STORE_BATCH)
                try:
                    moved = await self.store.cursors.acknowledge(acks)
                    metrics.done.acknowledgements += moved.count(1)
                except Unavailable:
                    newer, self._queue = self._queue, {}
                    for row in (*acks, *newer.values()):
                        self._put(row)
                    await asyncio.sleep(RETRY_AFTER_S)
        finally:
            self._settling = False


def _take(rows: dict[Any, T], count: int) -> list[T]:
    """Remove and return the first rows."""
    return [rows.pop(key) for key in list(itertools.islice(rows, count))]


def _merged(queued: AckRow | None, row: AckRow) -> AckRow:
    """Return an ack that stands for both, of the same user and room. One of another epoch is replaced."""
    if queued is None or queued.epoch != row.epoch:
        return row
    return msgspec.structs.replace(
        row,
        delivered=_higher(queued.delivered, row.delivered),
        read=_higher(queued.read, row.read),
        late=_late_for_both(queued, row),
        judged=queued.judged and row.judged,
    )


def _late_for_both(a: AckRow, b: AckRow) -> tuple[int, ...]:
    """Return the late messages of two acks, without those that one of them covers and does not name: another device had them in time."""

    def is_late(seq: int, row: AckRow) -> bool:
        return seq in row.late or not row.judged or seq > (row.delivered or 0)

    late = dict.fromkeys(a.late + b.late)
    return tuple(seq for seq in late if is_late(seq, a) and is_late(seq, b))[-MAX_LATE:]


def _height(row: AckRow) -> int:
    return max(row.delivered or 0, row.read or 0)


def _higher(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
