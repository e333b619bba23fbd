"""The check of positions: it reveals what pub/sub lost, for the client to `sync`.

Every `position_interval_s`, and whenever the subscription was restored, the rooms here are compared with the store. A client
that lacks something, or has not heard the present position yet, is sent a `position`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import Position

from .registry import HubRoom, Registry

PUBLISH_LATENCY_S = 1.0  # a publication that the store's position includes may still be on its way here


class Positions:
    """The check of one process. `members_changed` is called with a room whose joins and leaves were not noticed here."""

    def __init__(
        self, store: Store, registry: Registry, policy: Policy, *, members_changed: Callable[[str], None]
    ) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self._members_changed = members_changed

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self.policy.position_interval_s)
            if self.policy.recovery:
                await self.check()

    async def check(self) -> None:
        """Compare every room here with the store, and send positions."""
        rooms = list(self.registry.rooms.values())
        try:
            positions = await self.store.log.positions([room.key for room in rooms]) if rooms else []
        except Unavailable:
            return
        await asyncio.sleep(PUBLISH_LATENCY_S)
        for room, position in zip(rooms, positions, strict=True):
            if position is None:
                continue
            if position.members != room.members:
                self._members_changed(room.key.id)
            self._tell(room, position)

    def _tell(self, room: HubRoom, position: Position) -> None:
        epoch, top, rev = position.epoch, position.top, position.rev
        room.heard_position(epoch, top, rev)
        frame = protocol.encode(protocol.Position(room=room.key.id, epoch=epoch, top=top, rev=rev)).decode()
        for connection, feed in room.feeds.items():
            if feed.check_position(epoch, top, rev):
                connection.writer.push(frame)
