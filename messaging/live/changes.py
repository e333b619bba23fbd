"""Changes of existing messages: edit, delete, extend, resend, reject; and dismiss, for a notice about a message.

Authorize -> change the store -> answer the client; the store publishes the change for the other connections. Edit, delete and extend
write an audit row without text; if the database does not answer, the change is valid without it. A refused frame raises a
`MessagingError`, for which the consumer sends one `error` frame.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from django.db import Error as DatabaseError

from messaging import audit, protocol
from messaging.bridge import in_db_thread
from messaging.errors import Forbidden, NobodyMissedIt, NoSuchMessage, Unavailable
from messaging.expiry import letters
from messaging.expiry.resend import resend
from messaging.models import DeadLetter
from messaging.policy import Policy
from messaging.rooms import permissions
from messaging.store import Store
from messaging.store.records import Changed

from . import metrics
from .connection import Connection
from .feed import Feed, MemberRoom
from .hub import Hub
from .limits import Limits
from .notifier import Notifier
from .publications import Change

log = logging.getLogger(__name__)


class Changes:
    """The changes that one process's clients request."""

    def __init__(self, store: Store, hub: Hub, limits: Limits, notifier: Notifier, policy: Policy) -> None:
        self.store = store
        self.hub = hub
        self.limits = limits
        self.notifier = notifier
        self.policy = policy

    async def edit(self, connection: Connection, frame: protocol.Edit) -> None:
        """Replace the text of the user's own message; answered by `edited`."""
        feed = self._authorize(connection, frame.room)
        room = feed.room
        changed = await self.store.changes.edit(
            room.key, connection.user, frame.epoch, frame.seq, frame.body, open_history=room.open_history
        )
        answer = _edited(frame.room, changed, body=frame.body, edited_at=changed.edited_at)
        self._answer(connection, feed, changed, answer)
        await self._audit("edit", connection, feed, changed)

    async def delete(self, connection: Connection, frame: protocol.Delete) -> None:
        """Delete the user's own message; a moderator deletes any message. Answered by `deleted`."""
        feed = self._authorize(connection, frame.room)
        room = feed.room
        changed = await self._change_any(
            connection,
            room,
            partial(
                self.store.changes.delete,
                room.key,
                connection.user,
                frame.epoch,
                frame.seq,
                open_history=room.open_history,
            ),
        )
        answer = protocol.Deleted(room=frame.room, epoch=changed.epoch, rev=changed.rev, seq=changed.seq)
        if not changed.id:  # deleted before: a repeated request means that the first answer was lost
            connection.push_frame(answer)
            return
        self._answer(connection, feed, changed, answer)
        await self._audit("delete", connection, feed, changed)

    async def extend(self, connection: Connection, frame: protocol.Extend) -> None:
        """Extend the life of the user's own message; a moderator extends any message. Answered by `edited`."""
        feed = self._authorize(connection, frame.room)
        room = feed.room
        ttl_s = self.policy.ttl(frame.ttl, room_s=room.ttl_s, room_max_s=room.ttl_max_s)
        changed = await self._change_any(
            connection,
            room,
            partial(
                self.store.changes.extend,
                room.key,
                connection.user,
                frame.epoch,
                frame.seq,
                ttl_s * 1000,
                open_history=room.open_history,
            ),
        )
        self._answer(connection, feed, changed, _edited(frame.room, changed, expires_at=changed.expires_at))
        await self._audit("extend", connection, feed, changed)

    async def _change_any(
        self, connection: Connection, room: MemberRoom, change: Callable[..., Awaitable[Changed]]
    ) -> Changed:
        """Make a change as the sender of the message; if it is another user's, as a moderator. Raises Forbidden."""
        try:
            return await change()
        except Forbidden:
            if not room.moderates:
                raise
        # The role is read again: the connection learns a moment later that it was taken away.
        try:
            membership = await in_db_thread(permissions.membership_of, connection.user, room.key.id)
        except DatabaseError as fault:
            raise Unavailable("Your role cannot be read just now.", retry_after_ms=2_000) from fault
        if not membership.moderates:
            raise Forbidden()
        return await change(moderates=True)

    async def resend(self, connection: Connection, frame: protocol.Resend) -> None:
        """Send the user's own expired message again, only to the members who missed it; answered by `sent`."""
        feed = self._authorize(connection, frame.room)
        if frame.ttl is not None:
            self.policy.ttl(frame.ttl, room_s=feed.room.ttl_s, room_max_s=feed.room.ttl_max_s)
        try:
            letter = await self._letter(connection, feed, frame)
            answer = (await resend(letter.pk, by=connection.user, ttl_s=frame.ttl)).answer
        except DatabaseError as fault:
            raise Unavailable("Missed messages cannot be read just now.", retry_after_ms=2_000) from fault
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
        letter = await in_db_thread(letters.letter_of, frame.room, frame.seq, frame.epoch or feed.epoch)
        if letter is None:
            current_log = frame.epoch is None or frame.epoch == feed.epoch
            if not current_log or not 0 < frame.seq <= self.hub.registry.rooms[frame.room].top:
                raise NoSuchMessage()
            raise NobodyMissedIt("Nobody has missed this message, as far as is known by now.")
        if letter.sender_key != connection.user:
            raise Forbidden("Only its sender sends a message again.")
        return letter

    async def reject(self, connection: Connection, frame: protocol.Reject) -> None:
        """Record that the client cannot show a message. Not answered; ignored if the user is not a member of the room."""
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
        """Dismiss a notice; the `notice` is sent again to all of the user's connections."""
        self.limits.take("change", connection)
        try:
            await self.notifier.dismiss(connection.user, frame.notice)
        except DatabaseError as fault:
            raise Unavailable("Notices cannot be changed just now.", retry_after_ms=2_000) from fault

    def _authorize(self, connection: Connection, room: str) -> Feed:
        feed = connection.feed(room)
        self.limits.take("change", connection)
        return feed

    def _answer(
        self, connection: Connection, feed: Feed, changed: Changed, frame: protocol.ServerFrame
    ) -> None:
        text = protocol.encode(frame).decode()
        change = Change(changed.epoch, changed.rev, changed.seq, connection.user, text, text)
        self.hub.answer_change(connection, feed, change)

    async def _audit(self, verb: str, connection: Connection, feed: Feed, changed: Changed) -> None:
        try:
            await in_db_thread(
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
