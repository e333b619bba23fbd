"""Messages from clients: stored in groups.

1. `send` checks the membership in memory and queues the message.
2. `_commit` sends the queued messages to the store in one round trip. No timer is needed: the messages that arrive during one round trip
   are the next group.
3. The append script stores and publishes them.
4. Each sender gets a `sent` frame, or an `error`. The hub sends the publication to the members.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from messaging import protocol
from messaging.errors import MessagingError, Unavailable
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import Accepted, Append

from . import metrics
from .connection import Connection
from .limits import Limits
from .store_shares import StoreShares

MAX_COMMIT = 400  # messages in one round trip

log = logging.getLogger(__name__)


class Sender:
    """The group commit of one process."""

    def __init__(self, store: Store, limits: Limits, policy: Policy) -> None:
        self.store = store
        self.limits = limits
        self.shares = StoreShares(store, policy)
        self.policy = policy
        self._queue: list[tuple[Connection, Append]] = []
        self._committing = False

    @property
    def busy(self) -> bool:
        """Whether messages wait for the store."""
        return self._committing

    def send(self, connection: Connection, frame: protocol.Send) -> None:
        """Queue a message for the next commit; `sent` or `error` answers it."""
        feed = connection.feed(frame.room)
        self.limits.take("send", connection)
        self.shares.require(connection.user)
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
        self._queue.append((connection, append))
        if not self._committing:
            self._committing = True
            self._committer = asyncio.ensure_future(self._commit())  # the loop keeps only weak references

    async def _commit(self) -> None:
        """Store everything that is queued, until the queue is empty."""
        try:
            while self._queue:
                batch, self._queue = self._queue[:MAX_COMMIT], self._queue[MAX_COMMIT:]
                answers = await self.store.log.append([append for _, append in batch])
                for (connection, append), answer in zip(batch, answers, strict=True):
                    self._answer(connection, append, answer)
                _count(batch, answers)
                if any(isinstance(answer, Unavailable) for answer in answers):
                    self._refuse_queued()
        finally:
            self._committing = False

    def _refuse_queued(self) -> None:
        """Refuse the queued messages when the store has not answered, instead of letting them wait for another timeout."""
        queued, self._queue = self._queue, []
        for connection, append in queued:
            self._answer(connection, append, Unavailable(retry_after_ms=1_000))

    def _answer(self, connection: Connection, append: Append, answer: Accepted | MessagingError) -> None:
        if isinstance(answer, MessagingError):
            connection.refuse(protocol.Refused(answer, "send", append.id, append.room.id))
            return
        if not answer.duplicate:
            self.shares.count(append.user, append.body)
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


def _count(batch: Sequence[tuple[Connection, Append]], answers: Sequence[Accepted | MessagingError]) -> None:
    """Count a commit; log each newly accepted message if the log level is DEBUG."""
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    new = sum(not answer.duplicate for answer in accepted)
    metrics.committed(len(batch))
    metrics.done.accepted += new
    metrics.done.repeated += len(accepted) - new
    if not log.isEnabledFor(logging.DEBUG):
        return
    for (connection, append), answer in zip(batch, answers, strict=True):
        if isinstance(answer, Accepted) and not answer.duplicate:
            ids = {"room": append.room.id, "user": append.user, "seq": answer.seq, "message_id": append.id}
            log.debug("accepted", extra={**ids, "connection": connection.id})
