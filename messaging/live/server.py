"""One server process: builds its parts, starts them and stops them. The only module that knows all parts.

It begins with ASGI's lifespan (`startup`) and ends with `say_bye` and `shutdown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Mapping

from django.db import Error as DatabaseError

from messaging import losses, protocol
from messaging import policy as policies
from messaging.errors import MessagingError
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.store import Store, connections, open_store
from messaging.store.records import RoomKey

from .acknowledging import Acknowledger
from .background import Background
from .changes import Changes
from .connection import Connection
from .control_events import ControlEvents
from .ephemeral import Ephemeral
from .greeting import Greeter
from .hub import Hub, HubListener
from .limits import Limits
from .notifier import Notifier
from .positions import Positions
from .presence import Presence
from .reading import LogReader
from .receipts import Receipts
from .rechecks import Rechecks
from .registry import Registry
from .retry import Retry
from .sending import Sender
from .stuck_sockets import StuckSockets


class Server:
    """The parts of one process."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.policy = policy
        self.store = store
        self.background = Background()
        self.registry = Registry()

        # The hub, and the parts to which it reports.
        self.presence = Presence(store, self.registry)
        self.limits = Limits(policy, processes=lambda: self.presence.processes)
        self.receipts = Receipts(store, self.registry, policy)
        self.retry = Retry(store, self.registry, policy)
        self.notifier = Notifier(store, self.registry, policy)
        self.positions = Positions(
            store,
            self.registry,
            policy,
            members_changed=self._members_changed,
            record_lost=self._record_lost,
        )
        self.hub = Hub(
            self.registry,
            policy,
            HubListener(
                accepted=self.receipts.accepted,
                pushed=self.retry.pushed,
                cursors_moved=self.receipts.cursors_moved,
                presence_changed=self.presence.on_change,
                renewed=self._renewed,
                restored=self._restored,
            ),
        )

        # Frames from clients.
        self.reader = LogReader(store, self.hub, self.limits, policy)
        self.greeter = Greeter(
            store,
            self.hub,
            self.presence,
            self.reader,
            policy,
            resumed=self.receipts.resumed,
            greeted=lambda connection: connection.spawn(self.notifier.send_newest(connection)),
        )
        self.sender = Sender(store, self.limits, policy)
        self.acknowledger = Acknowledger(store, self.hub, policy)
        self.changes = Changes(store, self.hub, self.limits, self.notifier, policy)
        self.ephemeral = Ephemeral(store, self.limits)

        # Checks of open connections.
        self.rechecks = Rechecks(store, self.registry, self.greeter, policy)
        self.stuck_sockets = StuckSockets(self.registry, policy)
        self.control_events = ControlEvents(
            self.registry, self.rechecks, self.retry, self.notifier, self.background
        )

    def start(self) -> None:
        """Start the parts that run for the life of the process."""
        for part in (
            self.hub.run,
            self.positions.run,
            self._check_losses,
            self.presence.run,
            self.receipts.run,
            self.control_events.run,
            self.control_events.check_memberships,
            self.control_events.handle_others,
            self.control_events.send_heartbeats,
            self.notifier.run,
            self.rechecks.run,
            self.stuck_sockets.run,
            self.sender.shares.run,
        ):
            self.background.keep_running(part)

    async def stop(self) -> None:
        """Stop these parts."""
        await self.presence.shutdown()
        await self.background.stop()

    def leave(self, connection: Connection) -> None:
        """Remove a connection from all parts. Idempotent."""
        rooms = set(connection.feeds)
        self.retry.forget(connection)
        self.limits.forget(connection)
        self.registry.leave(connection)
        self.presence.leave(connection.user)
        if connection.user not in self.registry.by_user:
            self.receipts.forget(connection.user, rooms)
            self.limits.forget_user(connection.user)

    async def say_bye(self, after_ms: int) -> None:
        """Send `bye` to every connection and wait until it is written. Clients reconnect at a random moment within `after_ms`."""
        frame = protocol.encode(protocol.Bye(code=int(Close.RESTART), after_ms=after_ms)).decode()
        connections = list(self.registry.connections)
        for connection in connections:
            connection.writer.push(frame)
        await asyncio.gather(*(connection.writer.drained() for connection in connections))

    # Reports of one part to another

    def _members_changed(self, room: str) -> None:
        self.background.spawn(self.rechecks.check_members(room))

    def _renewed(self, room: str) -> None:
        self.background.spawn(self.positions.check_room(room))

    async def _record_lost(self, lost: Mapping[RoomKey, int]) -> None:
        # The next check of positions finds the rooms again that have no new epoch yet.
        with contextlib.suppress(MessagingError, DatabaseError):
            await losses.record_rooms(lost)

    async def _check_losses(self) -> None:
        """Compare the store with the database until cancelled."""
        while True:
            with contextlib.suppress(MessagingError, DatabaseError):
                await losses.check()
            await asyncio.sleep(self.policy.position_interval_s)

    async def _restored(self) -> None:
        """Check everything. The channel layer does not report its own failures; it is usually on the same server as the store."""
        self.background.spawn(self.rechecks.check_all())
        await self.positions.check()


_servers: dict[asyncio.AbstractEventLoop, Server] = {}


def current_server() -> Server:
    """Return the server of this process; the first call starts it."""
    loop = asyncio.get_running_loop()
    if loop not in _servers:
        _servers[loop] = Server(open_store(), policies.current())
        _servers[loop].start()
    return _servers[loop]


async def startup() -> None:
    """Start the process's server."""
    current_server()
    gc.collect()
    # With the default threshold 700, collections took a tenth of the time in rooms of two members. With 10 as the second threshold, a
    # collection of the second generation took 45 ms.
    gc.set_threshold(10_000, 2, 50)
    gc.freeze()  # exclude the imported modules, which are never freed: with them each full collection took 36 ms


async def say_bye(after_ms: int) -> None:
    """Send `bye` to every connection."""
    await current_server().say_bye(after_ms)


async def shutdown() -> None:
    """Stop the process's server and close its connections to the store."""
    server = _servers.pop(asyncio.get_running_loop(), None)
    if server is not None:
        await server.stop()
    await connections.close()
