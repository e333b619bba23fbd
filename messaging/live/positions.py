"""The check of positions: it detects publications that pub/sub lost, so that clients `sync`, and messages that the store lost.

Every `position_interval_s`, and when the subscription is restored, the rooms of this process are compared with the store. A client
with missing messages, or to which the present position was not sent yet, gets a `position` frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import Position, RoomKey

from .registry import HubRoom, Registry

PUBLISH_LATENCY_S = 1.0  # a publication that the store's position includes may arrive this much later


class Positions:
    """The check of one process. `members_changed` is called with a room of which this process missed joins or leaves, `record_lost` with
    {room: number of messages} that the store has lost.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        policy: Policy,
        *,
        members_changed: Callable[[str], None],
        record_lost: Callable[[Mapping[RoomKey, int]], Awaitable[None]],
    ) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self._members_changed = members_changed
        self._record_lost = record_lost

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self.policy.position_interval_s)
            if self.policy.recovery:
                await self.check()

    async def check(self) -> None:
        """Compare every room of this process with the store, and send positions."""
        await self._check(list(self.registry.rooms.values()))

    async def check_room(self, room: str) -> None:
        """Compare one room, which has a new epoch."""
        if room in self.registry.rooms:
            await self._check([self.registry.rooms[room]])

    async def _check(self, rooms: Sequence[HubRoom]) -> None:
        known = [(room.epoch, room.top, room.earlier_top) for room in rooms]
        try:
            positions = await self.store.log.positions([room.key for room in rooms]) if rooms else []
        except Unavailable:
            return
        lost = {
            room.key: messages
            for room, (epoch, *tops), position in zip(rooms, known, positions, strict=True)
            if position is not None
            and position.epoch == epoch
            and (messages := max(map(position.lost_since, tops)))
        }
        if lost:
            await self._record_lost(lost)
        await asyncio.sleep(PUBLISH_LATENCY_S)
        for room, (epoch, *_), position in zip(rooms, known, positions, strict=True):
            if position is None or room.key in lost or room.epoch != epoch:
                continue  # a room with a new epoch has a newer position
            if position.members != room.members:
                self._members_changed(room.key.id)
            self._send(room, position)

    def _send(self, room: HubRoom, position: Position) -> None:
        epoch, top, rev = position.epoch, position.top, position.rev
        room.update_position(epoch, top, rev)
        frame = protocol.encode(protocol.Position(room=room.key.id, epoch=epoch, top=top, rev=rev)).decode()
        for connection, feed in room.feeds.items():
            if feed.check_position(epoch, top, rev):
                connection.writer.push(frame)
