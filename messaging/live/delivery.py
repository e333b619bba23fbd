"""The verbs of a connection: may I? -> store -> hub. Each takes a frame and answers over the connection.

A message's way: `send` checks the membership from memory and queues it -> `_commit` gives all that is queued to the store in one
round trip (natural batching: no timer) -> the append script stores and publishes -> `sent` goes back, and the hub fans out.
Acks take the same way through `_settle`, merged for each user and room. A refused frame raises a `MessagingError`, which the
consumer turns into one `error` frame.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from django.db import Error as DatabaseError
from msgspec import UNSET

from messaging import protocol
from messaging.errors import AckTooHigh, BacklogFull, BadFrame, MessagingError, Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import (
    Accepted,
    AckRow,
    Append,
    MemberPosition,
    OtherEpoch,
    Read,
    RoomKey,
    Slice,
    Stored,
)

from . import directory, metrics
from .coalescing import KEYS_MOST, Together
from .connection import Connection, Feed, MemberRoom, State, Turn
from .hub import Hub
from .limits import Limits
from .notifier import Notifier
from .presence import Presence
from .receipts import Receipts

COMMIT_MOST = 400  # messages in one round trip
# Connections; when a thousand come back together, whoever talks meanwhile is served between them.
GREETED_AT_ONCE = 24

Encoded = tuple[str, Slice]  # a text, and what of the slice is in it
Found = Encoded | OtherEpoch | MessagingError
Held = tuple[int, str, int]  # what a user holds of a room: user, epoch, since

log = logging.getLogger(__name__)


class Delivery:
    """One process's verbs over its store and hub."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        presence: Presence,
        receipts: Receipts,
        limits: Limits,
        notifier: Notifier,
        policy: Policy,
    ) -> None:
        self.store = store
        self.hub = hub
        self.presence = presence
        self.receipts = receipts
        self.limits = limits
        self.notifier = notifier
        self.policy = policy
        self._unsent: list[tuple[Connection, Append]] = []
        self._committing = False
        self._acks: dict[tuple[str, int], AckRow] = {}
        self._settling = False
        self._greeting = asyncio.Semaphore(GREETED_AT_ONCE)
        deadline_s = policy.verb_deadline_s
        self._standings: Together[RoomKey, Held, MemberPosition | None] = Together(
            store.members.member_positions_for_many, self._stand_alone, deadline_s=deadline_s
        )
        self._reads: Together[Read, int, Found] = Together(
            self._read_for_many, self._read_alone, deadline_s=deadline_s
        )

    # Hello

    async def hello(self, connection: Connection, frame: protocol.Hello) -> None:
        """Answer with `welcome`, then one `resumed` for each room. Closes 4504 on another version, 1013 while a part is away."""
        if connection.greeted:
            raise BadFrame("A connection says hello once.")
        if frame.v != protocol.VERSION:
            connection.close(Close.VERSION)
            return
        try:
            # Who is let into a room meanwhile waits for the end of this, so that no room is begun twice.
            async with self._greeting, connection.reading:
                await self._greet(connection, frame)
        except (Unavailable, BacklogFull, DatabaseError):
            connection.close(Close.TRY_LATER)

    async def _greet(self, connection: Connection, frame: protocol.Hello) -> None:
        connection.greeted = True
        named = {since.room: since for since in frame.rooms}
        member_rooms = await directory.rooms_of(connection.user)
        feeds = await asyncio.gather(*(self.hub.add_feed(connection, room) for room in member_rooms))
        standings = await self._stand(connection, feeds, named)
        now_ms = await self.store.now_ms()
        await self.presence.enter(connection, self._presence_rooms(standings))
        connection.push_frame(self._welcome(connection, standings, now_ms))
        connection.welcomed = True
        for room_id, since in named.items():
            if room_id not in connection.feeds:
                connection.push_frame(_refused_read(room_id, None, since.since, why="not_member"))
        wanted = [(feed, standing, named.get(feed.room.key.id)) for feed, standing in standings.items()]
        for at in range(0, len(wanted), KEYS_MOST):
            await self._resume_all(connection, wanted[at : at + KEYS_MOST])
        self.receipts.connected(connection)
        connection.spawn(self.notifier.repeat(connection))

    async def _stand(
        self, connection: Connection, feeds: Sequence[Feed], named: Mapping[str, protocol.Since]
    ) -> dict[Feed, MemberPosition]:
        """Ask where a user stands in his rooms; take from the connection those that he has left meanwhile."""
        asked = [(feed.room.key, (connection.user, *_held(named.get(feed.room.key.id)))) for feed in feeds]
        found = await self._standings.ask(asked)
        standings = {}
        for feed, standing in zip(feeds, found, strict=True):
            if standing is None:
                self.hub.drop_feed(connection, feed.room.key.id)
                continue
            self._know(feed, standing)
            standings[feed] = standing
        return standings

    async def _stand_alone(self, asked: Sequence[tuple[RoomKey, Held]]) -> list[MemberPosition | None]:
        [user] = {user for _, (user, *_) in asked}
        return await self.store.members.member_positions(
            user, [(room, epoch, since) for room, (_, epoch, since) in asked]
        )

    def _know(self, feed: Feed, standing: MemberPosition) -> None:
        room = self.hub.rooms[feed.room.key.id]
        room.members, room.people = standing.members, standing.people
        room.heard(standing.epoch, standing.top)
        room.rev = max(room.rev, standing.rev)
        feed.begin(standing.epoch)
        feed.joined = standing.joined

    def _presence_rooms(self, feeds: Iterable[Feed]) -> set[str]:
        return {feed.room.key.id for feed in feeds if self.hub.rooms[feed.room.key.id].people}

    def _welcome(
        self, connection: Connection, standings: Mapping[Feed, MemberPosition], now_ms: int
    ) -> protocol.Welcome:
        policy = self.policy
        return protocol.Welcome(
            v=protocol.VERSION,
            connection=connection.id,
            user=protocol.Person(connection.user, connection.name),
            now=now_ms,
            store=self.store.life,
            limits=protocol.Limits(
                body=policy.body_max,
                frame=policy.frame_max,
                ttl_min=policy.ttl_min_s,
                ttl_max=policy.ttl_max_s,
                unsent=policy.unsent_max,
                id_s=policy.id_life_s,
            ),
            rooms=[
                protocol.RoomFields(**self.room_fields(feed.room, standing))
                for feed, standing in standings.items()
            ],
        )

    def room_fields(self, room: MemberRoom, standing: MemberPosition) -> dict[str, Any]:
        """Return the fields of the room object on the wire."""
        return {
            "room": room.key.id,
            "name": room.name,
            "kind": room.kind,
            "role": room.role,
            "epoch": standing.epoch,
            "top": standing.top,
            "rev": standing.rev,
            "delivered": standing.delivered,
            "read": standing.read,
            "unread": standing.unread,
            "ttl": self.policy.ttl(None, room_s=room.ttl_s, room_max_s=room.ttl_max_s),
            "ttl_max": min(room.ttl_max_s, self.policy.ttl_max_s),
            "tracked": room.tracked,
            "online": self.presence.online_of(standing.people) if standing.people else UNSET,
        }

    async def _resume_all(
        self, connection: Connection, wanted: Sequence[tuple[Feed, MemberPosition, protocol.Since | None]]
    ) -> None:
        """Answer for some rooms; where nothing came after what the client holds, the store is not asked again."""
        reads: list[tuple[Feed, Read]] = []
        for feed, standing, since in wanted:
            epoch, from_ = (since.epoch, since.since) if since else (standing.epoch, standing.delivered)
            rev = since.rev if since else None
            if epoch == standing.epoch and from_ == standing.top and rev in (None, standing.rev):
                nothing = Slice(epoch, standing.top, standing.rev, from_, False, [], [], [])
                self._answer(connection, feed, from_, self._resumed(feed.room.key.id, from_, nothing))
                continue
            reads.append((feed, _read(feed.room, epoch, from_, rev, 500)))
        if not reads:
            return
        found = await self._reads.ask([(read, connection.user) for _, read in reads])
        for (feed, read), one in zip(reads, found, strict=True):
            self._answer(connection, feed, read.since, one)

    # Joined and left while connected

    async def admit(self, connection: Connection, room: MemberRoom) -> None:
        """Give an open connection a room it is now a member of: its `room` frame, then its `resumed`."""
        async with connection.reading:
            if room.key.id in connection.feeds or connection not in self.hub.connections:
                return
            try:
                feed = await self.hub.add_feed(connection, room)
                standings = await self._stand(connection, [feed], {})
            except Unavailable:
                self.hub.drop_feed(connection, room.key.id)  # begun again at the next check
                raise
            standing = standings.get(feed)
            if standing is None:
                return
            await self.presence.enter(connection, self._presence_rooms([feed]))
            connection.push_frame(protocol.Room(**self.room_fields(room, standing)))  # type: ignore[arg-type]
            await self._resume_all(connection, [(feed, standing, None)])

    async def update(self, connection: Connection, room: MemberRoom) -> None:
        """Tell an open connection what changed of its room or its role there."""
        feed = connection.feeds[room.key.id]
        if feed.room == room:
            return
        feed.room = room
        [standing] = await self.store.members.member_positions(connection.user, [(room.key, "", 0)])
        if standing is None:
            return
        connection.push_frame(protocol.Room(**self.room_fields(room, standing)))  # type: ignore[arg-type]

    def expel(self, connection: Connection, room_id: str) -> None:
        """Take a room from an open connection: from here on nothing of it is sent."""
        feed = connection.feeds.get(room_id)
        if feed is None:
            return
        self.hub.drop_feed(connection, room_id)
        gone = MemberPosition(feed.epoch, feed.last, 0, 0, feed.acked, 0, 0, 0, frozenset())
        connection.push_frame(protocol.Room(**self.room_fields(feed.room, gone), removed=True))  # type: ignore[arg-type]

    # Send

    def send(self, connection: Connection, frame: protocol.Send) -> None:
        """Queue a message for the next commit; `sent` or `error` answers it."""
        feed = connection.feed(frame.room)
        self.limits.take("send", connection)
        room = feed.room
        ttl_s = self.policy.ttl(frame.ttl, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
        append = Append(
            room=room.key,
            user=connection.user,
            name=connection.name,
            id=frame.id,
            body=frame.body,
            ttl_ms=ttl_s * 1000,
            reply_to=frame.reply_to,
            tracked=room.tracked,
        )
        self._unsent.append((connection, append))
        if not self._committing:
            self._committing = True
            self._committer = asyncio.ensure_future(self._commit())  # the loop keeps only weak references

    async def _commit(self) -> None:
        """Store what is queued, and what is queued while that is under way, until nothing is."""
        try:
            while self._unsent:
                batch, self._unsent = self._unsent[:COMMIT_MOST], self._unsent[COMMIT_MOST:]
                answers = await self.store.log.append([append for _, append in batch])
                for (connection, append), answer in zip(batch, answers, strict=True):
                    self._answer_send(connection, append, answer)
                _count(batch, answers)
                if any(isinstance(answer, Unavailable) for answer in answers):
                    self._refuse_queued()
        finally:
            self._committing = False

    def _refuse_queued(self) -> None:
        """Answer what waited behind a store that does not answer: each has waited as long as it may."""
        waiting, self._unsent = self._unsent, []
        for connection, append in waiting:
            self._answer_send(connection, append, Unavailable(retry_after_ms=1_000))

    def _answer_send(self, connection: Connection, append: Append, answer: Accepted | MessagingError) -> None:
        if isinstance(answer, MessagingError):
            connection.refuse(protocol.Refused(answer, "send", append.id, append.room.id))
            return
        connection.push_frame(
            protocol.Sent(
                id=append.id,
                room=append.room.id,
                epoch=answer.epoch,
                seq=answer.seq,
                sent_at=answer.sent_at,
                expires_at=answer.expires_at,
                duplicate=answer.duplicate,
            )
        )

    # Acknowledge

    def acknowledge(self, connection: Connection, frame: protocol.Ack) -> None:
        """Take cumulative acks; unknown rooms and other epochs are ignored, one above top is refused by itself."""
        for ack in frame.rooms:
            feed = connection.feeds.get(ack.room)
            if feed is None or ack.epoch != feed.epoch:
                continue
            room = self.hub.rooms[ack.room]
            highest = max(ack.delivered or 0, ack.read or 0)
            if highest > room.top:
                connection.spawn(self._acknowledge_alone(connection, feed.room.key, ack))
                continue
            if ack.delivered is not None and ack.delivered > feed.acked:
                feed.acked = ack.delivered
                feed.silence = None
                if feed.acked < feed.last:
                    self.hub.on_pushed(connection, feed)
            self._queue_ack(AckRow(feed.room.key, ack.epoch, connection.user, ack.delivered, ack.read))

    async def _acknowledge_alone(self, connection: Connection, room: RoomKey, ack: protocol.RoomAck) -> None:
        """Ask the store about an ack above what this process has heard of."""
        row = AckRow(room, ack.epoch, connection.user, ack.delivered, ack.read)
        try:
            [answer] = await self.store.cursors.acknowledge([row])
        except Unavailable:
            self._queue_ack(row)
            return
        if answer == -5:
            connection.refuse(protocol.Refused(AckTooHigh(), "ack", room=room.id))

    def _queue_ack(self, row: AckRow) -> None:
        name = row.room.id, row.user
        waiting = self._acks.get(name)
        if waiting is not None and waiting.epoch == row.epoch:
            row = msgspec.structs.replace(
                row, delivered=_higher(waiting.delivered, row.delivered), read=_higher(waiting.read, row.read)
            )
        self._acks[name] = row
        if not self._settling:
            self._settling = True
            self._settler = asyncio.ensure_future(self._settle())

    async def _settle(self) -> None:
        """Settle all acks of the process together, after a moment in which more may come."""
        try:
            while self._acks:
                await asyncio.sleep(self.policy.ack_flush_s)
                acks, self._acks = self._acks, {}
                try:
                    moved = await self.store.cursors.acknowledge(list(acks.values()))
                    metrics.done.acknowledgements += moved.count(1)
                except Unavailable:
                    newer, self._acks = self._acks, acks
                    for row in newer.values():
                        self._queue_ack(row)
                    await asyncio.sleep(1)
        finally:
            self._settling = False

    # Sync and history

    async def sync(self, connection: Connection, frame: protocol.Sync) -> None:
        """Answer with `resumed`; the room's messages wait meanwhile and follow it."""
        async with connection.in_turn(Turn.READ):
            await connection.wait_for_room()
            feed = connection.feeds.get(frame.room)
            if feed is None:
                connection.push_frame(_refused_read(frame.room, None, frame.since, why="not_member"))
                return
            limit = min(frame.limit or 500, 500)
            read = _read(feed.room, frame.epoch, frame.since, frame.rev, limit)
            with self.hub.reading(feed):
                [found] = await self._reads.ask([(read, connection.user)])
                self._answer(connection, feed, frame.since, found)

    def _answer(self, connection: Connection, feed: Feed, since: int, found: Found) -> None:
        """Push the `resumed` that answers a read, then let the room's messages follow."""
        room_id = feed.room.key.id
        if connection.feeds.get(room_id) is not feed:  # removed while the store was read
            connection.push_frame(_refused_read(room_id, None, since, why="not_member"))
            return
        if isinstance(found, OtherEpoch):
            feed.state = State.BEHIND
            room = self.hub.rooms[room_id]
            connection.push_frame(
                _refused_read(room_id, found.epoch, since, why="epoch", top=room.top, rev=room.rev)
            )
            return
        if isinstance(found, MessagingError):
            feed.state = State.BEHIND
            connection.push_frame(_refused_read(room_id, None, since, why="not_member"))
            return
        text, slice_ = found
        connection.push(text, len(slice_.messages))
        self.hub.merge(connection, feed, slice_)
        if slice_.messages and feed.silence is None:
            self.hub.on_pushed(connection, feed)

    async def _read_for_many(
        self, asked: Sequence[tuple[Read, Sequence[int]]]
    ) -> list[list[Found | Unavailable | None]]:
        """Read logs for many users, and encode once what several see."""
        found: list[list[Found | Unavailable | None]] = []
        for (read, _), row in zip(asked, await self.store.log.read_for_many(asked), strict=True):
            distinct = {id(answer): answer for answer in row if answer is not None}
            encoded = {name: self._encoded(read, answer) for name, answer in distinct.items()}
            found.append([encoded.get(id(answer)) for answer in row])
        return found

    async def _read_alone(self, asked: Sequence[tuple[Read, int]]) -> list[Found | Unavailable]:
        [user] = {user for _, user in asked}
        answers = await self.store.log.read_after(user, [read for read, _ in asked])
        return [self._encoded(read, answer) for (read, _), answer in zip(asked, answers, strict=True)]

    def _encoded(self, read: Read, answer: Slice | OtherEpoch | MessagingError) -> Found:
        if isinstance(answer, Slice):
            return self._resumed(read.room.id, read.since, answer)
        return answer

    def _resumed(self, room_id: str, since: int, slice_: Slice) -> Encoded:
        """Encode an answer that fits the contract's 256 KiB, cutting messages off its end where it does not."""
        while True:
            encoded = protocol.encode(
                protocol.Resumed(
                    room=room_id,
                    epoch=slice_.epoch,
                    ok=True,
                    from_=since,
                    upto=slice_.upto,
                    top=slice_.top,
                    rev=slice_.rev,
                    more=slice_.more,
                    messages=[wire(room_id, slice_.epoch, stored) for stored in slice_.messages],
                    gone=slice_.gone[:500],
                    changed=[wire(room_id, slice_.epoch, stored) for _, stored in slice_.changed],
                )
            )
            if len(encoded) <= self.policy.answer_max or len(slice_.messages) + len(slice_.changed) <= 1:
                return encoded.decode(), slice_
            slice_ = _shorter(slice_, since)

    async def history(self, connection: Connection, frame: protocol.History) -> None:
        """Answer with the newest messages below `before`."""
        feed = connection.feed(frame.room)
        self.limits.take("history", connection)
        limit = min(frame.limit or 50, 100)
        async with connection.in_turn(Turn.READ):
            await connection.wait_for_room()
            page = await self.store.log.history(
                feed.room.key,
                connection.user,
                before=frame.before,
                limit=limit,
                open_history=feed.room.open_history,
            )
        messages, more = page.messages, page.more
        while True:
            answer = protocol.Messages(
                room=frame.room,
                epoch=page.epoch,
                before=frame.before,
                messages=[wire(frame.room, page.epoch, stored) for stored in messages],
                more=more,
            )
            encoded = protocol.encode(answer)
            if len(encoded) <= self.policy.answer_max or len(messages) <= 1:
                connection.push(encoded.decode())
                return
            messages, more = messages[len(messages) // 2 :], True

    # Typing, ping

    async def typing(self, connection: Connection, frame: protocol.Typing) -> None:
        """Tell the room, at most once in 3 s; more are dropped."""
        feed = connection.feed(frame.room)
        now_s = time.monotonic()
        if now_s - connection.typed_s.get(frame.room, -1e9) < self.policy.typing_interval_s:
            return
        connection.typed_s[frame.room] = now_s
        await self.store.presence.tell_typing(feed.room.key, connection.user)

    def ping(self, connection: Connection, frame: protocol.Ping) -> None:
        """Answer with `pong`."""
        self.limits.take("ping", connection)
        connection.push_frame(protocol.Pong(n=frame.n))


def _count(batch: Sequence[tuple[Connection, Append]], answers: Sequence[Accepted | MessagingError]) -> None:
    """Count a commit; its messages have a line each where somebody looks for them."""
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    fresh = sum(not answer.duplicate for answer in accepted)
    metrics.committed(len(batch))
    metrics.done.accepted += fresh
    metrics.done.repeated += len(accepted) - fresh
    if not log.isEnabledFor(logging.DEBUG):
        return
    for (connection, append), answer in zip(batch, answers, strict=True):
        if isinstance(answer, Accepted) and not answer.duplicate:
            ids = {"room": append.room.id, "user": append.user, "seq": answer.seq, "message_id": append.id}
            log.debug("accepted", extra={**ids, "connection": connection.id})


def wire(room_id: str, epoch: str, stored: Stored, *, attempt: int | None = None) -> protocol.Message:
    """Return a stored message as it is on the wire; `attempt` where it is pushed again."""
    return protocol.Message(
        room=room_id,
        epoch=epoch,
        seq=stored.seq,
        id=stored.id,
        from_=protocol.Person(stored.sender, stored.name),
        body=stored.body,
        sent_at=stored.sent_at,
        expires_at=stored.expires_at,
        reply_to=UNSET if stored.reply_to is None else stored.reply_to,
        edited_at=UNSET if stored.edited_at is None else stored.edited_at,
        resends=UNSET if stored.resends is None else stored.resends,
        attempt=UNSET if attempt is None else attempt,
    )


def _shorter(slice_: Slice, since: int) -> Slice:
    """Cut what came last: half of the messages, and once they are no more than one, it and half of the changes."""
    if len(slice_.messages) > 1 or not slice_.changed:
        kept = slice_.messages[: len(slice_.messages) // 2]
        upto = kept[-1].seq
        gone = [row for row in slice_.gone if row[0] <= upto]
        return dataclasses.replace(slice_, messages=kept, upto=upto, gone=gone, more=True)
    changed = slice_.changed[: max(1, len(slice_.changed) // 2)]
    gone = [row for row in slice_.gone if row[0] <= since]
    return dataclasses.replace(
        slice_, messages=[], upto=since, gone=gone, changed=changed, rev=changed[-1][0], more=True
    )


def _refused_read(
    room_id: str, epoch: str | None, since: int, *, why: str, top: int = 0, rev: int = 0
) -> protocol.Resumed:
    return protocol.Resumed(
        room=room_id,
        epoch=epoch,
        ok=False,
        from_=since,
        upto=top,
        top=top,
        rev=rev,
        more=False,
        messages=[],
        gone=[],
        changed=[],
        why=why,
    )


def _read(room: MemberRoom, epoch: str, since: int, rev: int | None, limit: int) -> Read:
    return Read(room=room.key, epoch=epoch, since=since, rev=rev, limit=limit, open_history=room.open_history)


def _held(since: protocol.Since | None) -> tuple[str, int]:
    return (since.epoch, since.since) if since else ("", 0)


def _higher(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
