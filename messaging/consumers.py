"""The chat's WebSocket: handshake, frames in, a verb each; an end that always cleans up.

Life: Origin (403) -> session (503 when it cannot be checked, 4501 when it is none) -> at most 20 connections a user (4429) ->
`hello` within 10 s (4402) -> frames until either side ends. Channels would hop to a thread for every event and, when a handler
raises, leave without a word; so `__call__` has its own loop: a handler that raises leaves nobody in the hub and closes with 1011.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from channels.consumer import AsyncConsumer
from django.conf import settings
from django.db import Error as DatabaseError

from messaging.live.changes import Changes
from messaging.live.connection import Connection, Turn
from messaging.live.delivery import Delivery
from messaging.live.origins import origin_allowed
from messaging.live.server import Server, server

from . import protocol
from .errors import BadFrame, MessagingError
from .live import directory, metrics
from .protocol import Close

log = logging.getLogger(__name__)

_AT_ONCE = (protocol.Send, protocol.Ack, protocol.Ping)  # nothing of these waits for anything

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ChatConsumer(AsyncConsumer):
    """One WebSocket."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        connection = await self._shake_hands(scope, send)
        if connection is None:
            return
        here = server()
        if connection.direct is not None:
            connection.direct.on_text = lambda text: self._take_at_once(here, connection, text)
        receiving = asyncio.ensure_future(self._receive_frames(here, connection, receive))
        hello_due = asyncio.get_running_loop().call_later(
            here.policy.hello_timeout_s, _close_ungreeted, connection
        )
        try:
            await asyncio.wait({receiving, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
        except Exception:  # noqa: BLE001 -- whatever it is, the connection ends with 1011 and leaves nobody behind
            _fail(connection)
        finally:
            if connection.direct is not None:
                connection.direct.on_text = None
            hello_due.cancel()
            receiving.cancel()
            here.leave(connection)
            await connection.finish()

    # Handshake

    async def _shake_hands(self, scope: dict[str, Any], send: Send) -> Connection | None:
        headers = scope["headers"]
        origin = next((value for name, value in headers if name == b"origin"), None)
        if not origin_allowed(origin, frozenset(settings.SITE_ORIGINS)):
            await send({"type": "websocket.close"})  # before the accept: HTTP 403
            return None
        try:
            visitor = await directory.visitor(directory.session_key(headers))
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
        here = server()
        if len(here.hub.by_user.get(visitor.user, ())) >= here.policy.connections_per_user_max:
            await send({"type": "websocket.close", "code": int(Close.TOO_MUCH)})
            return None
        direct = (scope.get("extensions") or {}).get("chat.direct")
        connection = Connection(send, visitor=visitor, policy=here.policy, direct=direct)
        here.hub.enter(connection)
        return connection

    # Frames

    def _take_at_once(self, here: Server, connection: Connection, text: str) -> bool:
        """Take a text of frames that wait for nothing, where it arrives; False leaves it to `_receive_frames`."""
        policy = here.policy
        if not connection.greeted or connection.closed is not None or len(text) * 3 > policy.frame_max:
            return False
        frames = protocol.parse(text, frames_max=policy.frames_in_array_max, body_max=policy.body_max)
        if not all(isinstance(frame, _AT_ONCE) for frame in frames):
            return False
        metrics.done.frames += len(frames)
        try:
            for frame in frames:
                try:
                    self._do_at_once(here.delivery, connection, frame)
                except MessagingError as error:
                    self._refuse(connection, protocol.refused(frame, error))  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 -- as where a task takes them: the connection ends with 1011
            _fail(connection)
        return True

    def _do_at_once(self, delivery: Delivery, connection: Connection, frame: object) -> None:
        if isinstance(frame, protocol.Send):
            delivery.send(connection, frame)
        elif isinstance(frame, protocol.Ack):
            delivery.acknowledge(connection, frame)
        elif isinstance(frame, protocol.Ping):
            delivery.ping(connection, frame)

    async def _receive_frames(self, here: Server, connection: Connection, receive: Receive) -> None:
        policy = here.policy
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            text = event.get("text")
            if text is None:
                self._refuse(connection, protocol.Refused(BadFrame("Frames are text, not binary.")))
                continue
            if len(text) * 3 > policy.frame_max and len(text.encode(errors="replace")) > policy.frame_max:
                connection.close(Close.TOO_BIG)
                return
            frames = protocol.parse(text, frames_max=policy.frames_in_array_max, body_max=policy.body_max)
            metrics.done.frames += len(frames)
            for frame in frames:
                await self._take(here, connection, frame)

    async def _take(
        self, here: Server, connection: Connection, frame: protocol.AnyClientFrame | protocol.Refused
    ) -> None:
        if isinstance(frame, protocol.Refused):
            self._refuse(connection, frame)
            return
        try:
            await self._dispatch_frame(here, connection, frame)
        except MessagingError as error:
            self._refuse(connection, protocol.refused(frame, error))

    async def _dispatch_frame(
        self, here: Server, connection: Connection, frame: protocol.AnyClientFrame
    ) -> None:
        delivery = here.delivery
        if isinstance(frame, protocol.Hello):
            await delivery.hello(connection, frame)
        elif not connection.greeted:
            raise BadFrame("The first frame of a connection is hello.")
        elif isinstance(frame, _AT_ONCE):
            self._do_at_once(delivery, connection, frame)
        elif isinstance(frame, protocol.Sync):
            await self._beside(connection, frame, delivery.sync(connection, frame))
        elif isinstance(frame, protocol.History):
            await self._beside(connection, frame, delivery.history(connection, frame))
        elif isinstance(frame, protocol.Typing):
            await self._beside(connection, frame, delivery.typing(connection, frame))
        else:
            await self._beside(connection, frame, self._change(here.changes, connection, frame))

    async def _change(self, changes: Changes, connection: Connection, frame: protocol.AnyChange) -> None:
        async with connection.in_turn(Turn.CHANGE):
            match frame:
                case protocol.Edit():
                    await changes.edit(connection, frame)
                case protocol.Delete():
                    await changes.delete(connection, frame)
                case protocol.Extend():
                    await changes.extend(connection, frame)
                case protocol.Resend():
                    await changes.resend(connection, frame)
                case protocol.Reject():
                    await changes.reject(connection, frame)
                case protocol.Dismiss():
                    await changes.dismiss(connection, frame)

    async def _beside(self, connection: Connection, frame: Any, work: Awaitable[None]) -> None:
        """Let a verb that reads the store run beside the receiving; with many under way the peer waits."""
        if len(connection.tasks) >= connection.policy.reads_waiting_max:
            await asyncio.sleep(0)  # what came before it, and has not begun yet, goes first
            await self._answered(connection, frame, work)
        else:
            connection.spawn(self._answered(connection, frame, work))

    async def _answered(self, connection: Connection, frame: Any, work: Awaitable[None]) -> None:
        try:
            await work
        except MessagingError as error:
            self._refuse(connection, protocol.refused(frame, error))

    def _refuse(self, connection: Connection, refused: protocol.Refused) -> None:
        """Answer with one `error`; the tenth bad frame in a minute closes with 4400."""
        connection.refuse(refused)
        if not isinstance(refused.error, BadFrame):
            return
        now_s = time.monotonic()
        most = connection.policy.bad_frames_per_minute_max
        connection.bad_frames = [*connection.bad_frames, now_s][-most:]
        if len(connection.bad_frames) == most and now_s - connection.bad_frames[0] < 60:
            connection.close_when_written(Close.TOO_MANY_BAD_FRAMES)


def _fail(connection: Connection) -> None:
    """End a connection whose frame brought a fault of the server to light."""
    metrics.done.handler_failures += 1
    log.exception("a handler failed", extra={"connection": connection.id, "user": connection.user})
    connection.close(Close.HANDLER_FAILED)


def _close_ungreeted(connection: Connection) -> None:
    if not connection.greeted:
        connection.close(Close.NO_HELLO)
