"""The chat's WebSocket: the handshake, the dispatch of frames to their handlers, and the cleanup.

Origin (403) -> session (503 if it cannot be checked, 4501 if there is none) -> at most 20 connections for each user (4429) -> `hello`
within 10 s (4402) -> frames until either side closes. Channels would use a thread for every event, and would end without a log line if
a handler raises. Therefore `__call__` has its own loop. If a handler raises, the connection is removed from all parts of the server and
closed with 1011.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from channels.consumer import AsyncConsumer
from django.conf import settings
from django.db import Error as DatabaseError

from messaging.live.connection import Connection
from messaging.live.origins import origin_allowed
from messaging.live.server import Server, current_server

from . import protocol
from .errors import BadFrame, MessagingError
from .live import directory, metrics
from .protocol import Close

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Connection, Any], Any]


class Mode(enum.Enum):
    """The order in which a frame is handled, relative to the frames after it."""

    FIRST = enum.auto()  # completely before them; the only mode that is legal before the greeting
    NOW = enum.auto()  # at once, when the text arrives: the handler does not wait
    CONCURRENT = enum.auto()  # in a task; reads of the log wait for one another in the connection's `reads`
    CHANGE = enum.auto()  # in a task; changes wait for one another in the connection's `changes`


# {type of frame: (handler, mode)}
FRAMES: dict[type[protocol.ClientFrame], tuple[Callable[[Server], Handler], Mode]] = {
    protocol.Hello: (lambda server: server.greeter.hello, Mode.FIRST),
    protocol.Send: (lambda server: server.sender.send, Mode.NOW),
    protocol.Ack: (lambda server: server.acknowledger.acknowledge, Mode.NOW),
    protocol.Ping: (lambda server: server.ephemeral.ping, Mode.NOW),
    protocol.Sync: (lambda server: server.reader.sync, Mode.CONCURRENT),
    protocol.History: (lambda server: server.reader.history, Mode.CONCURRENT),
    protocol.Typing: (lambda server: server.ephemeral.typing, Mode.CONCURRENT),
    protocol.Edit: (lambda server: server.changes.edit, Mode.CHANGE),
    protocol.Delete: (lambda server: server.changes.delete, Mode.CHANGE),
    protocol.Extend: (lambda server: server.changes.extend, Mode.CHANGE),
    protocol.Resend: (lambda server: server.changes.resend, Mode.CHANGE),
    protocol.Reject: (lambda server: server.changes.reject, Mode.CHANGE),
    protocol.Dismiss: (lambda server: server.changes.dismiss, Mode.CHANGE),
}
_NOW = frozenset(frame_type for frame_type, (_, mode) in FRAMES.items() if mode is Mode.NOW)


class ChatConsumer(AsyncConsumer):
    """One WebSocket."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        connection = await self._accept(scope, send)
        if connection is None:
            return
        server = current_server()
        direct = connection.writer.direct
        if direct is not None:
            direct.on_text = lambda text: self._handle_at_once(server, connection, text)
        hello_due = asyncio.get_running_loop().call_later(
            server.policy.hello_timeout_s, connection.close, Close.NO_HELLO
        )
        receiving = asyncio.ensure_future(self._receive_frames(server, connection, receive, hello_due))
        try:
            await asyncio.wait({receiving, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
        except Exception:  # noqa: BLE001 -- after any error the connection is closed with 1011 and removed
            _fail(connection)
        finally:
            if direct is not None:
                direct.on_text = None
            hello_due.cancel()
            receiving.cancel()
            server.leave(connection)
            await connection.finish()

    # Handshake

    async def _accept(self, scope: dict[str, Any], send: Send) -> Connection | None:
        headers = scope["headers"]
        origin = next((value for name, value in headers if name == b"origin"), None)
        if not origin_allowed(origin, frozenset(settings.SITE_ORIGINS)):
            await send({"type": "websocket.close"})  # before the accept: HTTP 403
            return None
        try:
            visitor = await directory.authenticate(directory.session_key(headers))
        except DatabaseError:
            log.warning("a session cannot be checked: the database does not answer")
            await send(
                {"type": "websocket.http.response.start", "status": 503, "headers": [(b"retry-after", b"5")]}
            )
            await send({"type": "websocket.http.response.body", "body": b""})
            return None
        await send({"type": "websocket.accept"})
        if visitor is None:
            await send({"type": "websocket.close", "code": int(Close.NO_SESSION)})
            return None
        server = current_server()
        if len(server.registry.by_user.get(visitor.user, ())) >= server.policy.connections_per_user_max:
            await send({"type": "websocket.close", "code": int(Close.TOO_MUCH)})
            return None
        direct = (scope.get("extensions") or {}).get("chat.direct")
        connection = Connection(send, visitor=visitor, policy=server.policy, direct=direct)
        server.registry.enter(connection)
        return connection

    # Frames

    def _handle_at_once(self, server: Server, connection: Connection, text: str) -> bool:
        """Handle a text when it arrives, if all its frames have the mode NOW; otherwise return False: `_receive_frames` handles it."""
        policy = server.policy
        if not connection.greeted or connection.writer.closed is not None or len(text) * 3 > policy.frame_max:
            return False
        if connection.full:
            return False  # `_receive_frames` waits
        frames = protocol.parse(text, frames_max=policy.frames_in_array_max, body_max=policy.body_max)
        for frame in frames:
            if type(frame) not in _NOW:
                return False
        metrics.done.frames += len(frames)
        try:
            for frame in frames:
                try:
                    FRAMES[type(frame)][0](server)(connection, frame)  # type: ignore[index]
                except MessagingError as error:
                    _refuse(server, connection, protocol.refused(frame, error))  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 -- as in a task: the connection ends with 1011
            _fail(connection)
        return True

    async def _receive_frames(
        self, server: Server, connection: Connection, receive: Receive, hello_due: asyncio.TimerHandle
    ) -> None:
        policy = server.policy
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            text = event.get("text")
            if text is None:
                _refuse(server, connection, protocol.Refused(BadFrame("Frames are text, not binary.")))
                continue
            if len(text) * 3 > policy.frame_max and len(text.encode(errors="replace")) > policy.frame_max:
                connection.close(Close.TOO_BIG)
                return
            frames = protocol.parse(text, frames_max=policy.frames_in_array_max, body_max=policy.body_max)
            metrics.done.frames += len(frames)
            for frame in frames:
                if isinstance(frame, protocol.Hello):
                    hello_due.cancel()  # the time limit is for the client: in a reconnect storm, a hello waits here
                # Nothing more is received either: the answers to a client that does not read them need bounded memory.
                await connection.wait_while_full()
                await self._handle_or_refuse(server, connection, frame)

    async def _handle_or_refuse(
        self, server: Server, connection: Connection, frame: protocol.AnyClientFrame | protocol.Refused
    ) -> None:
        if isinstance(frame, protocol.Refused):
            _refuse(server, connection, frame)
            return
        try:
            await self._handle(server, connection, frame)
        except MessagingError as error:
            _refuse(server, connection, protocol.refused(frame, error))

    async def _handle(self, server: Server, connection: Connection, frame: protocol.AnyClientFrame) -> None:
        handler_of, mode = FRAMES[type(frame)]
        handler = handler_of(server)
        if mode is Mode.FIRST:
            await handler(connection, frame)
        elif not connection.greeted:
            raise BadFrame("The first frame of a connection is hello.")
        elif mode is Mode.NOW:
            handler(connection, frame)
        else:
            await self._handle_concurrently(server, connection, frame, handler, in_lane=mode is Mode.CHANGE)

    async def _handle_concurrently(
        self, server: Server, connection: Connection, frame: Any, handler: Handler, *, in_lane: bool
    ) -> None:
        """Handle a frame in a task while others are received. With too many tasks, receive no more frames until it is handled."""
        if len(connection.tasks) >= connection.policy.reads_waiting_max:
            await asyncio.sleep(0)  # so that the tasks of earlier frames begin first
            await _answer(server, connection, frame, handler, in_lane=in_lane)
        else:
            connection.spawn(_answer(server, connection, frame, handler, in_lane=in_lane))


async def _answer(
    server: Server, connection: Connection, frame: Any, handler: Handler, *, in_lane: bool
) -> None:
    try:
        if in_lane:
            async with connection.changes.turn():
                await handler(connection, frame)
        else:
            await handler(connection, frame)
    except MessagingError as error:
        _refuse(server, connection, protocol.refused(frame, error))


def _refuse(server: Server, connection: Connection, refused: protocol.Refused) -> None:
    """Answer with one `error`; the tenth bad frame in a minute closes the connection with 4400."""
    connection.refuse(refused)
    if isinstance(refused.error, BadFrame) and server.limits.bad_frame(connection):
        connection.close_when_written(Close.TOO_MANY_BAD_FRAMES)


def _fail(connection: Connection) -> None:
    """Log the error of a handler and close its connection."""
    metrics.done.handler_failures += 1
    log.exception("a handler failed", extra={"connection": connection.id, "user": connection.user})
    connection.close(Close.HANDLER_FAILED)
