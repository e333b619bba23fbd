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
from messaging.store.records import Place

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
            if self.policy.nets:
                await self.check()

    async def check(self) -> None:
        """Compare every room here with the store, and send positions."""
        rooms = list(self.registry.rooms.values())
        try:
            places = await self.store.log.places([room.key for room in rooms]) if rooms else []
        except Unavailable:
            return
        await asyncio.sleep(PUBLISH_LATENCY_S)
        for room, place in zip(rooms, places, strict=True):
            if place is None:
                continue
            if place.members != room.members:
                self._members_changed(room.key.id)
            self._tell(room, place)

    def _tell(self, room: HubRoom, place: Place) -> None:
        room.heard_position(place.epoch, place.top, place.rev)
        position = protocol.Position(room=room.key.id, epoch=place.epoch, top=place.top, rev=place.rev)
        frame = protocol.encode(position).decode()
        for connection, feed in room.feeds.items():
            if feed.check_position(place.epoch, place.top, place.rev):
                connection.writer.push(frame)
