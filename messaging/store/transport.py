"""A connection to the store that is read by callback: each reply is handed on where it arrives.

redis-py opens and authenticates it (TLS, users, Unix sockets, the pool's bound are its own); then its transport gets this protocol
instead of a stream with a reader task. In rooms of two that halved what hearing and calling the store cost the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

Command = tuple[Any, ...]

_REFUSALS = {"NOSCRIPT": NoScriptError, "OOM": OutOfMemoryError}


class RedisProtocol(asyncio.Protocol):
    """One connection. `take(reply)` for each reply, an error that the store answers among them; `ended()` once it is lost or closed."""

    def __init__(
        self,
        pool: redis.asyncio.ConnectionPool,
        connection: Any,
        take: Callable[[Any], None],
        ended: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._take = take
        self._ended = ended
        self._reader = hiredis.Reader(replyError=_refusal)
        self._transport: asyncio.Transport = connection._writer.transport
        self._stream: Any = (
            self._transport.get_protocol()
        )  # redis-py waits in it for what it writes and closes
        self._transport.set_protocol(self)

    @classmethod
    async def open(
        cls, client: redis.asyncio.Redis, take: Callable[[Any], None], ended: Callable[[], None]
    ) -> RedisProtocol:
        """Take a connection of the client's pool. Raises what redis-py raises."""
        pool = client.connection_pool
        return cls(pool, await pool.get_connection(), take, ended)  # type: ignore[no-untyped-call]

    def write(self, commands: Sequence[Command]) -> None:
        """Send commands at once."""
        self._transport.write(b"".join(map(hiredis.pack_command, commands)))

    def abort(self) -> None:
        """End the connection without waiting for anything; `close` is still due."""
        self._transport.abort()

    async def close(self) -> None:
        """End the connection and give its place back to the pool."""
        await self._connection.disconnect(nowait=True)
        await self._pool.release(self._connection)

    # asyncio's calls

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)
        self._ended()

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()


def _refusal(text: str) -> RedisError:
    return _REFUSALS.get(text.split(" ", 1)[0], ResponseError)(text)
