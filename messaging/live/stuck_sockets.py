"""Closes sockets whose peers do not read: uvicorn keeps them open without limit.

This frees the connection's memory; the timeout of the kernel frees the socket.
"""

from __future__ import annotations

import asyncio
import time

from messaging.policy import Policy
from messaging.protocol import Close

from .registry import Registry

CHECK_INTERVAL_S = 1.0


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
        """Close each connection with a send that has taken longer than `Policy.stuck_send_s`."""
        stuck_before_s = time.monotonic() - self.policy.stuck_send_s
        for connection in list(self.registry.connections):
            since_s = connection.writer.sending_since_s
            if since_s is not None and since_s < stuck_before_s:
                connection.close(Close.TOO_MUCH)
