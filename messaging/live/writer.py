"""The outgoing frames of one socket: a queue, written as fast as the socket accepts them.

1. `push` queues frames; the first one schedules a write for the next turn of the event loop.
2. All frames that are queued by then are written as one text: a single frame as an object, several as an array.
3. While the socket is full, a task waits for the write; frames that are queued in the meantime are written together as the next array.
4. `close` sets the close code. Queued frames are dropped, the future `ended` is done, and `finish` sends the code to the peer.

More than `close_bytes` in the queue close the connection. Before that, the parts that push react to a slow reader: the hub sets a
room's feed BEHIND, and the reads of the log and the consumer wait in `below`. `stuck_sockets` closes a connection whose socket has taken
nothing for `stuck_send_s`, and the largest ones if a user's sockets or those of the process hold too much.

Knows nothing of rooms, users or the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol

from messaging.protocol import Close

CLOSE_TIMEOUT_S = 1.0
ITEM_BYTES = 72  # the memory of one item of the queue, without its text

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Direct(Protocol):
    """A socket of a server that offers more than ASGI: synchronous writes, and a callback for each incoming text.

    `on_text` returns whether it has handled the text; otherwise the text is received through ASGI.
    """

    on_text: Callable[[str], bool] | None

    @property
    def writable_now(self) -> bool: ...

    @property
    def buffered_bytes(self) -> int: ...

    def write(self, text: str) -> None: ...

    def abort(self) -> None: ...


class Writer:
    """The queue of one socket. `send` is ASGI's.

    A text has at most `max_bytes`, unless a single frame is larger. The queue has at most `close_bytes`, unless it is one frame.
    """

    __slots__ = (
        "_close_bytes",
        "_loop",
        "_max_bytes",
        "_queue",
        "_send",
        "_sending",
        "_task",
        "_writing",
        "_written",
        "closed",
        "direct",
        "ended",
        "sending_since_s",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, send: Send, *, max_bytes: int, close_bytes: int, direct: Direct | None = None) -> None:
        self._loop = asyncio.get_running_loop()  # each call of it is a system call in Python 3.11
        self._send = send
        self._max_bytes = max_bytes
        self._close_bytes = close_bytes
        self.direct = direct
        self.closed: Close | None = None
        self.ended = self._loop.create_future()  # done once nothing more is written
        self.unsent = 0  # messages in the queue and in the present send
        self.unsent_bytes = 0  # bytes in them, of frames of all kinds
        self.sending_since_s: float | None = None  # begin of the present ASGI send (monotonic)
        self._sending = ""  # the text of the present ASGI send
        self._queue: list[tuple[str, int, int]] = []  # (text, bytes, messages in it)
        self._writing = False  # a write is scheduled or under way
        self._task: asyncio.Task[None] | None = None  # while the socket is full
        self._written: asyncio.Event | None = None  # made when `drained` or `below` first waits for a write

    def push(self, text: str, messages: int = 0) -> None:
        """Queue one frame, or several joined by commas, of which `messages` are messages."""
        if self.closed is not None:
            return
        size = len(text) if text.isascii() else _utf8_size(text)
        self._queue.append((text, size, messages))
        self.unsent += messages
        self.unsent_bytes += size
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)
        elif self.unsent_bytes > self._close_bytes:
            self.close(Close.TOO_MUCH)

    def close(self, code: Close) -> None:
        """Stop writing; `finish` will send `code`. Only the first code counts."""
        if self.closed is None:
            self.closed = code
            self._end()

    async def finish(self) -> None:
        """Stop writing and send the close code if there is one and the socket accepts it; abort a socket that does not accept it."""
        if self._task is not None:
            self._task.cancel()
        self._queue.clear()
        if self.closed is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._send({"type": "websocket.close", "code": int(self.closed)})
        except TimeoutError:
            if self.direct is not None:
                self.direct.abort()  # its buffer is full; nothing counts it any more
        except (OSError, RuntimeError):
            pass  # the peer has disconnected

    async def drained(self) -> None:
        """Wait until all queued frames are written, or the connection has ended."""
        while self._writing and not self.ended.done():
            await self._next_write()

    async def below(self, max_bytes: int, *, messages: float = math.inf) -> None:
        """Wait until at most `max_bytes` and fewer than `messages` messages are unsent, or the connection has ended."""
        while (self.unsent_bytes > max_bytes or self.unsent >= messages) and not self.ended.done():
            await self._next_write()

    def memory(self) -> int:
        """Return the bytes of memory that this process holds for the socket. In memory, some texts take four times their bytes."""
        buffered = 0 if self.direct is None else self.direct.buffered_bytes
        if not self.unsent_bytes:
            return buffered
        queued = sum(sys.getsizeof(text) + ITEM_BYTES for text, _, _ in self._queue)
        return buffered + sys.getsizeof(self._sending) + queued

    @property
    def busy(self) -> bool:
        """Whether a write is scheduled or under way."""
        return self._writing

    def _write(self) -> None:
        """Write the queue without a task, if possible: only a full socket needs a task, in which to wait."""
        direct = self.direct
        while self._queue and self.closed is None and direct is not None and direct.writable_now:
            text, size, messages = self._next_text()
            direct.write(text)
            self.unsent -= messages
            self.unsent_bytes -= size
            if self._written is not None:
                self._written.set()
        if not self._queue or self.closed is not None:
            self._stop()
            return
        writing = self._write_all()
        try:
            full = writing.send(None)
        except StopIteration:
            return
        self._task = asyncio.ensure_future(_continue(writing, full))

    async def _write_all(self) -> None:
        """Write through ASGI until the queue is empty: the frames that are queued during a write are the next array."""
        try:
            while self._queue:
                self._sending, size, messages = self._next_text()
                self.sending_since_s = time.monotonic()
                await self._send({"type": "websocket.send", "text": self._sending})
                self.unsent -= messages
                self.unsent_bytes -= size
                if self._written is not None:
                    self._written.set()
        except (OSError, RuntimeError):
            self._end()  # the peer has disconnected; the receiving side notices it too
        finally:
            self._stop()

    def _stop(self) -> None:
        self.sending_since_s = None
        self._sending = ""
        self._task = None
        self._writing = False
        if self._written is not None:
            self._written.set()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def _next_write(self) -> None:
        if self._written is None:
            self._written = asyncio.Event()
        self._written.clear()
        await self._written.wait()

    def _next_text(self) -> tuple[str, int, int]:
        """Remove as many frames from the queue as one array may hold; return their text, their bytes and their number of messages."""
        if len(self._queue) == 1:
            text, size, messages = self._queue.pop()
            return (text if messages <= 1 else _array([text])), size, messages
        texts: list[str] = []
        total = messages = 0
        for text, size, count in self._queue:
            if texts and total + size + len(texts) + 1 >= self._max_bytes:  # a comma or bracket for each
                break
            texts.append(text)
            total += size
            messages += count
        del self._queue[: len(texts)]
        return (texts[0] if len(texts) == 1 and messages <= 1 else _array(texts)), total, messages


# The last text that is not ASCII, with its size: a text for many sockets is measured once.
_measured: tuple[str, int] = "", 0


def _utf8_size(text: str) -> int:
    """Return the number of bytes of a text that is not ASCII."""
    global _measured
    last_text, size = _measured
    if text is not last_text:
        size = len(text.encode())
        _measured = text, size
    return size


# The last array of this process, with its frames. The sockets of a room are written one after another, mostly with the same frames,
# which are then joined only once. The frames are compared by content, so the array is correct for every caller and event loop.
_last: tuple[list[str], str] = [], ""


def _array(texts: list[str]) -> str:
    """Return frames as one array."""
    global _last
    last_texts, array = _last
    if texts != last_texts:
        array = "[" + ",".join(texts) + "]"
        _last = texts, array
    return array


@types.coroutine
def _continue(begun: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Continue in a task a coroutine that was begun outside a task and now waits for a future."""
    try:
        with contextlib.suppress(Exception):  # `begun` gets it from the future itself
            yield waits_for
    except asyncio.CancelledError:
        begun.close()
        raise
    yield from begun
