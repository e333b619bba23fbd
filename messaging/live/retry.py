"""Retry: an unacknowledged message is pushed again to connected recipients, with backoff, at most eight times.

1. A push to a connection begins a silence of the room's feed. A connection with a silence has one timer.
2. Without an ack in time, the store is asked whether the user owes an ack. If not, the silence ends: another device has acknowledged,
   or the message was the user's own.
3. If the user owes an ack, one attempt is counted for the room and the user, with compare-and-set. So two connections or processes
   never count the same attempt, and the count continues for a client that reconnects without acks. The messages above the cursor are
   pushed again.
4. The third attempt also closes the connection (4408): a new connection may work better.
5. After the eighth attempt the messages are not pushed again (`no_ack`) until an ack moves the cursor. It clears the count, and so does
   a retry by staff.

Waits: see `Policy.bound_s`. The sweep's control event begins at 2. Times are those of the loop's clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from messaging import protocol
from messaging.errors import Unavailable
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store
from messaging.store.records import Owing, Read, Slice

from . import metrics
from .connection import Connection
from .encoding import message_frame
from .feed import Feed, FeedState, Silence
from .registry import Registry

PUSH_BATCH = 100  # messages in one attempt
USER_BATCH = 500  # users in one call of the store

log = logging.getLogger(__name__)


class Retry:
    """The timers of one process's connections."""

    def __init__(self, store: Store, registry: Registry, policy: Policy) -> None:
        self.store = store
        self.registry = registry
        self.policy = policy
        self._timers: dict[Connection, asyncio.TimerHandle] = {}

    def pushed(self, connection: Connection, feed: Feed) -> None:
        """Begin a silence; called for a push while the feed has none."""
        if not self.policy.recovery:
            return
        due_s = asyncio.get_running_loop().time() + self.policy.ack_timeout_s
        feed.begin_silence(due_s)
        timer = self._timers.get(connection)
        if timer is None or timer.when() > due_s:  # the timer may be set for another room, a minute from now
            self._set_timer(connection)

    def forget(self, connection: Connection) -> None:
        """Stop a connection's timer. Idempotent."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _set_timer(self, connection: Connection) -> None:
        """Set the connection's timer to its earliest silence; without a silence it has no timer."""
        self.forget(connection)
        due_s = [
            feed.silence.due_s for feed in connection.feeds.values() if feed.silence and feed.silence.due_s
        ]
        if due_s and connection.closed is None:
            loop = asyncio.get_running_loop()
            self._timers[connection] = loop.call_at(min(due_s), self._check, connection)

    def _check(self, connection: Connection) -> None:
        self._timers.pop(connection, None)
        connection.spawn(self._check_due(connection))

    async def _check_due(self, connection: Connection) -> None:
        now_s = asyncio.get_running_loop().time()
        try:
            for feed in list(connection.feeds.values()):
                silence = feed.silence
                if silence is None or silence.due_s is None or silence.due_s > now_s:
                    continue
                silence.due_s = now_s + self.policy.ack_timeout_s  # unless this check sets another time
                # While a send to the socket is under way, the missing ack is not the client's fault.
                if connection.writer.sending_since_s is None and feed.state is not FeedState.READING:
                    await self._check_silence(connection, feed, silence)
        except Unavailable:
            pass  # the silence is checked when it is due again
        finally:
            self._set_timer(connection)

    async def _check_silence(self, connection: Connection, feed: Feed, silence: Silence) -> None:
        owing = await self.store.retries.owing(feed.room.key, feed.epoch, [connection.user])
        if owing:
            await self.attempt(connection, feed, owing[0])
        else:
            feed.end_silence(silence)

    async def attempt(self, connection: Connection, feed: Feed, owing: Owing) -> bool:
        """Count an attempt and push the owed messages. Return False if it is not due, was the last one, or was counted by another process."""
        policy = self.policy
        loop = asyncio.get_running_loop()
        if owing.attempts >= policy.attempts_max:
            feed.begin_silence(None)
            return False
        wait_ms = owing.next_at_ms - await self.store.now_ms() if owing.next_at_ms else 0
        if wait_ms > 0:
            feed.begin_silence(loop.time() + wait_ms / 1000)
            return False
        number = owing.attempts + 1
        next_s = policy.wait_s(number + 1, random.random())  # noqa: S311
        if not await self.store.retries.record_attempt(
            feed.room.key, connection.user, owing.attempts, next_s
        ):
            return False
        feed.begin_silence(loop.time() + next_s if number < policy.attempts_max else None)
        self._count(connection, feed, number)
        await self._push(connection, feed, owing.cursor, number)
        if number == policy.silences_to_close:
            connection.close_when_written(Close.ACKS_MISSING)
        return True

    def _count(self, connection: Connection, feed: Feed, attempt: int) -> None:
        """Count and log an attempt; the last one is also counted as given up."""
        ids = {"room": feed.room.key.id, "user": connection.user, "connection": connection.id}
        metrics.done.retried += 1
        log.info("retry", extra={**ids, "attempt": attempt, "reason": "unacknowledged"})
        if attempt >= self.policy.attempts_max:
            metrics.done.gave_up += 1
            log.warning("gave up", extra={**ids, "attempt": attempt, "reason": "no_ack"})

    async def _push(self, connection: Connection, feed: Feed, cursor: int, attempt: int) -> None:
        """Push the messages above the user's cursor again. If the client must sync first, send the position instead."""
        room = self.registry.rooms[feed.room.key.id]
        if feed.state is not FeedState.OPEN:
            connection.fall_behind(feed, room.top, room.rev)
            return
        read = Read(
            room=feed.room.key,
            epoch=feed.epoch,
            since=cursor,
            limit=PUSH_BATCH,
            open_history=feed.room.open_history,
            again=True,
        )
        [slice_] = await self.store.log.read_after(connection.user, [read])
        if not isinstance(slice_, Slice) or feed.state is not FeedState.OPEN:
            return
        if slice_.messages and slice_.messages[0].seq > feed.last:
            # The publication was lost: with a sync the client gets the messages in order.
            connection.fall_behind(feed, slice_.top, slice_.rev)
            return
        for stored in slice_.messages:
            if stored.seq > feed.last:
                break  # not sent yet: its publication or a position follows
            frame = message_frame(feed.room.key.id, slice_.epoch, stored, attempt=attempt)
            connection.writer.push(protocol.encode(frame).decode(), 1)

    async def sweep(self, room_id: str, epoch: str, mark: int) -> None:
        """Push to the connections of this process whose users owe a message at or below `mark`."""
        room = self.registry.rooms.get(room_id)
        if room is None or not self.policy.recovery:
            return
        feeds = {
            connection.user: (connection, feed)
            for connection, feed in room.feeds.items()
            if _reachable(connection, feed)
        }
        users = list(feeds)
        for start in range(0, len(users), USER_BATCH):
            chunk = users[start : start + USER_BATCH]
            await self._attempt_all(feeds, await self.store.retries.owing(room.key, epoch, chunk, mark=mark))

    async def _attempt_all(self, feeds: dict[int, tuple[Connection, Feed]], owing: Iterable[Owing]) -> None:
        """Make an attempt for each row, even after the last attempt of a connection: the count may have been cleared since."""
        for row in owing:
            connection, feed = feeds[row.user]
            if not _reachable(connection, feed):
                continue
            await self.attempt(connection, feed, row)
            self._set_earlier_timer(connection, feed)

    def _set_earlier_timer(self, connection: Connection, feed: Feed) -> None:
        """Set the timer again if this silence is due before the timer."""
        due_s = feed.silence.due_s if feed.silence else None
        timer = self._timers.get(connection)
        if due_s is not None and (timer is None or timer.when() > due_s):
            self._set_timer(connection)


def _reachable(connection: Connection, feed: Feed) -> bool:
    """Return whether a push would be sent now. While another send is under way, the missing ack is not the client's fault."""
    return (
        feed.state in (FeedState.OPEN, FeedState.BEHIND)
        and connection.writer.sending_since_s is None
        and connection.closed is None
    )
