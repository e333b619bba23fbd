"""Control events: hints to every server process, over the channel layer. `messaging.control` lists them.

After an error of the channel layer everything is checked, because events may have been lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import Error as DatabaseError

from messaging import control
from messaging.errors import MessagingError, Unavailable
from messaging.protocol import Close

from .background import Background
from .notifier import Notifier
from .rechecks import Rechecks
from .registry import Registry
from .retry import Retry

log = logging.getLogger(__name__)

Event = dict[str, Any]


class ControlEvents:
    """The events that one process receives."""

    def __init__(
        self,
        registry: Registry,
        rechecks: Rechecks,
        retry: Retry,
        notifier: Notifier,
        background: Background,
    ) -> None:
        self.registry = registry
        self.rechecks = rechecks
        self.retry = retry
        self.notifier = notifier
        self.background = background
        self._handlers: dict[str, Callable[[Event], Awaitable[None]]] = {
            "control.membership_changed": self._membership_changed,
            "control.room_changed": self._room_changed,
            "control.session_ended": self._session_ended,
            "control.user_ended": self._user_ended,
            "control.close_user": self._close_user,
            "control.sweep": self._sweep,
            "control.noticed": self._noticed,
        }

    async def run(self) -> None:
        """Receive events until cancelled."""
        while True:
            try:
                channel = await control.subscribe()
                while True:
                    await self.handle(await control.receive(channel))
            except (Unavailable, OSError) as error:
                log.warning("control events lost: %s", str(error) or type(error).__name__)
                await control.unsubscribe()
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311
                self.background.spawn(self.rechecks.check_all())

    async def send_heartbeats(self) -> None:
        """Send a heartbeat every `HEARTBEAT_INTERVAL_S` until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):  # `run` notices the silence
                await control.publish("heartbeat")
            await asyncio.sleep(control.HEARTBEAT_INTERVAL_S)

    async def handle(self, event: Event) -> None:
        """Handle one event. An unknown event is ignored: it comes from a newer version."""
        handler = self._handlers.get(event["type"])
        if handler is None:
            return
        try:
            await handler(event)
        except (MessagingError, DatabaseError) as error:
            kind = event["type"].removeprefix("control.")
            log.warning("a control event waits for the next check: %s", error, extra={"event": kind})

    async def _membership_changed(self, event: Event) -> None:
        await self.rechecks.check_membership(event["room"], event["user"])

    async def _room_changed(self, event: Event) -> None:
        await self.rechecks.check_room(event["room"])

    async def _session_ended(self, event: Event) -> None:
        for connection in list(self.registry.connections):
            if control.session_digest(connection.visitor.session) == event["session"]:
                connection.close(Close.NO_SESSION)

    async def _user_ended(self, event: Event) -> None:
        await self.rechecks.check_sessions(self.registry.connections_of(event["user"]))

    async def _close_user(self, event: Event) -> None:
        for connection in self.registry.connections_of(event["user"]):
            connection.close(Close.RESTART)

    async def _sweep(self, event: Event) -> None:
        await self.retry.sweep(event["room"], event["epoch"], event["mark"])

    async def _noticed(self, event: Event) -> None:
        await self.notifier.on_noticed(event["user"], event["notices"], event.get("by", ""))
