"""The frames `typing` and `ping`, which store nothing."""

from __future__ import annotations

from messaging import protocol
from messaging.store import Store

from .connection import Connection
from .limits import Limits


class Ephemeral:
    """The handlers of these frames for one process's clients."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.store = store
        self.limits = limits

    async def typing(self, connection: Connection, frame: protocol.Typing) -> None:
        """Publish to the room that the user is typing, at most once every `typing_interval_s`."""
        feed = connection.feed(frame.room)
        if self.limits.take_typing(connection, frame.room):
            await self.store.presence.publish_typing(feed.room.key, connection.user)

    def ping(self, connection: Connection, frame: protocol.Ping) -> None:
        """Answer with `pong`."""
        self.limits.take("ping", connection)
        connection.push_frame(protocol.Pong(n=frame.n))
