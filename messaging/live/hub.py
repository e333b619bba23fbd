"""Fan-out: subscribe once for each room, and pass every publication to the feeds of the room.

The path of a message: the append script publishes it -> the subscription receives it -> `on_message` parses it into batches -> an
OPEN feed sends each batch, a READING feed holds it until `merge`, other feeds drop it, because a read will return it. `positions`
detects publications that were lost. Messages are not encoded here: the script publishes their frames. Knows no SQL and no permissions.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store.presence import PRESENCE_CHANNEL
from messaging.store.records import Slice

from .connection import Connection
from .feed import Feed, FeedState, MemberRoom
from .publications import Batch, Change, parse_batches, parse_change
from .registry import HubRoom, Registry
from .subscription import Subscription

FORGET_AFTER_S = 10.0  # a room without connections stays subscribed for this time


def _ignore(*_: object) -> None:
    pass


async def _ignore_restored() -> None:
    pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubListener:
    """The callbacks of the hub. They are fields, not methods: a method that only forwards costs a call for each message."""

    accepted: Callable[[str, int, int], None] = (
        _ignore  # room, sender (connected here), after (seq): new messages
    )
    pushed: Callable[[Connection, Feed], None] = _ignore  # messages were pushed, and the feed had no silence
    cursors_moved: Callable[[str, int], None] = (
        _ignore  # room, above (seq): no cursor that moved was below it
    )
    presence_changed: Callable[[str], None] = _ignore  # the publication of a process
    renewed: Callable[[str], None] = _ignore  # room: its log has a new epoch
    restored: Callable[[], Awaitable[None]] = _ignore_restored  # the subscription was lost and is restored


class Hub:
    """The fan-out of one process."""

    def __init__(self, registry: Registry, policy: Policy, listener: HubListener) -> None:
        self.registry = registry
        self.policy = policy
        self.listener = listener
        self._subscription = Subscription(self.on_message, self._restored)

    async def run(self) -> None:
        """Receive publications until cancelled."""
        self._subscription.register(PRESENCE_CHANNEL)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscription.run())
            tasks.create_task(self._forget_empty_rooms_for_ever())

    async def _restored(self) -> None:
        await self.listener.restored()

    # Feeds

    async def add_feed(self, connection: Connection, room: MemberRoom) -> Feed:
        """Subscribe to a room before the store is read for it, so that nothing is lost in between. Raises Unavailable."""
        feed = Feed(room)
        self.registry.add_feed(connection, feed)
        try:
            await self._subscription.add(room.key.key)
        except TimeoutError as error:
            raise Unavailable() from error
        return feed

    async def _forget_empty_rooms_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.policy.position_interval_s)
            self.forget_empty_rooms()

    def forget_empty_rooms(self) -> None:
        """Unsubscribe from rooms that have had no connection for a while."""
        for room in self.registry.forget_empty_rooms(FORGET_AFTER_S):
            self._subscription.remove(room.key.key)

    # Reads

    @contextlib.contextmanager
    def reading(self, feed: Feed) -> Iterator[None]:
        """Hold the room's publications while the store is read for `feed`. Without a `merge` the feed is then BEHIND."""
        feed.begin_read()
        try:
            yield
        finally:
            feed.end_read()

    def merge(self, connection: Connection, feed: Feed, slice_: Slice) -> None:
        """Complete a read that was answered: send the held publications, unless the client must sync again first."""
        room = self.registry.rooms[feed.room.key.id]
        room.update_position(slice_.epoch, slice_.top, slice_.rev)
        batches, changes = feed.complete_read(slice_)
        if feed.state is FeedState.OPEN:
            for batch in batches:
                if (
                    feed.state is FeedState.OPEN
                ):  # otherwise it fell behind: no message may follow the position
                    self._send_batch(connection, feed, batch)
            for change in changes:
                self._send_change(connection, feed, change)
        elif not slice_.more:  # more was published during the read than may be held
            connection.fall_behind(feed, room.top, room.rev)

    def report_pushed(self, connection: Connection, feed: Feed) -> None:
        """Report that messages were pushed and are unacknowledged."""
        self.listener.pushed(connection, feed)

    # Publications

    def on_message(self, channel: str, payload: bytes) -> None:
        """Handle one publication of the subscription."""
        text = payload.decode()
        if channel == PRESENCE_CHANNEL:
            self.listener.presence_changed(text)
            return
        room = self.registry.rooms.get(channel.rpartition(":")[2])
        if room is None:
            return
        kind = text[0]
        if kind == "M":
            self._on_messages(room, text)
        elif kind == "A":
            self.listener.cursors_moved(room.key.id, int(text[2:] or 0))
        elif kind == "T":
            self._on_typing(room, int(text[2:]))
        elif kind == "C":
            self._on_change(room, parse_change(room.key.id, text))
        elif kind == "X":
            self._on_expired(room, text)
        elif kind == "E":
            self.listener.renewed(room.key.id)

    def _on_messages(self, room: HubRoom, text: str) -> None:
        for batch in parse_batches(text):
            room.update_top(batch.epoch, batch.last)
            for connection, feed in room.feeds.items():
                if feed.state is FeedState.OPEN:
                    self._send_batch(connection, feed, batch)
                elif feed.state is FeedState.READING:
                    feed.hold(batch, limit=self.policy.unsent_max)
            for sender in batch.senders & self.registry.by_user.keys():
                self.listener.accepted(room.key.id, sender, batch.after)

    def _send_batch(self, connection: Connection, feed: Feed, batch: Batch) -> None:
        """Send a batch to a connection whose feed is OPEN, unless it has it already."""
        if batch.epoch != feed.epoch:
            feed.restart(batch.epoch, batch.after)
        elif batch.last <= feed.last:
            return
        if batch.only is not None and connection.user not in batch.only | batch.senders:
            self._skip(connection, feed, batch)
            return
        writer = connection.writer
        policy = self.policy
        if writer.unsent + batch.count > policy.unsent_max or writer.unsent_bytes > policy.unsent_bytes_max:
            room = self.registry.rooms[feed.room.key.id]
            connection.fall_behind(feed, room.top, room.rev)
            return
        feed.sent(batch.last)
        writer.push(batch.text, batch.count)
        if feed.silence is None:
            self.listener.pushed(connection, feed)

    def _skip(self, connection: Connection, feed: Feed, batch: Batch) -> None:
        """Send, instead of a message, that it is not for this user."""
        feed.sent(batch.last)
        room = self.registry.rooms[feed.room.key.id]
        connection.push_frame(
            protocol.Resumed(
                room=room.key.id,
                epoch=batch.epoch,
                ok=True,
                from_=batch.after,
                upto=batch.last,
                top=batch.last,  # the log's top as this client knows it: without `more`, `upto` is `top`
                rev=room.rev,
                more=False,
                messages=[],
                gone=[(batch.last, "not_for_you")],
            )
        )

    def _on_change(self, room: HubRoom, change: Change) -> None:
        if change.epoch == room.epoch:
            room.rev = max(room.rev, change.rev)
        for connection, feed in room.feeds.items():
            if feed.state is FeedState.READING:
                feed.hold_change(change, limit=self.policy.unsent_max)
            else:
                self._send_change(connection, feed, change)

    def _send_change(self, connection: Connection, feed: Feed, change: Change) -> None:
        """Send a change to a connection that does not have it. If the feed is BEHIND, its `sync` brings the change."""
        if not feed.publish_change(change):
            return
        if connection.full:
            room = self.registry.rooms[feed.room.key.id]
            connection.fall_behind(feed, room.top, room.rev)
            return
        addressed = change.only is None or connection.user in change.only or connection.user == change.sender
        shown = feed.room.open_history or change.seq > feed.joined
        connection.writer.push(change.text if addressed and shown else change.bare)

    def answer_change(self, connection: Connection, feed: Feed, change: Change) -> None:
        """Answer the client that requested a change, unless the publication of the change was already sent to it."""
        if feed.answer_change(change):
            connection.writer.push(change.text)

    def _on_expired(self, room: HubRoom, text: str) -> None:
        _, epoch, seqs = text.split(" ")
        ended = protocol.Expired(room=room.key.id, epoch=epoch, seqs=[int(seq) for seq in seqs.split(",")])
        frame = protocol.encode(ended).decode()
        for connection in room.feeds:
            if connection.welcomed:
                connection.writer.push(frame)

    def _on_typing(self, room: HubRoom, user: int) -> None:
        frame = protocol.encode(protocol.SomeoneTypes(room=room.key.id, user=user)).decode()
        for connection in room.feeds:
            if connection.user != user and connection.welcomed:
                connection.writer.push(frame)
