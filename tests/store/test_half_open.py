"""Connections that stay open while what one side sends is lost: they are replaced, and everything works again without a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from channels.layers import channel_layers

from messaging import control
from messaging.live import subscription as subscriptions
from messaging.live.control_events import ControlEvents
from messaging.live.subscription import Subscription
from messaging.store import connections
from tests.support.lines import Direction, Line
from tests.support.sites import until

WITHIN_S = 5.0


@pytest.fixture
async def line(redis_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    """Return the line over which this process reaches its store. Its waits are short."""
    monkeypatch.setattr(connections, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(subscriptions, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(subscriptions, "PONG_TIMEOUT_S", 0.2)
    monkeypatch.setattr(control, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(control, "HEARTBEAT_INTERVAL_S", 0.1)
    monkeypatch.setattr(control, "MAX_SILENCE_S", 0.4)
    line = await Line(Path(urlsplit(redis_url).path)).open()
    messages = {**settings.CACHES[connections.MESSAGES], "LOCATION": line.url}
    settings.CACHES = {**settings.CACHES, connections.MESSAGES: messages}
    layer = settings.CHANNEL_LAYERS["default"]
    hosts = {**layer["CONFIG"], "hosts": [{**layer["CONFIG"]["hosts"][0], "address": line.url}]}
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": hosts}}
    yield line
    await connections.close()
    await channel_layers["default"].flush()
    await line.close()


@pytest.fixture
async def received(line: Line) -> AsyncIterator[list[bytes]]:
    """Return the publications that a subscription to the channel `room` receives."""
    received: list[bytes] = []
    restored = asyncio.Event()

    async def on_restored() -> None:
        restored.set()

    subscription = Subscription(lambda _channel, payload: received.append(payload), on_restored)
    subscription.register("room")
    running = asyncio.create_task(subscription.run())
    await subscription.add("room")
    yield received
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def publish(redis_url: str, payload: bytes) -> None:
    """Publish directly, not over the line."""
    client = connections.redis.asyncio.Redis.from_url(redis_url)
    await client.publish("room", payload)
    await client.aclose()


async def arrives(redis_url: str, received: list[bytes], payload: bytes) -> None:
    """Publish until it arrives: a subscription that is being restored receives nothing yet."""
    async with asyncio.timeout(WITHIN_S):
        while payload not in received:
            await publish(redis_url, payload)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_a_subscription_receives_again_after_its_line_was_half_open(
    line: Line, received: list[bytes], redis_url: str, direction: Direction, caplog: pytest.LogCaptureFixture
) -> None:
    await arrives(redis_url, received, b"before")
    line.dropped.add(direction)
    # Long enough that the connections which it opens in the meantime wait for an answer that never comes.
    await until(lambda: caplog.text.count("subscription lost") >= 3, within_s=WITHIN_S)
    line.dropped.clear()
    await arrives(redis_url, received, b"after")


async def test_a_subscription_whose_confirmation_was_lost_is_started_again(
    line: Line, received: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    subscription = Subscription(lambda *_: None, asyncio.Event().wait)  # type: ignore[arg-type]
    subscription.register("room")
    running = asyncio.create_task(subscription.run())
    await subscription.add("room")
    line.dropped.add("replies")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.add("later"), 0.05)
    line.dropped.clear()  # before the next ping is missed: its pong arrives, the confirmation never does
    await subscription.add("later")
    assert "subscription does not answer" in caplog.text
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_control_events_arrive_again_after_the_line_of_the_layer_was_half_open(
    line: Line, direction: Direction, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    checks: list[str] = []

    class Rechecks:
        async def check_all(self) -> None:
            checks.append("all")

    class Spawner:
        def spawn(self, work: Any) -> None:
            self.task = asyncio.ensure_future(work)

    events = ControlEvents(None, Rechecks(), None, None, Spawner())  # type: ignore[arg-type]

    monkeypatch.setattr(events, "take", lambda event: seen.append(event["type"]))
    tasks = [asyncio.create_task(part()) for part in (events.run, events.send_heartbeats)]
    await until(lambda: "control.heartbeat" in seen, within_s=WITHIN_S)
    line.dropped.add(direction)
    await until(lambda: caplog.text.count("control events lost") >= 2, within_s=WITHIN_S)
    line.dropped.clear()
    seen.clear()
    await until(lambda: "control.heartbeat" in seen, within_s=WITHIN_S)
    assert checks, "events may have been lost"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
