"""The verbs of a connection on messages that are there: edit, delete, extend, resend, reject, and dismiss on what was told of them.

May I? -> store -> the answer, and the fan-out to everybody else. A change leaves an audit row without text; a database that is
away does not undo it. A refused frame raises a `MessagingError`, which the consumer turns into one `error` frame.
"""

from __future__ import annotations

import logging

from django.db import Error as DatabaseError

from messaging import audit, protocol
from messaging.bridge import in_database
from messaging.errors import Forbidden, NobodyMissedIt, NoSuchMessage, Unavailable
from messaging.expiry import letters
from messaging.expiry.resend import resend
from messaging.models import DeadLetter
from messaging.policy import Policy
from messaging.store import Store
from messaging.store.records import Changed

from . import metrics
from .connection import Change, Connection, Feed
from .hub import Hub
from .limits import Limits
from .notifier import Notifier

log = logging.getLogger(__name__)


class Changes:
    """One process's verbs on messages that are there."""

    def __init__(self, store: Store, hub: Hub, limits: Limits, notifier: Notifier, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.limits = limits
        self.notifier = notifier
        self.policy = policy

    async def edit(self, connection: Connection, frame: protocol.Edit) -> None:
        """Give one's own message another text; answered by `edited`."""
        feed = self._may(connection, frame.room)
        room = feed.room
        changed = await self.store.changes.edit(
            room.key, connection.user, frame.epoch, frame.seq, frame.body, open_history=room.open_history
        )
        answer = _edited(frame.room, changed, body=frame.body, edited_at=changed.edited_at)
        self._answer(connection, feed, changed, answer)
        await self._note("edit", connection, feed, changed)

    async def delete(self, connection: Connection, frame: protocol.Delete) -> None:
        """Take away one's own message, a moderator anybody's; answered by `deleted`."""
        feed = self._may(connection, frame.room)
        room = feed.room
        changed = await self.store.changes.delete(
            room.key,
            connection.user,
            frame.epoch,
            frame.seq,
            open_history=room.open_history,
            moderates=room.moderates,
        )
        answer = protocol.Deleted(room=frame.room, epoch=changed.epoch, rev=changed.rev, seq=changed.seq)
        if not changed.id:  # it was deleted before; whoever asks again has lost the answer
            connection.push_frame(answer)
            return
        self._answer(connection, feed, changed, answer)
        await self._note("delete", connection, feed, changed)

    async def extend(self, connection: Connection, frame: protocol.Extend) -> None:
        """Let one's own message live longer, a moderator anybody's; answered by `edited`."""
        feed = self._may(connection, frame.room)
        room = feed.room
        ttl_s = self.policy.ttl(frame.ttl, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
        changed = await self.store.changes.extend(
            room.key,
            connection.user,
            frame.epoch,
            frame.seq,
            ttl_s * 1000,
            open_history=room.open_history,
            moderates=room.moderates,
        )
        self._answer(connection, feed, changed, _edited(frame.room, changed, expires_at=changed.expires_at))
        await self._note("extend", connection, feed, changed)

    async def resend(self, connection: Connection, frame: protocol.Resend) -> None:
        """Send one's own expired message again to just those who missed it; answered by `sent`."""
        feed = self._may(connection, frame.room)
        if frame.ttl is not None:
            self.policy.ttl(frame.ttl, room_s=feed.room.ttl_s, room_max_s=feed.room.ttl_max_s)
        try:
            letter = await self._letter(connection, feed, frame)
            answer = (await resend(letter.pk, by=connection.user, ttl_s=frame.ttl)).answer
        except DatabaseError as fault:
            raise Unavailable(
                "What was missed cannot be looked up just now.", retry_after_ms=2_000
            ) from fault
        connection.push_frame(
            protocol.Sent(
                id=frame.id,
                room=frame.room,
                epoch=answer.epoch,
                seq=answer.seq,
                sent_at=answer.sent_at,
                expires_at=answer.expires_at,
                duplicate=answer.duplicate,
            )
        )

    async def _letter(self, connection: Connection, feed: Feed, frame: protocol.Resend) -> DeadLetter:
        letter = await in_database(letters.letter_of, frame.room, frame.seq, frame.epoch or feed.epoch)
        if letter is None:
            this_life = frame.epoch is None or frame.epoch == feed.epoch
            if not this_life or not 0 < frame.seq <= self.hub.rooms[frame.room].top:
                raise NoSuchMessage()
            raise NobodyMissedIt("Nobody has missed this message, as far as is known by now.")
        if letter.sender_key != connection.user:
            raise Forbidden("Only its sender sends a message again.")
        return letter

    async def reject(self, connection: Connection, frame: protocol.Reject) -> None:
        """Note that the client cannot show a message. Not answered; a room that is not the user's is ignored."""
        feed = connection.feeds.get(frame.room)
        if feed is None:
            return
        self.limits.take("change", connection)
        if not await self.store.cursors.reject(feed.room.key, connection.user, frame.epoch, frame.seq):
            return
        metrics.done.rejected += 1
        log.info(
            "rejected",
            extra={
                "room": frame.room,
                "user": connection.user,
                "seq": frame.seq,
                "connection": connection.id,
                "reason": "client_rejected",
            },
        )

    async def dismiss(self, connection: Connection, frame: protocol.Dismiss) -> None:
        """End a notice; answered by it, on all of the user's connections."""
        self.limits.take("change", connection)
        try:
            await self.notifier.dismiss(connection.user, frame.notice)
        except DatabaseError as fault:
            raise Unavailable("Notices cannot be changed just now.", retry_after_ms=2_000) from fault

    def _may(self, connection: Connection, room: str) -> Feed:
        feed = connection.feed(room)
        self.limits.take("change", connection)
        return feed

    def _answer(
        self, connection: Connection, feed: Feed, changed: Changed, frame: protocol.ServerFrame
    ) -> None:
        text = protocol.encode(frame).decode()
        change = Change(changed.epoch, changed.rev, changed.seq, connection.user, text, text)
        self.hub.answer_change(connection, feed, change)

    async def _note(self, verb: str, connection: Connection, feed: Feed, changed: Changed) -> None:
        try:
            await in_database(
                audit.note,
                verb,
                now_ms=await self.store.now_ms(),
                user=connection.user,
                room_key=feed.room.key.id,
                seq=changed.seq,
                message_id=changed.id,
                rev=changed.rev,
                detail={"expires_at": changed.expires_at},
            )
        except (DatabaseError, Unavailable):
            ids = {"room": feed.room.key.id, "user": connection.user, "seq": changed.seq}
            log.warning("a change has no audit row", extra={**ids, "verb": verb, "rev": changed.rev})


def _edited(room: str, changed: Changed, **fields: str | int | None) -> protocol.Edited:
    return protocol.Edited(room=room, epoch=changed.epoch, rev=changed.rev, seq=changed.seq, **fields)  # type: ignore[arg-type]
