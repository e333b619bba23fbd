"""uvicorn's protocol for HTTP, with bounds on the time, the size and the number of requests that a client has not finished.

uvicorn expects a proxy that has these bounds. Without one, any client could fill the memory or the disk, or hold all connections.

1. The headers arrive within 10 s, the body within 30 s.
2. A body over 64 KiB is refused before a view runs and before any of it is written to a file.
3. At most 8 requests wait while another request of the same connection is answered.
4. In each turn of the loop, at most one connection becomes a WebSocket.
5. The last file descriptors are kept for the database and the store.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import resource
import time
import weakref
from collections import deque
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from messaging.errors import TooLarge
from messaging.web.endpoint import MAX_BODY_BYTES

log = logging.getLogger(__name__)

MAX_HEADERS = 128  # as in the handshake of a WebSocket
MAX_HEADER_BYTES = 32_768
MAX_PIPELINED = 8  # browsers and proxies send one request at a time
MIN_PIECE_BYTES = 64  # a piece of a body counts as at least this many bytes: 64 Ki pieces took 0.1 s
LINGER_S = 1.0  # between a refusal and the close: with unread bytes, the kernel would discard the answer
MAX_LINGER_BYTES = 1_048_576
RESERVED_FILES = 64
LOG_INTERVAL_S = 60.0
EARLY = "A client of a WebSocket waits for the answer to its handshake before it sends anything."


class Part(enum.Enum):
    """The part of a request that has not arrived completely."""

    HEADERS = enum.auto()
    BODY = enum.auto()


TIME_LIMITS_S = {Part.HEADERS: 10.0, Part.BODY: 30.0}
# Of an unfinished part as it is read: with the framing of chunks.
MAX_BYTES = {Part.HEADERS: MAX_HEADER_BYTES, Part.BODY: 2 * MAX_BODY_BYTES}


class Refused(Exception):
    """Raised to stop the parser after a refusal."""


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._part: Part | None = None
        self._part_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = self._body_bytes = 0
        self._in_body = False
        self._refused = self._upgrade_waits = False
        self._answering: RequestResponseCycle | None = None  # `cycle` is that of the last request
        if _is_last_file(transport):
            self._refused = True
            transport.write(answer(HTTPStatus.SERVICE_UNAVAILABLE, "The server is full. Try again later."))
            transport.close()
            return
        self._await(Part.HEADERS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        self._stop_answering()
        super().connection_lost(exc)

    # Reading

    def data_received(self, data: bytes) -> None:
        self._part_bytes += len(data)
        if self._refused:
            if self._part_bytes > MAX_LINGER_BYTES:
                self.transport.close()
            return
        if self._upgrade_waits:
            self._refuse(HTTPStatus.BAD_REQUEST, EARLY)
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._await(None)
                if upgrade.args[0] < len(data):
                    self._refuse(HTTPStatus.BAD_REQUEST, EARLY)
                else:
                    self.handle_websocket_upgrade()
                return
            self._unsupported_upgrade_warning()
        except httptools.HttpParserError:
            if not self._refused:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")
        if not self._refused:
            self._await(self._unfinished_part())

    def _unfinished_part(self) -> Part | None:
        if self._in_body:
            return Part.BODY
        return None if self._is_answering else Part.HEADERS

    def _await(self, part: Part | None) -> None:
        """Begin the time limit of a part, unless it has begun, and check the number of its bytes."""
        if part is not self._part:
            self._part, self._part_bytes = part, 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            if part is not None:
                self._deadline = self.loop.call_later(TIME_LIMITS_S[part], self._end_of_time)
        elif part is not None and self._part_bytes > MAX_BYTES[part]:
            self._refuse_size(part)

    def _end_of_time(self) -> None:
        if not self._header_bytes:
            self.transport.close()  # without a request there is no answer
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time. Send it again.")

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._drop()
            raise Refused
        self._header_bytes = self._body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_headers(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_headers(len(name) + len(value))
        super().on_header(name, value)

    def _count_headers(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            self._refuse_size(Part.HEADERS)
            raise Refused

    def on_headers_complete(self) -> None:
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        if int(length) > MAX_BODY_BYTES:
            self._refuse_size(Part.BODY)
            raise Refused
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += max(len(body), MIN_PIECE_BYTES)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse_size(Part.BODY)
            raise Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    # Refusals

    def _refuse_size(self, part: Part) -> None:
        if part is Part.BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TooLarge().detail, code=TooLarge.code)
        else:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The headers of the request are too long or too many. Delete the cookies of this site.",
            )

    def _refuse(self, status: HTTPStatus, sentence: str, *, code: str = "") -> None:
        """Answer the request that the client has not finished, and close.

        While an earlier request is not answered, close without an answer: it would be taken for that of the earlier request.
        """
        if self.transport.is_closing():
            return
        if self._is_answering:
            if self._answering is not self.cycle or self.cycle.response_started or not self._in_body:
                self._drop()
                return
            self._stop_answering()
        self._await(None)
        self._refused = True
        is_api = self.url.startswith(b"/api/") if code else False
        self.transport.write(answer(status, sentence, code=code if is_api else ""))
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _drop(self) -> None:
        """Close without an answer."""
        self._await(None)
        self._refused = True
        self._stop_answering()
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _stop_answering(self) -> None:
        """Let the application receive the end of the connection, and drop its answer: uvicorn does this only for the last request."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    # Upgrades

    def handle_websocket_upgrade(self) -> None:
        self.transport.pause_reading()
        if self._is_answering:
            self._upgrade_waits = True  # the answers to earlier requests are sent before
            return
        waiting = _upgrading.setdefault(self.loop, deque())
        waiting.append(self)
        if len(waiting) == 1:
            self.loop.call_soon(_upgrade_next, waiting)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._upgrade_waits and not self._is_answering:
            self._unset_keepalive_if_required()
            self.handle_websocket_upgrade()

    def _upgrade(self) -> None:
        """Become a WebSocket, which reads on when its handshake is complete."""
        if self.transport.is_closing():
            return
        try:
            super().handle_websocket_upgrade()
        except Exception:
            self.transport.abort()
            raise


