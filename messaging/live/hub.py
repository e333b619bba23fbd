"""This process's sockets by room: subscribe once a room, encode nothing, hand each published batch to every open feed.

A batch's way: the append script publishes it -> the subscription hears it -> `_on_message` cuts it -> `_fan_out` gives it to
each feed: OPEN passes it on, READING holds it until the read is merged, BEHIND drops it, for its client will `sync`. What pub/sub
loses, `position` reveals. Knows no SQL and no rules of who may do what.

Lines of a room's channel: `M <epoch>` then for each message `<seq> <after> <sender> <only|->` and its frame; `C <epoch>`, then
`<rev> <seq> <sender> <only|->` and a frame; `X <epoch> <seq,...>`: expired; `A <seq>`: cursors moved, none from below that
seq; `A`: any may have; `T <user>`: types.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.presence import PRESENCE_CHANNEL
from messaging.store.records import Position, RoomKey, Slice

from . import metrics
from .connection import Batch, Change, Connection, Feed, MemberRoom, State
from .subscription import Subscription

BATCH_MOST = 32_768  # characters joined in one batch: a part of what one array may hold
HEARD_WITHIN_S = 1.0  # what a position names may still be on its way here
FORGET_AFTER_S = 10.0  # a room without connections stays subscribed so long

log = logging.getLogger(__name__)


class HubRoom:
    """A room in this process: its feeds, and the position up to which it was heard."""

    __slots__ = (
        "cursors_moved",
        "empty_since_s",
        "epoch",
        "feeds",
        "key",
        "members",
        "moved_above",
        "moves_counted",
        "people",
        "rev",
        "top",
    )

    def __init__(self, key: RoomKey) -> None:
        self.key = key
        self.feeds: dict[Connection, Feed] = {}
        self.epoch = ""
        self.top = 0
        self.rev = 0
        self.members = -1  # the store's count of joins and leaves when the memberships were last read
        self.people: frozenset[int] = frozenset()  # the members, while few enough for presence
        self.cursors_moved = 0  # how often, as heard here
        self.moved_above = 0  # none of those that the receipts do not know yet moved from below this seq
        self.moves_counted = 0  # of these, how many the receipts know
        self.empty_since_s: float | None = None

    def heard(self, epoch: str, top: int) -> None:
        """Note what this process knows of the log."""
        if epoch != self.epoch:
            self.epoch, self.top, self.rev = epoch, top, 0
        else:
            self.top = max(self.top, top)

    def cursors_move(self, above: int) -> None:
        """Note that cursors moved, none of them from below a seq."""
        new = self.moves_counted == self.cursors_moved
        self.moved_above = above if new else min(self.moved_above, above)
        self.cursors_moved += 1


class Hub:
    """Connections, rooms, fan-out."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.rooms: dict[str, HubRoom] = {}
        self.connections: set[Connection] = set()
        self.by_user: defaultdict[int, set[Connection]] = defaultdict(set)
        self.on_accepted: Callable[[str, int, int], None] = lambda room, sender, after: None
        self.on_pushed: Callable[[Connection, Feed], None] = lambda connection, feed: None
        self.on_members: Callable[[str], None] = lambda room: None
        self.on_presence: Callable[[str], None] = lambda news: None
        self.on_restored: Callable[[], None] = lambda: None
        self._subscription = Subscription(self._on_message, self._restored)

    async def run(self) -> None:
        """Listen and check positions until cancelled."""
        self._subscription.want(PRESENCE_CHANNEL)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscription.run())
            tasks.create_task(self._check_positions_for_ever())

    # Connections and feeds

    def enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        metrics.connected(1)
        self.by_user[connection.user].add(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection and its feeds. Idempotent."""
        if connection in self.connections:
            self.connections.remove(connection)
            metrics.connected(-1)
        own = self.by_user.get(connection.user)
        if own is not None:
            own.discard(connection)
            if not own:
                del self.by_user[connection.user]
        for room in list(connection.feeds):
            self.drop_feed(connection, room)

    async def add_feed(self, connection: Connection, member_room: MemberRoom) -> Feed:
        """Mark the connection live in a room, before the store is read for it: nothing falls between. Raises Unavailable."""
        key = member_room.key
        room = self.rooms.get(key.id)
        if room is None:
            room = self.rooms[key.id] = HubRoom(key)
        room.empty_since_s = None
        feed = Feed(member_room)
        connection.feeds[key.id] = feed
        room.feeds[connection] = feed
        try:
            await self._subscription.add(key.key)
        except TimeoutError as fault:
            raise Unavailable() from fault
        return feed

    def drop_feed(self, connection: Connection, room_id: str) -> None:
        """Take a connection out of a room."""
        connection.feeds.pop(room_id, None)
        room = self.rooms.get(room_id)
        if room is None:
            return
        room.feeds.pop(connection, None)
        if not room.feeds:
            room.empty_since_s = asyncio.get_running_loop().time()

    def connections_of(self, user: int) -> Iterable[Connection]:
        return tuple(self.by_user.get(user, ()))

    # The merge of a read with what fans out

    @contextlib.contextmanager
    def reading(self, feed: Feed) -> Iterator[None]:
        """Hold the room's messages while the store is read for `feed`. A read without `merge` leaves the feed BEHIND."""
        feed.state = State.READING
        try:
            yield
        finally:
            if feed.state is State.READING:
                feed.state = State.BEHIND
            feed.held.clear()
            feed.held_changes.clear()

    def merge(self, connection: Connection, feed: Feed, slice_: Slice) -> None:
        """Go on from an answered read: what was held and is newer follows it, unless the client must ask for more first."""
        room = self.rooms[feed.room.key.id]
        room.heard(slice_.epoch, slice_.top)
        room.rev = max(room.rev, slice_.rev)
        feed.begin(slice_.epoch)
        feed.last, feed.told = slice_.upto, (slice_.top, slice_.rev)
        feed.knows(slice_.rev)
        if slice_.more:
            feed.state = State.BEHIND
        elif feed.state is State.BEHIND:  # more came meanwhile than may be held
            connection.fall_behind(feed, room.top, room.rev)
        else:
            feed.state = State.OPEN
            for batch in feed.held:
                if (
                    feed.state is State.OPEN
                ):  # else it fell behind on the way: nothing may follow the position
                    self._give(connection, feed, batch)
            for change in feed.held_changes:
                self.tell_change(connection, feed, change)
        feed.held.clear()
        feed.held_changes.clear()

    # What fans out

    def _on_message(self, channel: str, payload: bytes) -> None:
        text = payload.decode()
        if channel == PRESENCE_CHANNEL:
            self.on_presence(text)
            return
        room = self.rooms.get(channel.rpartition(":")[2])
        if room is None:
            return
        kind = text[0]
        if kind == "M":
            self._on_messages(room, text)
        elif kind == "A":
            room.cursors_move(int(text[2:] or 0))
        elif kind == "T":
            self._on_typing(room, int(text[2:]))
        elif kind == "C":
            self._on_change(room, cut_change(room.key.id, text))
        elif kind == "X":
            self._on_expired(room, text)

    def _on_messages(self, room: HubRoom, text: str) -> None:
        for batch in cut(text):
            room.heard(batch.epoch, batch.last)
            for connection, feed in room.feeds.items():
                if feed.state is State.OPEN:
                    self._give(connection, feed, batch)
                elif feed.state is State.READING:
                    self._hold(feed, batch)
            for sender in batch.senders & self.by_user.keys():
                self.on_accepted(room.key.id, sender, batch.after)

    def _hold(self, feed: Feed, batch: Batch) -> None:
        feed.held.append(batch)
        if len(feed.held) > self.policy.unsent_max:
            feed.state = State.BEHIND  # `merge` sees it and tells the position

    def _give(self, connection: Connection, feed: Feed, batch: Batch) -> None:
        if batch.epoch != feed.epoch:
            feed.begin(batch.epoch)
            feed.last = batch.after
        elif batch.last <= feed.last:
            return
        if batch.only is not None and connection.user not in batch.only | batch.senders:
            self._skip(connection, feed, batch)
            return
        if connection.unsent + batch.count > self.policy.unsent_max:
            room = self.rooms[feed.room.key.id]
            connection.fall_behind(feed, room.top, room.rev)
            return
        feed.last = batch.last
        connection.push(batch.text, batch.count)
        if feed.silence is None:
            self.on_pushed(connection, feed)

    def _skip(self, connection: Connection, feed: Feed, batch: Batch) -> None:
        """Say in a message's place that it is not for this user."""
        feed.last = batch.last
        room = self.rooms[feed.room.key.id]
        connection.push_frame(
            protocol.Resumed(
                room=room.key.id,
                epoch=batch.epoch,
                ok=True,
                from_=batch.after,
                upto=batch.last,
                top=batch.last,  # of the log as far as this socket is told: without `more`, `upto` is `top`
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
            self.tell_change(connection, feed, change)

    def tell_change(self, connection: Connection, feed: Feed, change: Change) -> None:
        """Give a feed a change that it has not had; one that is being read for gets it after the read, one behind by its `sync`."""
        if feed.state is State.READING:
            if len(feed.held_changes) < self.policy.unsent_max:  # else the `rev` after these reveals it
                feed.held_changes.append(change)
            return
        if feed.state is State.BEHIND or change.epoch != feed.epoch or change.rev <= feed.rev:
            return
        answered = change.rev in feed.answered
        feed.knows(change.rev)
        if change.rev != feed.rev_told + 1:
            feed.told_after = change.rev - 1
        feed.rev_told = change.rev
        if answered:
            return
        mine = change.only is None or connection.user in change.only or connection.user == change.sender
        shown = feed.room.open_history or change.seq > feed.joined
        connection.push(change.text if mine and shown else change.bare)

    def answer_change(self, connection: Connection, feed: Feed, change: Change) -> None:
        """Answer who asked for a change, unless the fan-out was quicker; then it is not told again."""
        if change.epoch == feed.epoch:
            if feed.told_after < change.rev <= feed.rev_told:
                return
            if (
                change.rev > feed.rev
            ):  # what others changed before it may still be on its way: that is told after it
                feed.answered |= {change.rev}
        connection.push(change.text)

    def _on_expired(self, room: HubRoom, text: str) -> None:
        _, epoch, seqs = text.split(" ")
        ended = protocol.Expired(room=room.key.id, epoch=epoch, seqs=[int(seq) for seq in seqs.split(",")])
        frame = protocol.encode(ended).decode()
        for connection in room.feeds:
            if connection.welcomed:
                connection.push(frame)

    def _on_typing(self, room: HubRoom, user: int) -> None:
        frame = protocol.encode(protocol.SomeoneTypes(room=room.key.id, user=user)).decode()
        for connection in room.feeds:
            if connection.user != user and connection.welcomed:
                connection.push(frame)

    # Positions: what pub/sub lost

    async def _check_positions_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.policy.position_interval_s)
            self._forget_empty_rooms()
            if self.policy.recovery:
                await self.check_positions()

    async def _restored(self) -> None:
        self.on_restored()
        await self.check_positions()

    async def check_positions(self) -> None:
        """Compare every room here with the store; tell whoever is behind."""
        rooms = list(self.rooms.values())
        try:
            places = await self.store.log.positions([room.key for room in rooms]) if rooms else []
        except Unavailable:
            return
        await asyncio.sleep(HEARD_WITHIN_S)  # what the store had published by then may still be on its way
        for room, place in zip(rooms, places, strict=True):
            if place is None:
                continue
            if place.members != room.members:
                self.on_members(room.key.id)
            self._tell_position(room, place)

    def _tell_position(self, room: HubRoom, place: Position) -> None:
        room.heard(place.epoch, place.top)
        room.rev = max(room.rev, place.rev)
        position = protocol.Position(room=room.key.id, epoch=place.epoch, top=place.top, rev=place.rev)
        frame = protocol.encode(position).decode()
        for connection, feed in room.feeds.items():
            if feed.state is State.READING:
                continue
            if feed.epoch != place.epoch or feed.last < place.top:
                feed.state = State.BEHIND
            elif feed.state is State.OPEN and feed.told == (place.top, place.rev):
                continue
            feed.told = place.top, place.rev
            connection.push(frame)

    def _forget_empty_rooms(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for room in list(self.rooms.values()):
            if room.feeds or room.empty_since_s is None or now_s - room.empty_since_s < FORGET_AFTER_S:
                continue
            del self.rooms[room.key.id]
            self._subscription.remove(room.key.key)


def cut_change(room: str, text: str) -> Change:
    """Cut a published `C` payload; for those whom the message is not for it is an `edited` that says only its rev."""
    first, header, frame = text.split("\n", 2)
    epoch = first[2:]
    rev, seq, sender, only = header.split(" ")
    bare = protocol.encode(protocol.Edited(room=room, epoch=epoch, rev=int(rev), seq=int(seq))).decode()
    names = None if only == "-" else frozenset(map(int, only.split(",")))
    return Change(epoch, int(rev), int(seq), int(sender), frame, bare, names)


def cut(text: str) -> Iterator[Batch]:
    """Cut a published `M` payload into batches: neighbours for everybody together, a resend to some by itself."""
    lines = text.split("\n")
    epoch = lines[0][2:]
    frames: list[str] = []
    senders: set[int] = set()
    size = after = last = 0
    for header, frame in zip(lines[1::2], lines[2::2], strict=True):
        seq_text, after_text, sender_text, only_text = header.split(" ")
        seq, before, sender = int(seq_text), int(after_text), int(sender_text)
        if frames and (only_text != "-" or before != last or size + len(frame) > BATCH_MOST):
            yield Batch(epoch, after, last, len(frames), ",".join(frames), frozenset(senders))
            frames, senders, size = [], set(), 0
        if only_text != "-":
            only = frozenset(map(int, only_text.split(",")))
            yield Batch(epoch, before, seq, 1, frame, frozenset((sender,)), only)
            continue
        if not frames:
            after = before
        frames.append(frame)
        senders.add(sender)
        size += len(frame)
        last = seq
    if frames:
        yield Batch(epoch, after, last, len(frames), ",".join(frames), frozenset(senders))
