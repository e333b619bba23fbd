"""Acknowledgements from clients: merged for each user and room, and stored together."""

from __future__ import annotations

import asyncio

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
                connection.spawn(self._acknowledge_alone(connection, row))
                continue
            if delivered is not None and delivered > feed.acked:
                feed.acknowledged(delivered)
                if delivered < feed.last:
                    self.hub.report_pushed(connection, feed)
            self._put(row)

    async def _acknowledge_alone(self, connection: Connection, row: AckRow) -> None:
        """Store an ack that is above the top that this process knows; refuse it if it is above the store's top too."""
        try:
            [answer] = await self.store.cursors.acknowledge([row])
        except Unavailable:
            self._put(row)
            return
        if answer == ABOVE_TOP:
            connection.refuse(protocol.Refused(AckTooHigh(), "ack", room=row.room.id))

    def _put(self, row: AckRow) -> None:
        """Queue an ack, merged with a queued ack of the same user and room."""
        key = row.room.id, row.user
        queued = self._queue.get(key)
        if queued is not None and queued.epoch == row.epoch:
            row = msgspec.structs.replace(
                row,
                delivered=_higher(queued.delivered, row.delivered),
                read=_higher(queued.read, row.read),
                late=queued.late + row.late,
                judged=queued.judged and row.judged,
            )
        self._queue[key] = row
        if not self._settling:
            self._settling = True
            self._settler = asyncio.ensure_future(self._settle())  # the loop keeps only weak references

    async def _settle(self) -> None:
        """Store the acks of all connections together, until the queue is empty; before each call wait `ack_flush_s` for more of them."""
        try:
            while self._queue:
                await asyncio.sleep(self.policy.ack_flush_s)
                acks, self._queue = self._queue, {}
                try:
                    moved = await self.store.cursors.acknowledge(list(acks.values()))
                    metrics.done.acknowledgements += moved.count(1)
                except Unavailable:
                    newer, self._queue = self._queue, acks
                    for row in newer.values():
                        self._put(row)
                    await asyncio.sleep(RETRY_AFTER_S)
        finally:
            self._settling = False


def _higher(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
