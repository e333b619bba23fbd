"""uvicorn's protocol for WebSockets, with a short path for texts in both directions.

With ASGI, every text that arrives is put into a queue and wakes a task, and reading of the socket is paused and resumed around it.
Every text that is sent passes through a coroutine and three layers of framing. In rooms of two people, this was a third of the
server's time.

An application finds this protocol in `scope["extensions"]["chat.direct"]` and may set its `on_text`. This function is called with
every text on arrival and returns whether it has handled the text. The application may also call `write` while `writable_now` is
true. Texts that `on_text` does not handle, and all other events, use ASGI.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chatsite.http_protocol import answer

EXTENSION = "chat.direct"
UNREADABLE = answer(
    HTTPStatus.BAD_REQUEST,
    "This cannot become a WebSocket: its headers are too long or too many, or a body follows them",
)
TEXT = b"\x81"  # RFC 6455, 5.2: a text in one fragment


class DirectProtocol(WebSocketsSansIOProtocol):
    """One WebSocket."""

    # Slots: more than 30 attributes in uvicorn's own dict cost each socket 2 KB.
    __slots__ = ("_app_waits", "on_text")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_text: Callable[[str], bool] | None = None
        self._app_waits = False  # the application has received every event and waits for the next

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
        super().data_received(data)
        # uvicorn does not answer or close a handshake that its parser refuses (a header above 8 KB, a body).
        if self.conn.handshake_exc is not None and not (self.handshake_initiated or self.close_sent):
            self.handshake_complete = self.close_sent = True
            self.transport.write(UNREADABLE)
            self.transport.close()

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
            text = b"".join(self.frames).decode()
        except UnicodeDecodeError:
            return False
        return self.on_text(text)

    async def receive(self) -> Any:
        self._app_waits = True
        try:
            return await super().receive()
        finally:
            self._app_waits = False

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

    def write(self, text: str) -> None:
        """Send a text. The socket must be `writable_now`."""
        self.transport.write(framed(text))


# The last text and its frame, for all sockets: a server process has one event loop.
_last: tuple[str, bytes] = "", TEXT + b"\0"


def framed(text: str) -> bytes:
    """Return a text as a frame of the server. A text for many sockets is encoded once."""
    global _last
    last_text, frame = _last
    if text is not last_text:
        payload = text.encode()
        frame = TEXT + _length(len(payload)) + payload
        _last = text, frame
    return frame


def _length(size: int) -> bytes:
    """Return the length field of an unmasked payload (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((size,))
    if size < 65_536:
        return b"\x7e" + size.to_bytes(2, "big")
    return b"\x7f" + size.to_bytes(8, "big")
