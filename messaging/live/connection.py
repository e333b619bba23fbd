"""One open socket: what waits to be sent to it, how far each room has been sent to it, when it has had its share.

Life: made by the consumer after the handshake -> `hello` gives it feeds (one a room) -> frames are queued by `push` and written
by one task while any wait, coalesced into arrays -> `close` says why. A feed is READING while the store is read for it (what
fans out meanwhile is held), OPEN when what fans out goes straight through, BEHIND when it must `sync` first. Knows nothing of
the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import itertools
import secrets
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol

import msgspec

from messaging import protocol
from messaging.errors import NotMember, Unavailable
from messaging.policy import Policy, Rate
from messaging.protocol import Close
from messaging.store.records import RoomKey

from . import metrics

WAITING_MOST = 4_000  # frames of all kinds; who lets these pile up does not read
_serial = itertools.count(1)
_process = secrets.token_hex(4)


class State(enum.Enum):
    READING = enum.auto()
    OPEN = enum.auto()
    BEHIND = enum.auto()


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive `message` frames of one room as they fan out, already joined by commas.

    `only` is None for everybody, else who may have it besides its senders.
    """

    epoch: str
    after: int
    last: int
    count: int
    text: str
    senders: frozenset[int]
    only: frozenset[int] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemberRoom:
    """A membership as its connections know it: the room's fields and the user's role."""

    key: RoomKey
    name: str
    kind: str
    role: str
    ttl_s: int
    ttl_max_s: int
    tracked: bool

    @property
    def open_history(self) -> bool:
        return self.kind == "public"

    @property
    def moderates(self) -> bool:
        return self.role in ("owner", "moderator")


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """Who a session belongs to. `credential` changes with the password."""

    user: int
    name: str
    session: str
    credential: str


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """An `edited` or `deleted` frame as it fans out. `bare` tells only its rev, for those whom the message is not for."""

    epoch: str
    rev: int
    seq: int
    sender: int
    text: str
    bare: str
    only: frozenset[int] | None = None


class Direct(Protocol):
    """A short way past ASGI, where the server has one: each text as it comes (`on_text` says whether it took it), and texts out."""

    on_text: Callable[[str], bool] | None

    @property
    def writable_now(self) -> bool: ...

    def write(self, text: str) -> None: ...


class Feed:
    """One room as one connection gets it. `last`: newest seq sent; `acked`: newest seq acknowledged over this connection;
    `rev`: newest change the client knows of; above `told_after` up to `rev_told`: changes sent by themselves; `answered`: those
    that came as an answer, before their fan-out; `joined`: where the user's own history begins.
    """

    __slots__ = (
        "acked",
        "answered",
        "epoch",
        "held",
        "held_changes",
        "joined",
        "last",
        "rev",
        "rev_told",
        "room",
        "silence",
        "state",
        "told",
        "told_after",
    )

    def __init__(self, room: MemberRoom) -> None:
        self.room = room
        self.state = State.READING
        self.epoch = ""
        self.last = 0
        self.rev = 0
        self.told_after = 0
        self.rev_told = 0
        self.answered: frozenset[int] = frozenset()
        self.joined = 0
        self.acked = 0
        self.told = (0, 0)  # the position, (top, rev), that the client heard last
        self.held: list[Batch] = []
        self.held_changes: list[Change] = []
        self.silence: Any = None  # the retry net's note, None while nothing is unacknowledged

    def begin(self, epoch: str) -> None:
        """Note which life of the log this is about; in another one changes are numbered anew."""
        if epoch != self.epoch:
            self.epoch, self.rev, self.told_after, self.rev_told = epoch, 0, 0, 0
            self.answered = frozenset()

    def knows(self, rev: int) -> None:
        """Note that the client knows of all changes up to `rev`, or is about to."""
        self.rev = rev
        if self.answered:
            self.answered = frozenset(answered for answered in self.answered if answered > rev)


class Turn(enum.Enum):
    """What a connection has done for it one by one."""

    READ = enum.auto()
    CHANGE = enum.auto()


