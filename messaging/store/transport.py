"""A connection to the store that passes each reply to a callback when it arrives.

redis-py opens and authenticates it, with TLS, users, Unix sockets and the pool's limit. Then its transport gets this protocol
instead of a stream with a reader task. In rooms of two this halved the server's cost of calls and publications.
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
    """One connection. It calls `take(reply)` for each reply, also for error replies, and `ended()` after it is lost or closed."""

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
        self._stream: Any = self._transport.get_protocol()  # redis-py writes and closes through it
        self._transport.set_protocol(self)

    @classmethod
    async def open(
        cls, client: redis.asyncio.Redis, take: Callable[[Any], None], ended: Callable[[], None]
    ) -> RedisProtocol:
        """Take a connection of the client's pool. Propagates errors of redis-py."""
        pool = client.connection_pool
        return cls(pool, await pool.get_connection(), take, ended)  # type: ignore[no-untyped-call]

    def write(self, commands: Sequence[Command]) -> None:
        """Send commands at once."""
        self._transport.write(b"".join(map(hiredis.pack_command, commands)))

    def abort(self) -> None:
        """End the connection without waiting; `close` must still be called."""
        self._transport.abort()

    async def close(self) -> None:
        """End the connection and return its place to the pool."""
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
