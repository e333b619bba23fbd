"""Closes sockets whose peers do not read: uvicorn keeps them open without limit.

1. A socket whose present write has taken longer than `stuck_send_s`. This frees the connection's memory; the timeout of the kernel frees the socket.
2. The largest of a user's sockets, while together they hold more than `memory_per_user_max`. One of them stays, however large: it may be
   the `welcome` of a user with very many rooms.
3. The largest of all sockets, while the process holds more than `memory_max` for them.

Each socket has its own bounds (`writer`), so that little can be added between two checks.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from messaging.policy import Policy
from messaging.protocol import Close

from .connection import Connection
from .registry import Registry

CHECK_INTERVAL_S = 1.0

Holding = tuple[int, Connection]  # the memory that waits for a socket, in bytes


class StuckSockets:
    """The check of one process's connections."""

    def __init__(self, registry: Registry, policy: Policy) -> None:
        self.registry = registry
        self.policy = policy

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.check()

    def check(self) -> None:
        """Close each connection with a send that has taken longer than `Policy.stuck_send_s`, and those that hold too much memory."""
        stuck_before_s = time.monotonic() - self.policy.stuck_send_s
        by_user: defaultdict[int, list[Holding]] = defaultdict(list)
        for connection in list(self.registry.connections):
            since_s = connection.writer.sending_since_s
            if since_s is not None and since_s < stuck_before_s:
                connection.close(Close.TOO_MUCH)
            elif held := connection.writer.memory():
                by_user[connection.user].append((held, connection))
        remaining: list[Holding] = []
        for holdings in by_user.values():
            remaining += _close_largest(holdings, self.policy.memory_per_user_max, keep=1)
        _close_largest(remaining, self.policy.memory_max)


def _close_largest(holdings: Sequence[Holding], max_bytes: int, *, keep: int = 0) -> Sequence[Holding]:
    """Close the largest connections until the others hold at most `max_bytes` or are only `keep`; return the others."""
    total = sum(held for held, _ in holdings)
    if total <= max_bytes:
        return holdings
    ascending = sorted(holdings, key=lambda holding: holding[0])
    while total > max_bytes and len(ascending) > keep:
        held, connection = ascending.pop()
        connection.close(Close.TOO_MUCH)
        total -= held
    return ascending