class Bucket:
    """A token bucket over a monotonic clock in seconds."""

    __slots__ = ("at_s", "rate", "tokens")

    def __init__(self, rate: Rate, now_s: float) -> None:
        self.rate = rate
        self.tokens = float(rate.burst)
        self.at_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        self.tokens = min(self.rate.burst, self.tokens + (now_s - self.at_s) * self.rate.per_s)
        self.at_s = now_s
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate.per_s


class Connection:
    """One open socket of one user."""

    __slots__ = (
        "__weakref__",
        "_failed",
        "_loop",
        "_send",
        "_turns",
        "_waiting",
        "_writer",
        "_writing",
        "_written",
        "bad_frames",
        "buckets",
        "closed",
        "direct",
        "ended",
        "feeds",
        "greeted",
        "id",
        "name",
        "policy",
        "reading",
        "refused",
        "sending_since_s",
        "tasks",
        "typed_s",
        "unsent",
        "user",
        "visitor",
        "welcomed",
    )

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        *,
        visitor: Visitor,
        policy: Policy,
        direct: Direct | None = None,
    ) -> None:
        self.id = f"{_process}.{next(_serial)}"
        self.visitor = visitor
        self.user = visitor.user
        self.name = visitor.name
        self.policy = policy
        self.feeds: dict[str, Feed] = {}
        self.greeted = False
        self.welcomed = False  # `welcome` is the first answer: hints about rooms wait for it
        self.closed: Close | None = None
        self._loop = asyncio.get_running_loop()  # each look for it is a system call in Python 3.11
        self.ended = self._loop.create_future()  # the consumer stops when it is done
        self.unsent = 0  # messages waiting here
        self.sending_since_s: float | None = None
        self._written: asyncio.Event | None = None  # once somebody waits for it
        self.reading = asyncio.Lock()  # one store read at a time
        self._turns = {Turn.READ: self.reading, Turn.CHANGE: asyncio.Lock()}
        self._failed = dict.fromkeys(Turn, 0)
        self.buckets: dict[str, Bucket] = {}
        self.refused = 0  # frames refused for rate since one was taken
        self.typed_s: dict[str, float] = {}
        self.bad_frames: list[float] = []  # when the newest came
        self.tasks: set[asyncio.Task[None]] = set()
        self.direct = direct
        self._send = send
        self._waiting: list[tuple[str, int]] = []
        self._writing = False  # a write is due or under way
        self._writer: asyncio.Task[None] | None = None  # while the socket is full

    def feed(self, room: str) -> Feed:
        """Return the feed of a room that is the user's. Raises NotMember."""
        found = self.feeds.get(room)
        if found is None:
            raise NotMember()
        return found

    def push(self, text: str, messages: int = 0) -> None:
        """Queue one frame, or several joined by commas, of which `messages` are messages."""
        if self.closed is not None:
            return
        self._waiting.append((text, messages))
        self.unsent += messages
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)
        elif len(self._waiting) > WAITING_MOST:
            self.close(Close.TOO_MUCH)

    async def wait_for_room(self) -> None:
        """Wait until the socket has taken enough for another read's answer."""
        while self.unsent >= self.policy.unsent_max and not self.ended.done():
            await self._next_write()

    @contextlib.asynccontextmanager
    async def in_turn(self, turn: Turn) -> AsyncIterator[None]:
        """Let one read, or one change, run at a time, in order. What waited behind one that failed has waited as long as it may."""
        failed = self._failed[turn]
        async with self._turns[turn]:
            if self._failed[turn] != failed:
                raise Unavailable(retry_after_ms=1_000)
            try:
                yield
            except Unavailable:
                self._failed[turn] += 1
                raise

    def push_frame(self, frame: protocol.ServerFrame) -> None:
        """Queue one frame."""
        self.push(protocol.encode(frame).decode())

    def refuse(self, refused: protocol.Refused) -> None:
        """Queue the `error` that answers a frame."""
        metrics.refused[refused.error.code] += 1
        self.push_frame(protocol.error_frame(refused))

    def close(self, code: Close) -> None:
        """End the connection with `code`; what waits is not sent any more."""
        if self.closed is None:
            self.closed = code
            self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close_when_written(self, code: Close) -> None:
        """End the connection with `code` once what waits has been given to the socket."""
        self.spawn(self._close_when_written(code))

    async def _close_when_written(self, code: Close) -> None:
        await self.written()
        self.close(code)

    async def written(self) -> None:
        """Wait until all that waits has been given to the socket."""
        while self._writing and not self.ended.done():
            await self._next_write()

    def spawn(self, work: Awaitable[None]) -> None:
        """Run `work` beside the receiving of frames; it ends with the connection."""
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

    async def finish(self) -> None:
        """Stop everything that runs for this connection, then tell the peer why, if the socket still takes it."""
        writer = self._writer
        for task in (*self.tasks, *([writer] if writer else [])):
            task.cancel()
        self._waiting.clear()
        if self.closed is not None:
            try:
                async with asyncio.timeout(1):
                    await self._send({"type": "websocket.close", "code": int(self.closed)})
            except (TimeoutError, OSError, RuntimeError):
                pass  # gone, or not reading: the transport's own time-out ends it

    def fall_behind(self, feed: Feed, top: int, rev: int) -> None:
        """Send no more messages of the room until the client syncs; tell it where the room stands."""
        feed.state = State.BEHIND
        feed.told = (top, rev)
        self.push_frame(protocol.Position(room=feed.room.key.id, epoch=feed.epoch, top=top, rev=rev))

    def _write(self) -> None:
        """Give the socket all that waits, without a task for it: only a full socket needs one, to wait in."""
        direct = self.direct
        while self._waiting and self.closed is None and direct is not None and direct.writable_now:
            text, messages = self._next_text()
            direct.write(text)
            self.unsent -= messages
            self._wrote()
        if not self._waiting or self.closed is not None:
            self._stop_writing()
            return
        writing = self._write_all()
        try:
            full = writing.send(None)
        except StopIteration:
            return
        self._writer = asyncio.ensure_future(_finish(writing, full))

    async def _write_all(self) -> None:
        """Write while anything waits: one array for all that came while the last one was under way."""
        try:
            while self._waiting:
                text, messages = self._next_text()
                self.sending_since_s = time.monotonic()
                await self._send({"type": "websocket.send", "text": text})
                self.unsent -= messages
                self._wrote()
        except (OSError, RuntimeError):
            self._end()  # the peer is gone; the receiving side hears it too
        finally:
            self._stop_writing()

    def _stop_writing(self) -> None:
        self.sending_since_s = None
        self._writer = None
        self._writing = False
        self._wrote()

    def _wrote(self) -> None:
        if self._written is not None:
            self._written.set()

    async def _next_write(self) -> None:
        if self._written is None:
            self._written = asyncio.Event()
        self._written.clear()
        await self._written.wait()

    def _next_text(self) -> tuple[str, int]:
        """Take from what waits as many frames as one array may hold in bytes; return them, and how many are messages."""
        texts: list[str] = []
        size = messages = 0
        for text, count in self._waiting:
            size += 1 + (len(text) if text.isascii() else len(text.encode()))
            if texts and size >= self.policy.answer_max:
                break
            texts.append(text)
            messages += count
        del self._waiting[: len(texts)]
        return (texts[0] if len(texts) == 1 and messages <= 1 else _array(texts)), messages


_last: tuple[list[str], str] = [], ""


def _array(texts: list[str]) -> str:
    """Return frames as one array. What waits for a room's next socket is mostly the same, and not joined again."""
    global _last
    before, array = _last
    if texts != before:
        array = "[" + ",".join(texts) + "]"
        _last = texts, array
    return array


@types.coroutine
def _finish(begun: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on, in a task, with a coroutine that was begun outside one and waits for a future now."""
    try:
        with contextlib.suppress(Exception):  # `begun` hears it from the future itself
            yield waits_for
    except asyncio.CancelledError:
        begun.close()
        raise
    yield from begun
