"""uvicorn's protocol for WebSockets, with a short path for texts in both directions and bounds on the work for one client.

With ASGI, every text that arrives is put into a queue and wakes a task, and reading of the socket is paused and resumed around it.
Every text that is sent passes through a coroutine and three layers of framing. In rooms of two people, this was a third of the
server's time.

An application finds this protocol in `scope["extensions"]["chat.direct"]` and may set its `on_text`. This function is called with
every text on arrival and returns whether it has handled the text. The application may also call `write` while `writable_now` is
true. Texts that `on_text` does not handle, and all other events, use ASGI.

Much data from one client does not delay the others:

1. A few frames are handled when they arrive. The others are handled in batches, those of all sockets in turn, for 2 ms in each turn of
   the loop.
2. No more is read before all are handled, and while the application or the client does not take the data that waits for it.
3. WebSocket frames of all kinds are counted before they are handled, also without a login. A client with more than
   `Policy.frame_rate` is closed with 4429.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame
from websockets.server import ServerProtocol

from chatsite.http_protocol import answer
from messaging import policy as policies
from messaging.policy import Rate
from messaging.protocol import Close

EXTENSION = "chat.direct"
UNREADABLE = answer(
    HTTPStatus.BAD_REQUEST,
    "This cannot become a WebSocket: its headers are too long or too many, or a body follows them",
)
TEXT_HEAD = b"\x81"  # RFC 6455, 5.2: a text in one fragment
MAX_BATCH = 32  # frames that are handled at once: 32 pings take 0.3 ms
BATCHES_S = 0.002  # for the batches of all sockets in one turn of the loop
FRAME_BYTES = 8_192  # 8 KiB more count as another frame
MAX_FRAGMENTS = 64  # an unfinished text is joined when it has more: one byte in a fragment used 65
CLOSE_S = 1.0  # between the close frame and the end of a flooding client's connection


class Parser(ServerProtocol):
    """A parser that stops after MAX_BATCH frames. `rest` has the bytes after them."""

    rest = bytearray()

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is TEXT and frame.fin and self.current_size is None:
            self.events.append(frame)  # what follows does the same
        else:
            super().recv_frame(frame)
        if len(self.events) >= MAX_BATCH:
            self.rest, self.reader.buffer = self.reader.buffer, bytearray()

    def parse_rest(self) -> None:
        """Parse the next frames."""
        self.reader.buffer, self.rest = self.rest, bytearray()
        self.receive_data(b"")


class DirectProtocol(WebSocketsSansIOProtocol):
    """One WebSocket."""

    # Slots: more than 30 attributes in uvicorn's own dict cost each socket 2 KB.
    __slots__ = ("_app_waits", "_credit", "_credited_s", "_is_full", "_waits", "on_text")
    conn: Parser

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.__class__ = Parser
        self.on_text: Callable[[str], bool] | None = None
        self._app_waits = False  # the application has received every event and waits for the next
        self._is_full = False  # the transport's buffer
        self._waits = False  # for the turn of its next batch
        self._credit = float(_frame_rate().burst)  # frames that may come at once
        self._credited_s = self.loop.time()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def start_keepalive(self) -> None:
        """Start the keepalive and read on: before the answer to its handshake, a client may send nothing.

        Free the request and the response of the handshake, with its cookie: 6 KB for each socket.
        """
        self.request = self.response = None  # type: ignore[assignment]
        cast(list[Any], self.scope["headers"]).clear()
        super().start_keepalive()
        self.transport.resume_reading()

    # Incoming

    def data_received(self, data: bytes) -> None:
        conn = self.conn
        if conn.rest:
            conn.rest += data  # uvicorn reads on after a close
        else:
            conn.receive_data(data)
            self._handle_batch(len(data))
        if conn.rest or self._is_full:
            # After the data and not before it: a slow reader is mostly full, and its acknowledgements must be read.
            self.transport.pause_reading()
            if not self._is_full:
                self._go_on()

    def _handle_batch(self, size: int) -> None:
        """Handle the parsed frames, with `size` bytes more than before, unless the client has sent too many."""
        conn = self.conn
        self._credit -= len(conn.events) + size / FRAME_BYTES
        if self._credit < 0 and not self._has_credit():
            self._close_flooding()
        elif conn.parser_exc is not None:
            self.handle_parser_exception()
        elif conn.handshake_exc is not None:
            self._refuse_handshake()
        else:
            self.handle_events()

    def handle_events(self) -> None:
        for event in self.conn.events_received():
            if type(event) is not Frame:
                self.handle_connect(event)
                continue
            opcode = event.opcode
            if self.close_sent:
                self.conn.data_to_send()  # no pongs any more
                if opcode is CLOSE:
                    self.handle_close(event)
            elif opcode is TEXT:
                self.handle_text(event)
            elif opcode is CONT:
                self.handle_cont(event)
            elif opcode is BINARY:
                self.handle_bytes(event)
            elif opcode is PING:
                self.handle_ping()
            elif opcode is PONG:
                self.handle_pong(event)
            else:
                self.handle_close(event)

    def _refuse_handshake(self) -> None:
        """Refuse a handshake with headers above 8 KB or a body, which uvicorn neither answers nor closes."""
        if not self.close_sent:
            self.handshake_complete = self.close_sent = True
            self.transport.write(UNREADABLE)
            self.transport.close()

    def _has_credit(self) -> bool:
        """Add the credit of the time that has passed. Return whether there is any."""
        rate, now_s = _frame_rate(), self.loop.time()
        self._credit = min(rate.burst, self._credit + (now_s - self._credited_s) * rate.per_s)
        self._credited_s = now_s
        return self._credit >= 0

    def _close_flooding(self) -> None:
        """Close with 4429 and read nothing more; abort if no close frame can be sent."""
        if self.close_sent or not self.handshake_complete or self._is_full:
            self.transport.abort()
            return
        self.conn.data_to_send()  # drop the pongs
        code, reason = int(Close.TOO_MUCH), "Too many WebSocket frames or bytes."
        self.conn.fail(code, reason)
        self.transport.pause_reading()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_timer = self.loop.call_later(CLOSE_S, self.transport.close)

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = [b"".join(self.frames)]

    def send_receive_event_to_app(self) -> None:
        if self.on_text is not None and self._app_waits and self.queue.empty() and self._handled():
            self.frames = []
            return
        super().send_receive_event_to_app()

    def _handled(self) -> bool:
        """Pass a text to `on_text` and return whether it handled the text. Other frames are not passed."""
        if self.close_sent or self.curr_msg_data_type != "text" or self.on_text is None:
            return False
        try:
            text = (self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)).decode()
        except UnicodeDecodeError:
            return False
        return self.on_text(text)

    async def receive(self) -> Any:
        self._app_waits = True
        try:
            event = await self.queue.get()
        finally:
            self._app_waits = False
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if not self._is_full:
                self._go_on()
        return event

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_full = False
        self._go_on()

    def _go_on(self) -> None:
        """Handle the next batch, or read on if there is none. Do neither while the application has events to receive."""
        if self.read_paused or self.conn.eof_sent or not self.handshake_complete:
            return
        if self.conn.rest:
            self._wait_for_turn()
        else:
            self.transport.resume_reading()

    def _wait_for_turn(self) -> None:
        if self._waits:
            return
        self._waits = True
        waiting = _waiting.setdefault(self.loop, deque())
        waiting.append(self)
        if len(waiting) == 1:
            self.loop.call_soon(_handle_batches, waiting)

    def _handle_next_batch(self) -> None:
        self._waits = False
        if self.transport.is_closing():
            return
        try:
            self.conn.parse_rest()
            self._handle_batch(0)
        except Exception:
            self.logger.exception("the data of a socket cannot be handled")
            self.transport.abort()
        if not self._is_full:
            self._go_on()

    # Outgoing

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None:
            self.handshake_complete = True  # by a refusal. Without it, uvicorn logs an error

    @property
    def writable_now(self) -> bool:
        """Whether a text can be written now: the socket is open and its buffer is not full."""
        return (
            self.writable.is_set()
            and self.handshake_complete
            and not (self.close_sent or self.disconnected or self.transport.is_closing())
        )

    @property
    def buffered_bytes(self) -> int:
        """The bytes that the peer's system has not taken."""
        return self.transport.get_write_buffer_size()

    def write(self, text: str) -> None:
        """Send a text. The socket must be `writable_now`."""
        self.transport.write(framed(text))

    def abort(self) -> None:
        """Drop what the peer's system has not taken, and close the socket."""
        self.transport.abort()