# In a reconnect storm, a thousand handshakes in one turn delayed all other users by 0.2 s.
_upgrading: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, deque[HttpProtocol]] = (
    weakref.WeakKeyDictionary()
)


def _upgrade_next(waiting: deque[HttpProtocol]) -> None:
    protocol = waiting[0]
    try:
        protocol._upgrade()
    finally:
        waiting.popleft()
        if waiting:
            protocol.loop.call_soon(_upgrade_next, waiting)


def answer(status: HTTPStatus, sentence: str, *, code: str = "") -> bytes:
    """Return a whole response: a sentence as plain text; with `code`, an error of the JSON API."""
    body, kind = sentence, "text/plain; charset=utf-8"
    if code:
        body, kind = json.dumps({"error": {"code": code, "detail": sentence}}), "application/json"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n"
    )
    return (head + body).encode("ascii")


_logged_s = -LOG_INTERVAL_S


def _is_last_file(transport: asyncio.Transport) -> bool:
    """Return whether a new connection uses one of the last file descriptors. This is logged at most once a minute.

    The kernel gives the lowest free number, so the number of a connection shows how many descriptors are in use. Without any, the
    server could not open the database, and the event loop would close new connections without a word.
    """
    global _logged_s
    connection = transport.get_extra_info("socket")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or connection.fileno() < limit - min(RESERVED_FILES, limit // 4):
        return False
    now_s = time.monotonic()
    if now_s - _logged_s >= LOG_INTERVAL_S:
        _logged_s = now_s
        log.error(
            "new connections are refused: %d of at most %d open files are in use; raise the limit (LimitNOFILE, ulimit -n)",
            connection.fileno(),
            limit,
        )
    return True
