"""One process's subscription to rooms' channels: subscribes, notices when it has gone deaf, comes back by itself.

Redis answers each subscribe; only after that answer is a read of the store complete. An idle subscription sends nothing, so a
half-open one looks healthy: it is pinged, and dropped when the pong does not come. What is published while it is away is lost
here; `on_restored` lets the hub repair it from the store. Knows nothing of frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from . import metrics, pools

PING_EVERY_S = 10.0
PONG_WITHIN_S = 5.0
CONFIRM_WITHIN_S = 3.0
BACKOFF_MOST_S = 1.0

log = logging.getLogger(__name__)


class Subscription:
    """Channels in, payloads out: `on_message(channel, payload)` for each, in the order of publishing."""

    def __init__(
        self, on_message: Callable[[str, bytes], None], on_restored: Callable[[], Awaitable[None]]
    ) -> None:
        self._on_message = on_message
        self._on_restored = on_restored
        self._channels: dict[str, asyncio.Event] = {}  # set when the store confirmed it
        self._pubsub: PubSub | None = None
        self._heard = asyncio.Event()

    def want(self, channel: str) -> None:
        """Name a channel to be heard from the start."""
        self._channels.setdefault(channel, asyncio.Event())

    async def add(self, channel: str) -> None:
        """Subscribe and wait for the store's word, at most 3 s. Raises TimeoutError; it is then tried on by itself."""
        confirmed = self._channels.get(channel)
        if confirmed is None:
            confirmed = self._channels[channel] = asyncio.Event()
            if self._pubsub is not None:
                with contextlib.suppress(RedisError, OSError):
                    await self._pubsub.subscribe(channel)
        if not confirmed.is_set():
            async with asyncio.timeout(CONFIRM_WITHIN_S):
                await confirmed.wait()

    async def remove(self, channel: str) -> None:
        """Stop listening to a channel."""
        if self._channels.pop(channel, None) is None or self._pubsub is None:
            return
        with contextlib.suppress(RedisError, OSError):
            await self._pubsub.unsubscribe(channel)

    async def run(self) -> None:
        """Listen until cancelled."""
        restored = False
        failures = 0
        while True:
            try:
                await self._listen(restored)
            except (RedisError, OSError) as fault:
                log.warning("subscription lost: %s", type(fault).__name__)
            metrics.done.subscriptions_lost += 1
            restored = True
            for confirmed in self._channels.values():
                confirmed.clear()
            failures += 1
            await asyncio.sleep(random.uniform(0.05, min(BACKOFF_MOST_S, 0.1 * 2 ** min(failures, 5))))  # noqa: S311

    async def _listen(self, restored: bool) -> None:
        pubsub = pools.subscriber().pubsub()
        pinger: asyncio.Task[None] | None = None
        restoring: asyncio.Task[None] | None = None
        try:
            names = list(self._channels)
            await pubsub.subscribe(*names)
            self._pubsub = pubsub
            late = self._channels.keys() - set(names)  # added while that was under way
            if late:
                await pubsub.subscribe(*late)
            pinger = asyncio.create_task(self._ping(pubsub))
            if restored:
                restoring = asyncio.create_task(self._restore())
            connection: Any = pubsub.connection
            while True:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
                self._heard.set()
                kind = reply[0]
                if kind == b"message":
                    self._on_message(reply[1].decode(), reply[2])
                elif kind == b"subscribe":
                    confirmed = self._channels.get(reply[1].decode())
                    if confirmed is not None:
                        confirmed.set()
        finally:
            self._pubsub = None
            for task in (pinger, restoring):
                if task is not None:
                    task.cancel()
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _restore(self) -> None:
        for confirmed in list(self._channels.values()):
            await confirmed.wait()
        await self._on_restored()

    async def _ping(self, pubsub: PubSub) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            self._heard.clear()
            try:
                await pubsub.ping()
                async with asyncio.timeout(PONG_WITHIN_S):
                    await self._heard.wait()
            except (TimeoutError, RedisError, OSError):
                log.warning("subscription does not answer; starting anew")
                connection: Any = pubsub.connection
                if connection is not None:
                    await connection.disconnect(nowait=True)
                return
