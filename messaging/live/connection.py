"""One open socket of one user.

The consumer makes it after the handshake -> `hello` adds a feed for each room -> frames are queued on its `writer` -> `close` sets the
close code, and `finish` cleans up. Reads of the store run one after another, and so do changes of messages. Frames about rooms that come
before `welcome` are kept and follow it. Knows nothing of the store.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import secrets
import time
from collections.abc import Awaitable

from messaging import protocol
from messaging.errors import NotMember
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store.records import AckRow

from . import metrics
from .feed import Feed
from .lane import Lane
from .writer import Direct, Send, Writer

MINUTE_S = 60

_serial = itertools.count(1)
_process = secrets.token_hex(4)


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """The user of a session. `credential` changes with the password."""

    user: int
    name: str
    session: str
    credential: str


class Connection:
    """The state of one socket, and the tasks that handle its frames."""

    __slots__ = (
        "_after_welcome",
        "_refused",
        "_refused_since_s",
        "ack_check_due_s",
        "acks_above_top",
        "changes",
        "ended",
        "feeds",
        "greeted",
        "id",
        "name",
        "policy",
        "reads",
        "tasks",
        "user",
        "visitor",
        "welcomed",
        "writer",
    )

    def __init__(self, send: Send, *, visitor: Visitor, policy: Policy, direct: Direct | None = None) -> None:
        self.id = f"{_process}.{next(_serial)}"
        self.visitor = visitor
        self.user = visitor.user
        self.name = visitor.name
        self.policy = policy
        self.feeds: dict[str, Feed] = {}
        self.greeted = False
        self.welcomed = False  # `welcome` is the first answer
        self._after_welcome: list[str] = []  # frames that wait for it
        self._refused_since_s = 0.0  # begin of a minute (monotonic)
        self._refused = 0  # frames refused for good in this minute
        # Acks above top while they are checked, by room: the lowest one, and one that stands for all.
        self.acks_above_top: dict[str, tuple[AckRow, AckRow]] | None = None
        self.ack_check_due_s = 0.0  # when acks above top may be checked again (the loop's clock)
        self.reads = Lane()
        self.changes = Lane()
        self.tasks: set[asyncio.Task[None]] = set()
        self.writer = Writer(
            send, max_bytes=policy.answer_max, close_bytes=policy.unsent_bytes_to_close, direct=direct
        )
        self.ended = self.writer.ended  # the consumer stops when it is done

    @property
    def closed(self) -> Close | None:
        """The close code, once the server has closed the connection."""
        return self.writer.closed

    def feed(self, room: str) -> Feed:
        """Return the feed of a room that the user is a member of. Raises NotMember."""
        feed = self.feeds.get(room)
        if feed is None:
            raise NotMember()
        return feed

    def push_frame(self, frame: protocol.ServerFrame) -> None:
        """Queue one frame."""
        self.writer.push(protocol.encode(frame).decode())

    def welcome(self, frame: protocol.Welcome) -> None:
        """Queue the `welcome` frame, and after it the frames that came too early."""
        self.push_frame(frame)
        self.welcomed = True
        early, self._after_welcome = self._after_welcome, []
        for text in early:
            self.writer.push(text)

    def push_after_welcome(self, text: str) -> None:
        """Queue one frame; before the `welcome` frame keep it until then."""
        if self.welcomed:
            self.writer.push(text)
        else:
            self._after_welcome.append(text)

    def refuse(self, refused: protocol.Refused) -> None:
        """Queue the `error` frame that answers a refused frame. Too many frames refused for good in a minute end the connection."""
        metrics.refused[refused.error.code] += 1
        self.push_frame(protocol.error_frame(refused))
        if refused.error.retryable:
            return  # the store may be away; frames over a rate are counted in `limits`
        now_s = time.monotonic()
        if now_s - self._refused_since_s > MINUTE_S:
            self._refused, self._refused_since_s = 0, now_s
        self._refused += 1
        if self._refused > self.policy.refused_frames_per_minute_max:
            self.close(Close.TOO_MUCH)

    def fall_behind(self, feed: Feed, top: int, rev: int) -> None:
        """Send the client the room's position, and no more messages of the room until it syncs."""
        feed.fall_behind(top, rev)
        self.push_frame(protocol.Position(room=feed.room.key.id, epoch=feed.epoch, top=top, rev=rev))

    @property
    def writable(self) -> bool:
        """Whether little enough is unsent to add the answer of another read."""
        policy, writer = self.policy, self.writer
        return (
            writer.unsent_bytes <= policy.unsent_bytes_max - policy.answer_max
            and writer.unsent < policy.unsent_max
        )

    async def wait_until_writable(self) -> None:
        """Wait until the answer of another read may be added."""
        policy = self.policy
        await self.writer.below(policy.unsent_bytes_max - policy.answer_max, messages=policy.unsent_max)

    @property
    def full(self) -> bool:
        """Whether too much is unsent to add a message or to handle a request."""
        return self.writer.unsent_bytes > self.policy.unsent_bytes_max

    async def wait_while_full(self) -> None:
        """Wait until another request may be handled."""
        await self.writer.below(self.policy.unsent_bytes_max)

    def spawn(self, work: Awaitable[None]) -> None:
        """Run `work` in a task while other frames are received; it is cancelled when the connection ends."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            metrics.done.handler_failures += 1
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a handler failed", "exception": task.exception(), "task": task}
            )
            self.close(Close.HANDLER_FAILED)

    def close(self, code: Close) -> None:
        """End the connection with `code`; queued frames are dropped."""
        self.writer.close(code)

    def close_when_written(self, code: Close) -> None:
        """End the connection with `code` when all queued frames are written."""
        self.spawn(self._close_when_written(code))

    async def _close_when_written(self, code: Close) -> None:
        await self.writer.drained()
        self.close(code)

    async def finish(self) -> None:
        """Cancel this connection's tasks, then send the close code to the peer."""
        for task in self.tasks:
            task.cancel()
        await self.writer.finish()
