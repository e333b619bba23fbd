"""Reads of the log for clients: `resumed` for a `hello` or a `sync`, and `history`.

While the store is read for a feed, the room's publications are held; they are sent after the answer. Identical reads of many sockets
are coalesced, and encoded once. A read begins when little is unsent on its connection: answers do not pile up for a client that does not
read them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from messaging import protocol
from messaging.errors import MessagingError, Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import MemberPosition, OtherEpoch, Read, Slice

from .coalescing import Coalescer
from .connection import Connection
from .encoding import Encoded, encode_history, encode_resumed, refused_read
from .feed import Feed, MemberRoom
from .hub import Hub
from .limits import Limits

MAX_RESUMED = 500  # messages in one `resumed`
MAX_HISTORY, DEFAULT_HISTORY = 100, 50  # messages in one `history`; the default if the client sends no limit

Answer = Encoded | OtherEpoch | MessagingError
Resume = tuple[Feed, MemberPosition, protocol.Since | None]  # the position at `hello`; what the client holds


class LogReader:
    """The reads of one process."""

    def __init__(self, store: Store, hub: Hub, limits: Limits, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.limits = limits
        self.policy = policy
        self._reads: Coalescer[Read, int, Answer] = Coalescer(
            self._read_for_many, self._read_alone, deadline_s=policy.verb_deadline_s
        )

    async def sync(self, connection: Connection, frame: protocol.Sync) -> None:
        """Answer with `resumed`; the held publications of the room follow it."""
        async with connection.reads.turn():
            await connection.wait_until_writable()
            feed = connection.feeds.get(frame.room)
            if feed is None:
                connection.push_frame(refused_read(frame.room, None, frame.since, why="not_member"))
                return
            limit = min(frame.limit or MAX_RESUMED, MAX_RESUMED)
            read = _read(feed.room, frame.epoch, frame.since, frame.rev, limit)
            with self.hub.reading(feed):
                [answer] = await self._reads.load_many([(read, connection.user)])
                self._answer(connection, feed, frame.since, answer)

    async def resume(self, connection: Connection, rooms: Sequence[Resume]) -> None:
        """Answer with a `resumed` for each room; the store is read only for rooms in which the client is not up to date."""
        reads: list[tuple[Feed, Read]] = []
        for feed, position, since in rooms:
            epoch, from_ = (since.epoch, since.since) if since else (position.epoch, position.delivered)
            rev = since.rev if since else None
            holds_all = epoch == position.epoch and from_ == position.top and rev in (None, position.rev)
            if holds_all and not position.in_doubt and self._is_newest(feed, position):
                empty = Slice(epoch, position.top, position.rev, from_, False, [], [], [])
                self._answer(connection, feed, from_, self._encode(feed.room.key.id, from_, empty))
                continue
            reads.append((feed, _read(feed.room, epoch, from_, rev, MAX_RESUMED)))
        if not reads:
            return
        with contextlib.ExitStack() as reading:
            for feed, _ in reads:
                reading.enter_context(self.hub.reading(feed))
            answers = await self._reads.load_many([(read, connection.user) for _, read in reads])
            for (feed, read), answer in zip(reads, answers, strict=True):
                self._answer(connection, feed, read.since, answer)

    def _is_newest(self, feed: Feed, position: MemberPosition) -> bool:
        """Return whether nothing was published in the room since its position was read, after the subscription: a new feed drops it."""
        room = self.hub.registry.rooms.get(feed.room.key.id)
        return room is not None and (room.epoch, room.top, room.rev) == (
            position.epoch,
            position.top,
            position.rev,
        )

    def _answer(self, connection: Connection, feed: Feed, since: int, answer: Answer) -> None:
        """Push the `resumed` that answers a read, then the held publications of the room."""
        room_id = feed.room.key.id
        if connection.feeds.get(room_id) is not feed:  # removed while the store was read
            connection.push_frame(refused_read(room_id, None, since, why="not_member"))
            return
        if isinstance(answer, OtherEpoch):
            feed.refuse_read()
            room = self.hub.registry.rooms[room_id]
            connection.push_frame(
                refused_read(room_id, answer.epoch, since, why="epoch", top=room.top, rev=room.rev)
            )
            return
        if isinstance(answer, MessagingError):
            feed.refuse_read()
            connection.push_frame(refused_read(room_id, None, since, why="not_member"))
            return
        text, slice_ = answer
        connection.writer.push(text, len(slice_.messages))
        self.hub.merge(connection, feed, slice_)
        if slice_.messages and feed.silence is None:
            self.hub.report_pushed(connection, feed)

    async def _read_for_many(
        self, requests: Sequence[tuple[Read, Sequence[int]]]
    ) -> list[list[Answer | Unavailable | None]]:
        """Read logs for many users; an answer that several of them get is encoded once."""
        rows: list[list[Answer | Unavailable | None]] = []
        for (read, _), row in zip(requests, await self.store.log.read_for_many(requests), strict=True):
            distinct = {id(answer): answer for answer in row if answer is not None}
            encoded = {name: self._encoded(read, answer) for name, answer in distinct.items()}
            rows.append([encoded.get(id(answer)) for answer in row])
        return rows

    async def _read_alone(self, requests: Sequence[tuple[Read, int]]) -> list[Answer | Unavailable]:
        [user] = {user for _, user in requests}
        answers = await self.store.log.read_after(user, [read for read, _ in requests])
        return [self._encoded(read, answer) for (read, _), answer in zip(requests, answers, strict=True)]

    def _encoded(self, read: Read, answer: Slice | OtherEpoch | MessagingError) -> Answer:
        if isinstance(answer, Slice):
            return self._encode(read.room.id, read.since, answer)
        return answer

    def _encode(self, room_id: str, since: int, slice_: Slice) -> Encoded:
        return encode_resumed(room_id, since, slice_, max_bytes=self.policy.answer_max)

    async def history(self, connection: Connection, frame: protocol.History) -> None:
        """Answer with the newest messages below `before`."""
        feed = connection.feed(frame.room)
        self.limits.take("history", connection)
        async with connection.reads.turn():
            await connection.wait_until_writable()
            page = await self.store.log.history(
                feed.room.key,
                connection.user,
                before=frame.before,
                limit=min(frame.limit or DEFAULT_HISTORY, MAX_HISTORY),
                open_history=feed.room.open_history,
            )
        text = encode_history(frame.room, frame.before, page, max_bytes=self.policy.answer_max)
        connection.writer.push(text)


def _read(room: MemberRoom, epoch: str, since: int, rev: int | None, limit: int) -> Read:
    return Read(room=room.key, epoch=epoch, since=since, rev=rev, limit=limit, open_history=room.open_history)
