"""Control events: hints to every server process, over the channel layer. `messaging.control` lists them.

No event waits for an event of less importance:

1. An event that ends sessions or connections is handled when it arrives.
2. Changed memberships are checked together, with one query for every 200. Those that change in the meantime are checked in the next round.
3. The other events wait for one another and may wait for the store. A room that changes several times is checked once in each round.

After an error of the channel layer, sessions and memberships are checked, because events may have been lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from django.db import Error as DatabaseError

from messaging import control
from messaging.errors import MessagingError, Unavailable
from messaging.protocol import Close

from .background import Background
from .directory import Member
from .notifier import Notifier
from .rechecks import Rechecks
from .registry import Registry
from .retry import Retry

INTERVAL_S = 0.2  # between two rounds of the other events, so that a room that is renamed all the time is checked five times a second

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
        self._memberships: dict[Member, None] = {}  # to be checked
        # To be handled: {type and fields by which equal events are known: event}.
        self._others: dict[tuple[Any, ...], Event] = {}
        self._membership_waits = asyncio.Event()
        self._other_waits = asyncio.Event()
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
                    self.take(await control.receive(channel))
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

    def take(self, event: Event) -> None:
        """Handle an event that has arrived, or let it wait for `check_memberships` or `handle_others`. Never wait for anything."""
        kind = event["type"]
        if kind == "control.membership_changed":
            self._memberships[event["room"], event["user"]] = None
            self._membership_waits.set()
        elif kind in ("control.session_ended", "control.user_ended", "control.close_user"):
            self.background.spawn(self.handle(event))
        elif kind in self._handlers:
            key = kind, event.get("room"), *event.get("notices", ())
            self._others[key] = event
            self._other_waits.set()

    async def check_memberships(self) -> None:
        """Check changed memberships until cancelled."""
        while True:
            await self._membership_waits.wait()
            self._membership_waits.clear()
            members, self._memberships = self._memberships, {}
            with _failures_logged("membership_changed"):
                await self.rechecks.check_memberships(members)

    async def handle_others(self) -> None:
        """Handle the other events, one after the other, until cancelled."""
        while True:
            await self._other_waits.wait()
            self._other_waits.clear()
            events, self._others = self._others, {}
            for event in events.values():
                await self.handle(event)
            await asyncio.sleep(INTERVAL_S)

    async def handle(self, event: Event) -> None:
        """Handle one event. An unknown event is ignored: it comes from a newer version."""
        handler = self._handlers.get(event["type"])
        if handler is None:
            return
        with _failures_logged(event["type"].removeprefix("control.")):
            await handler(event)

    async def _membership_changed(self, event: Event) -> None:
        await self.rechecks.check_memberships([(event["room"], event["user"])])

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


@contextlib.contextmanager
def _failures_logged(kind: str) -> Iterator[None]:
    try:
        yield
    except (MessagingError, DatabaseError) as error:
        log.warning("a control event waits for the next check: %s", error, extra={"event": kind})
