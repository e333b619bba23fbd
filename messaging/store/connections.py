"""Redis connections: one factory for django-redis' synchronous clients and for `redis.asyncio` clients.

django-redis has one pool for each URL. An asyncio pool belongs to one event loop, so here there is one for each loop, URL and
timeout. The store repeats calls, not the pool: with redis-py's default a script runs up to 11 times.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio
from django.core.cache import caches
from django_redis import pool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from messaging.errors import Unavailable

from .transport import Command, RedisProtocol

MESSAGES = "messages"  # the CACHES alias of the message store; never call its cache.clear(): that is FLUSHDB

TIMEOUT_S = 1.8  # two attempts take less than the 4 s after which a client receives `unavailable`
MAX_CONNECTIONS = 32
MAX_PIPELINES = 16  # at the same time; the other connections of the pool are for other commands

_Loop = asyncio.AbstractEventLoop
_Pools = dict[tuple[str, float | None], redis.asyncio.ConnectionPool]
_pools: weakref.WeakKeyDictionary[_Loop, _Pools] = weakref.WeakKeyDictionary()


class ConnectionFactory(pool.ConnectionFactory):
    """Make synchronous clients as django-redis does, and asynchronous clients for the running loop."""

    def async_client(self, url: str, *, timeout_s: float | None = TIMEOUT_S) -> redis.asyncio.Redis:
        """Return a client of the running loop's pool for `url`; with `timeout_s` None it waits for replies without limit."""
        by_url = _pools.setdefault(asyncio.get_running_loop(), {})
        name = url, timeout_s
        if name not in by_url:
            by_url[name] = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS,
                timeout=TIMEOUT_S,
                socket_timeout=timeout_s,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # with 3 redis-py formats each published message for a debug line
                **self._credentials(),
            )
        return redis.asyncio.Redis(connection_pool=by_url[name])

    def _credentials(self) -> dict[str, Any]:
        names = {"USERNAME": "username", "PASSWORD": "password"}
        return {kwarg: self.options[option] for option, kwarg in names.items() if self.options.get(option)}


def async_client(alias: str = MESSAGES, *, timeout_s: float | None = TIMEOUT_S) -> redis.asyncio.Redis:
    """Return an asynchronous client of a cache alias for the running loop."""
    backend: Any = caches[alias]
    factory, url = backend.client.connection_factory, backend.client._server[0]
    client: redis.asyncio.Redis = factory.async_client(url, timeout_s=timeout_s)
    return client


class PipelinePool:
    """Send commands in one write over connections that stay open; return their answers in order.

    redis-py's own pipeline costs 0.2 ms more for each call: the pool's locks, two timers, a task and telemetry.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._idle: list[PipelinedConnection] = []
        self._turns = asyncio.Semaphore(MAX_PIPELINES)

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write. An error answer is in its place in the list. Raises the errors of a lost connection."""
        if not commands:
            return []
        async with self._turns:
            pipe = await self._take()
            try:
                answers = await pipe.call(commands)
            except BaseException:
                await pipe.close()  # answers may still arrive
                raise
            self._idle.append(pipe)
            return answers

    async def _take(self) -> PipelinedConnection:
        while self._idle:
            pipe = self._idle.pop()
            if pipe.alive:
                return pipe
            await pipe.close()
        pipe = PipelinedConnection()
        await pipe.open(self._client)
        return pipe


class PipelinedConnection:
    """One connection, with one call at a time."""

    def __init__(self) -> None:
        self.alive = True
        self._loop = asyncio.get_running_loop()
        self._expected = 0  # answers
        self._answers: list[Any] = []
        self._done: asyncio.Future[list[Any]] | None = None

    async def open(self, client: redis.asyncio.Redis) -> None:
        self._replies = await RedisProtocol.open(client, self._on_reply, self._on_end)

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Return an answer for each command, within `TIMEOUT_S`."""
        self._expected, self._answers = len(commands), []
        self._done = self._loop.create_future()
        timer = self._loop.call_later(TIMEOUT_S, self._fail, TimeoutError())
        try:
            self._replies.write(commands)
            return await self._done
        finally:
            timer.cancel()

    async def close(self) -> None:
        await self._replies.close()

    def _on_reply(self, reply: Any) -> None:
        self._answers.append(reply)
        if len(self._answers) == self._expected and self._done is not None and not self._done.done():
            self._done.set_result(self._answers)

    def _on_end(self) -> None:
        self.alive = False
        self._fail(RedisConnectionError("The store closed the connection."))

    def _fail(self, fault: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(fault)


async def subscription(on_reply: Callable[[Any], None], on_end: Callable[[], None]) -> RedisProtocol:
    """Open a connection for a subscription, within `TIMEOUT_S`. Later replies have no timeout. Raises Unavailable."""
    try:
        # redis-py would wait for the answers of the handshake without limit.
        async with asyncio.timeout(TIMEOUT_S):
            return await RedisProtocol.open(async_client(timeout_s=None), on_reply, on_end)
    except (RedisError, OSError) as fault:
        raise Unavailable(f"The store cannot be reached: {type(fault).__name__}.") from fault


def opened() -> bool:
    """Return whether the running loop has pools: then a server uses them, and a short call leaves them open."""
    return bool(_pools.get(asyncio.get_running_loop()))


async def close() -> None:
    """Close the running loop's pools, at the end of a job or command."""
    for connections in _pools.pop(asyncio.get_running_loop(), {}).values():
        await connections.aclose()
