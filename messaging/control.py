"""Control events: infrequent events for every server process, over the channel layer.

There is one group, and one channel for each process, which `live.control_events` receives. An event is a hint. The announced change is
in the database or the store, and is read again every 60 s and after every reconnect. So a lost event causes a delay, never wrong
data. A process need not handle events in the order of their arrival. The layer does not notice that its connection receives nothing
any more: every process sends a heartbeat, and one that receives no event subscribes again. Knows nothing of sockets.

| type                         | fields              | meaning                                                       |
|------------------------------|---------------------|---------------------------------------------------------------|
| control.membership_changed   | room, user          | a member joined, left or has another role: read the row again |
| control.room_changed         | room                | name, topic or lifetimes changed: read the row again          |
| control.session_ended        | session (digest)    | logged out: close its connections with 4501                   |
| control.user_ended           | user                | deactivated, deleted, password changed: check the sessions    |
| control.close_user           | user                | staff closes the user's connections; they may reconnect       |
| control.sweep                | room, epoch, mark   | push to members who owe a message at or below the mark        |
| control.noticed              | user, notices, by   | notices were made or dismissed: send them, except process `by`|
| control.heartbeat            |                     | the layer works                                               |
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from messaging.errors import Unavailable

GROUP = "control"
TIMEOUT_S = 2.0  # the channel layer would wait for a frozen server without limit
HEARTBEAT_INTERVAL_S = 4.0
MAX_SILENCE_S = 8.0

log = logging.getLogger(__name__)


def session_digest(session_key: str) -> str:
    """Return a digest that names a session on the channel layer, because the session key itself is a credential."""
    return hashlib.sha256(session_key.encode()).hexdigest()


@contextlib.contextmanager
def _layer_errors() -> Iterator[None]:
    """Raise `Unavailable` for an error of the channel layer."""
    try:
        yield
    except (RedisError, OSError) as error:  # a TimeoutError is an OSError
        raise Unavailable(f"The channel layer does not answer: {type(error).__name__}.") from error


async def publish(kind: str, **fields: Any) -> None:
    """Send one control event to every server process, within `TIMEOUT_S`. `fields` are JSON values. Raises Unavailable."""
    with _layer_errors():
        async with asyncio.timeout(TIMEOUT_S):
            await get_channel_layer().group_send(GROUP, {"type": f"control.{kind}", **fields})


async def subscribe() -> str:
    """Return a new channel of this process that receives every control event. Raises Unavailable."""
    layer = get_channel_layer()
    with _layer_errors():
        async with asyncio.timeout(TIMEOUT_S):
            channel: str = await layer.new_channel()
            await layer.group_add(GROUP, channel)
            return channel


async def unsubscribe() -> None:
    """Close the connections of the channel layer in this process. It opens others when they are needed."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await get_channel_layer().flush()
    except (RedisError, OSError) as error:
        log.warning("the channel layer's connections were not closed: %s", type(error).__name__)


async def receive(channel: str) -> dict[str, Any]:
    """Wait for the next control event of a channel. Raises Unavailable after `MAX_SILENCE_S` without one."""
    with _layer_errors():
        async with asyncio.timeout(MAX_SILENCE_S):
            event: dict[str, Any] = await get_channel_layer().receive(channel)
            return event


async def announce(kind: str, **fields: Any) -> bool:
    """Send a control event; return whether it was sent. A lost event is harmless: every process reads the data again within 60 s."""
    try:
        await publish(kind, **fields)
    except Unavailable as error:
        log.warning("control event %s was not sent: %s", kind, error)
        return False
    return True
