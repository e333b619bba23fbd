"""The first net: a pushed message that nobody acknowledges is pushed again, later each time, eight times at most.

1. A push to a connection with nothing open starts a silence; one timer a connection runs while any is open.
2. The wait is over and no ack came: the store says whether the user still owes something (his other device may have settled
   it, or the message was his own). Then nothing is open.
3. He owes: one attempt is counted, compare-and-set, for the room and the user; so two connections or processes never count
   the same one, and who reconnects in silence goes on where he stood. The messages above his cursor are pushed again.
4. The third silence also closes the connection (4408): a fresh one may be healthier.
5. After the eighth the room is left alone (`no_ack`) until an ack moves the cursor, which is the only thing that clears the count.

Waits: see `Policy.bound_s`. The sweep's control event enters at 2. Time is the loop's clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
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
from .connection import Connection, Feed, State
from .delivery import wire
from .hub import Hub

PUSH_MOST = 100  # messages of one attempt
ASK_MOST = 500  # users asked about in one call

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class Silence:
    """Something pushed over a connection is unacknowledged; it is looked at when `due_s` has come, None: left alone."""

    due_s: float | None


class Retry:
    """The timers of one process's connections."""

    def __init__(self, store: Store, hub: Hub, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.policy = policy
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        if policy.recovery:
            hub.on_pushed = self.pushed

    def pushed(self, connection: Connection, feed: Feed) -> None:
        """Begin a silence: called for a push when none is open."""
        feed.silence = Silence(asyncio.get_running_loop().time() + self.policy.ack_timeout_s)
        self._arm_sooner(connection, feed)

    def forget(self, connection: Connection) -> None:
        """Stop a connection's timer."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _arm(self, connection: Connection) -> None:
        """Set the connection's one timer to its soonest silence; none when nothing is open."""
        self.forget(connection)
        dues = [
            feed.silence.due_s for feed in connection.feeds.values() if feed.silence and feed.silence.due_s
        ]
        if dues and connection.closed is None:
            loop = asyncio.get_running_loop()
            self._timers[connection] = loop.call_at(min(dues), self._look, connection)

    def _arm_sooner(self, connection: Connection, feed: Feed) -> None:
        """Set the timer anew when this silence is due before what it waits for: another room's may be a minute away."""
        due_s = feed.silence.due_s if feed.silence else None
        timer = self._timers.get(connection)
        if due_s is not None and (timer is None or timer.when() > due_s):
            self._arm(connection)

    def _look(self, connection: Connection) -> None:
        self._timers.pop(connection, None)
        connection.spawn(self._look_at_due(connection))

    async def _look_at_due(self, connection: Connection) -> None:
        now_s = asyncio.get_running_loop().time()
        try:
            for feed in list(connection.feeds.values()):
                silence = feed.silence
                if silence is None or silence.due_s is None or silence.due_s > now_s:
                    continue
                silence.due_s = now_s + self.policy.ack_timeout_s  # whatever comes of this look
                # While a send to the socket is under way the client cannot be blamed for its silence.
                if connection.sending_since_s is None and feed.state is not State.READING:
                    await self._ask(connection, feed, silence)
        except Unavailable:
            pass  # looked at again when the silence is due again
        finally:
            self._arm(connection)

    async def _ask(self, connection: Connection, feed: Feed, silence: Silence) -> None:
        owing = await self.store.retries.owing(feed.room.key, feed.epoch, [connection.user])
        if not owing:
            if feed.silence is silence:
                feed.silence = None
            return
        await self.attempt(connection, feed, owing[0])

    async def attempt(self, connection: Connection, feed: Feed, owing: Owing) -> bool:
        """Count an attempt and push what is owed; False when it is not due, given up, or somebody else's."""
        policy = self.policy
        loop = asyncio.get_running_loop()
        if owing.attempts >= policy.attempts_max:
            feed.silence = Silence(None)
            return False
        wait_ms = owing.next_at_ms - await self.store.now_ms() if owing.next_at_ms else 0
        if wait_ms > 0:
            feed.silence = Silence(loop.time() + wait_ms / 1000)
            return False
        number = owing.attempts + 1
        next_s = policy.wait_s(number + 1, random.random())  # noqa: S311
        if not await self.store.retries.record_attempt(
            feed.room.key, connection.user, owing.attempts, next_s
        ):
            return False
        feed.silence = Silence(loop.time() + next_s if number < policy.attempts_max else None)
        self._note(connection, feed, number)
        await self._push(connection, feed, owing.cursor, number)
        if number == policy.silences_to_close:
            connection.close_when_written(Close.ACKS_MISSING)
        return True

    def _note(self, connection: Connection, feed: Feed, attempt: int) -> None:
        """Count an attempt, and the last one also as giving up."""
        ids = {"room": feed.room.key.id, "user": connection.user, "connection": connection.id}
        metrics.done.retried += 1
        log.info("retry", extra={**ids, "attempt": attempt, "reason": "unacknowledged"})
        if attempt >= self.policy.attempts_max:
            metrics.done.gave_up += 1
            log.warning("gave up", extra={**ids, "attempt": attempt, "reason": "no_ack"})

    async def _push(self, connection: Connection, feed: Feed, cursor: int, attempt: int) -> None:
        """Push the messages above the user's cursor again; one who must sync first is told the position instead."""
        room = self.hub.rooms[feed.room.key.id]
        if feed.state is not State.OPEN:
            connection.fall_behind(feed, room.top, room.rev)
            return
        read = Read(
            room=feed.room.key,
            epoch=feed.epoch,
            since=cursor,
            limit=PUSH_MOST,
            open_history=feed.room.open_history,
            again=True,
        )
        [slice_] = await self.store.log.read_after(connection.user, [read])
        if not isinstance(slice_, Slice) or feed.state is not State.OPEN:
            return
        if slice_.messages and slice_.messages[0].seq > feed.last:
            # The fan-out was lost: a sync brings it in order.
            connection.fall_behind(feed, slice_.top, slice_.rev)
            return
        for stored in slice_.messages:
            if stored.seq > feed.last:
                break  # not sent yet: the fan-out's, or the position's, to bring in order
            message = wire(feed.room.key.id, slice_.epoch, stored, attempt=attempt)
            connection.push(protocol.encode(message).decode(), 1)

    async def sweep(self, room_id: str, epoch: str, mark: int) -> None:
        """Push to this process's own connections that owe something at or below `mark`: the third net's event."""
        room = self.hub.rooms.get(room_id)
        if room is None or not self.policy.recovery:
            return
        feeds = {
            connection.user: (connection, feed)
            for connection, feed in room.feeds.items()
            if _reachable(connection, feed)
        }
        users = list(feeds)
        for at in range(0, len(users), ASK_MOST):
            owing = await self.store.retries.owing(room.key, epoch, users[at : at + ASK_MOST], mark=mark)
            await self._attempt_all(feeds, owing)

    async def _attempt_all(self, feeds: dict[int, tuple[Connection, Feed]], owing: Iterable[Owing]) -> None:
        """Also where this connection was given up: an ack of the user's other device may have begun the count anew."""
        for row in owing:
            connection, feed = feeds[row.user]
            if not _reachable(connection, feed):
                continue
            await self.attempt(connection, feed, row)
            self._arm_sooner(connection, feed)


def _reachable(connection: Connection, feed: Feed) -> bool:
    """Say whether a push would go out now: while a send is under way, the client cannot be blamed for its silence."""
    return (
        feed.state is not State.READING and connection.sending_since_s is None and connection.closed is None
    )
