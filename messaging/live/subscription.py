"""The subscription of one process to the channels of its rooms. It detects a lost connection and reconnects automatically.

Redis confirms each subscribe; a read of the store is complete only if it begins after that. An idle subscription receives nothing, so
a half-open connection is not noticed: it is pinged. It is dropped if no reply arrives, or if a channel is still not confirmed when the
pong arrives, because Redis answers in order. Publications during the time without a subscription are lost; `on_restored` then checks the
positions in the store. Knows nothing of frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from messaging.errors import Unavailable
from messaging.store import connections
from messaging.store.transport import RedisProtocol

from . import metrics

PING_INTERVAL_S = 5.0
PONG_TIMEOUT_S = 3.0
CONFIRM_TIMEOUT_S = 3.0
MAX_BACKOFF_S = 1.0

log = logging.getLogger(__name__)


class Subscription:
    """Calls `on_message(channel, payload)` for each publication, in the order of publishing."""

    def __init__(
        self, on_message: Callable[[str, bytes], None], on_restored: Callable[[], Awaitable[None]]
    ) -> None:
        self._on_message = on_message
        self._on_restored = on_restored
        self._channels: dict[str, asyncio.Event] = {}  # the event is set when Redis has confirmed the channel
        self._replies: RedisProtocol | None = None  # the connection, while there is one
        self._pong_arrived = asyncio.Event()

    def register(self, channel: str) -> None:
        """Add a channel before `run`, without waiting for its confirmation."""
        self._channels.setdefault(channel, asyncio.Event())

    async def add(self, channel: str) -> None:
        """Subscribe and wait at most 3 s for the confirmation. Raises TimeoutError; the channel stays registered and is tried again."""
        confirmed = self._channels.get(channel)
        if confirmed is None:
            confirmed = self._channels[channel] = asyncio.Event()
            if self._replies is not None:
                self._replies.write([("SUBSCRIBE", channel)])
        if not confirmed.is_set():
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                await confirmed.wait()

    def remove(self, channel: str) -> None:
        """Unsubscribe from a channel; later publications of it are ignored."""
        if self._channels.pop(channel, None) is not None and self._replies is not None:
            self._replies.write([("UNSUBSCRIBE", channel)])

    async def run(self) -> None:
        """Listen until cancelled."""
        restored = False
        failures = 0
        while True:
            try:
                await self._listen(restored)
            except (Unavailable, OSError) as error:
                log.warning("subscription lost: %s", str(error) or type(error).__name__)
            metrics.done.subscriptions_lost += 1
            restored = True
            for confirmed in self._channels.values():
                confirmed.clear()
            failures += 1
            await asyncio.sleep(random.uniform(0.05, min(MAX_BACKOFF_S, 0.1 * 2 ** min(failures, 5))))  # noqa: S311

    async def _listen(self, restored: bool) -> None:
        ended = asyncio.get_running_loop().create_future()
        replies = await connections.subscription(self._on_reply, lambda: _end(ended))
        tasks: list[asyncio.Task[None]] = []
        try:
            replies.write([("SUBSCRIBE", *self._channels)])
            self._replies = replies
            tasks.append(asyncio.create_task(self._ping(replies)))
            if restored:
                tasks.append(asyncio.create_task(self._restore()))
            await ended
        finally:
            self._replies = None
            for task in tasks:
                task.cancel()
            await replies.close()

    def _on_reply(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            code = str(reply).split(" ")[0]
            level = logging.WARNING if code == "LOADING" else logging.ERROR  # it has just started
            log.log(level, "the store refuses the subscription: %s", code)
            return
        kind = reply[0]
        if kind == b"message":
            channel = reply[1].decode()
            if channel in self._channels:  # otherwise it was published before the channel was removed
                self._on_message(channel, reply[2])
        elif kind == b"subscribe":
            confirmed = self._channels.get(reply[1].decode())
            if confirmed is not None:
                confirmed.set()
        elif kind == b"pong" or reply == b"PONG":  # the second without any channel
            self._pong_arrived.set()

    async def _restore(self) -> None:
        for confirmed in list(self._channels.values()):
            await confirmed.wait()
        await self._on_restored()

    async def _ping(self, replies: RedisProtocol) -> None:
        while True:
            self._pong_arrived.clear()
            unconfirmed = {name: event for name, event in self._channels.items() if not event.is_set()}
            replies.write([("PING",)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PONG_TIMEOUT_S):
                    await self._pong_arrived.wait()
            lost = any(
                self._channels.get(name) is event and not event.is_set()
                for name, event in unconfirmed.items()
            )
            if lost or not self._pong_arrived.is_set():
                log.warning("subscription does not answer; it is started again")
                replies.abort()
                return
            await asyncio.sleep(PING_INTERVAL_S)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_exception(Unavailable("The store closed the connection."))
