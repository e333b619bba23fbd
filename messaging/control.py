"""Control events: rare news that every server process must hear, over the channel layer.

One group, one layer channel a process (its hub listens). An event is a hint: what it announces stands in the database or the
store, is re-read every 60 s and after each reconnect, so a lost one is late, never wrong. Knows nothing of sockets.

| type                         | fields              | meaning                                                       |
|------------------------------|---------------------|---------------------------------------------------------------|
| control.membership_changed   | room, user          | joined, left, removed or another role: read the row again     |
| control.room_changed         | room                | name, topic or lifetimes: read the row again                  |
| control.session_ended        | session (digest)    | logged out: its connections close with 4501                   |
| control.user_ended           | user                | deactivated, deleted, password changed: check their sessions  |
| control.close_user           | user                | staff closes the user's connections; they may come back       |
| control.sweep                | room, epoch, mark   | push to connected laggards who owe something up to the mark   |
| control.noticed              | user, notices, by   | notices were made or dismissed: show them; `by`: not to oneself |
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

GROUP = "control"
ANNOUNCE_DEADLINE_S = 2.0  # the channel layer waits for a frozen server without end

log = logging.getLogger(__name__)


def session_digest(session_key: str) -> str:
    """Return what stands for a session on the channel layer: the key itself is a credential."""
    return hashlib.sha256(session_key.encode()).hexdigest()


async def publish(kind: str, **fields: Any) -> None:
    """Send one control event to every server process. `fields` are JSON values. Propagates the channel layer's errors."""
    layer = get_channel_layer()
    await layer.group_send(GROUP, {"type": f"control.{kind}", **fields})


async def announce(kind: str, **fields: Any) -> bool:
    """Send a control event as a hint; return whether it was sent. Its loss fails nothing: receivers read again within 60 s."""
    try:
        async with asyncio.timeout(ANNOUNCE_DEADLINE_S):
            await publish(kind, **fields)
    except (RedisError, OSError) as error:  # a TimeoutError is an OSError
        log.warning("control event %s was not sent: %s", kind, type(error).__name__)
        return False
    return True