@cache
def _frame_rate() -> Rate:
    policy = policies.current()
    # A smaller scale makes the other rates stricter. A client that keeps them must not be closed.
    return policy.rate(policy.frame_rate) if policy.rate_limit_scale > 1 else policy.frame_rate


_waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, deque[DirectProtocol]] = (
    weakref.WeakKeyDictionary()
)


def _handle_batches(waiting: deque[DirectProtocol]) -> None:
    """Handle batches of the sockets in turn. The others wait for the next turn of the loop."""
    loop = waiting[0].loop
    ends_s = time.perf_counter() + BATCHES_S
    while waiting and time.perf_counter() < ends_s:
        waiting[0]._handle_next_batch()
        waiting.popleft()  # afterwards: only an empty deque needs another call
    if waiting:
        loop.call_soon(_handle_batches, waiting)


# The last text and its frame, for all sockets: a server process has one event loop.
_last: tuple[str, bytes] = "", TEXT_HEAD + b"\0"


def framed(text: str) -> bytes:
    """Return a text as a frame of the server. A text for many sockets is encoded once."""
    global _last
    last_text, frame = _last
    if text is not last_text:
        payload = text.encode()
        frame = TEXT_HEAD + _length(len(payload)) + payload
        _last = text, frame
    return frame


def _length(size: int) -> bytes:
    """Return the length field of an unmasked payload (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((size,))
    if size < 65_536:
        return b"\x7e" + size.to_bytes(2, "big")
    return b"\x7f" + size.to_bytes(8, "big")
