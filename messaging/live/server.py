"""One server process put together: store, hub, delivery and what runs beside them; control events; the 60 s check.

Begins with ASGI's lifespan `startup`, ends with `say_bye` and `shutdown`. The only place that knows all parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from channels.layers import get_channel_layer
from django.db import Error as DatabaseError
from redis.exceptions import RedisError

from messaging import control, protocol
from messaging import policy as policies
from messaging.errors import MessagingError, Unavailable
from messaging.protocol import Close
from messaging.store import Store, connections, open_store

from . import directory
from .changes import Changes
from .connection import Connection, MemberRoom
from .delivery import Delivery
from .hub import Hub
from .limits import Limits
from .notifier import Notifier
from .presence import Presence
from .receipts import Receipts
from .retry import Retry

LOOK_AT_SOCKETS_EVERY_S = 1.0
PART_AGAIN_AFTER_S = 1.0

log = logging.getLogger(__name__)


class Server:
    """The parts of one process."""

    def __init__(self, store: Store, policy: policies.Policy) -> None:
        self.policy = policy
        self.store = store
        self.hub = Hub(store, policy)
        self.presence = Presence(store, self.hub)
        self.receipts = Receipts(store, self.hub, policy)
        self.retry = Retry(store, self.hub, policy)
        self.limits = Limits(policy)
        self.notifier = Notifier(store, self.hub)
        self.delivery = Delivery(
            store, self.hub, self.presence, self.receipts, self.limits, self.notifier, policy
        )
        self.changes = Changes(store, self.hub, self.limits, self.notifier, policy)
        self.hub.on_members = lambda room: self._spawn(self._read_members_again(room))
        self.hub.on_presence = self.presence.on_change
        # The channel layer does not say that it was away; the store is its neighbour, as a rule the same server.
        self.hub.on_restored = lambda: self._spawn(self.recheck())
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin what runs for the life of the process."""
        for part in (
            self.hub.run,
            self.presence.run,
            self.receipts.run,
            self._hear_control_events,
            self._recheck_for_ever,
            self._end_stuck_for_ever,
        ):
            self._spawn(self._keep_running(part))

    async def stop(self) -> None:
        """End it."""
        await self.presence.shutdown()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def leave(self, connection: Connection) -> None:
        """Forget a connection everywhere. Idempotent."""
        rooms = set(connection.feeds)
        self.retry.forget(connection)
        self.hub.leave(connection)
        self.presence.leave(connection.user)
        if connection.user not in self.hub.by_user:
            self.receipts.forget(connection.user, rooms)
            self.limits.forget_user(connection.user)

    async def say_bye(self, after_ms: int) -> None:
        """Tell every connection to come back at a random moment within `after_ms`, and wait until they were written to."""
        frame = protocol.encode(protocol.Bye(code=int(Close.RESTART), after_ms=after_ms)).decode()
        connections = list(self.hub.connections)
        for connection in connections:
            connection.push(frame)
        await asyncio.gather(*(connection.written() for connection in connections))

    async def _keep_running(self, part: Callable[[], Awaitable[None]]) -> None:
        """Begin a part again when it fails: a process without it would look well and be deaf."""
        while True:
            try:
                await part()
            except Exception:
                log.exception(
                    "a part of the server failed and begins again", extra={"part": part.__qualname__}
                )
            await asyncio.sleep(PART_AGAIN_AFTER_S)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("news could not be taken; the next check brings it", exc_info=task.exception())

    # Control events

    async def _hear_control_events(self) -> None:
        """Take news from the channel layer; after it was lost, check everything, for what it carried then is lost too."""
        while True:
            layer = get_channel_layer()
            try:
                channel = await layer.new_channel()
                await layer.group_add(control.GROUP, channel)
                while True:
                    event = await layer.receive(channel)
                    await self._on_control_event(event)
            except (RedisError, OSError, TimeoutError) as fault:
                log.warning("control events lost: %s", type(fault).__name__)
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311
                self._spawn(self.recheck())

    async def _on_control_event(self, event: dict[str, Any]) -> None:
        kind = event["type"].removeprefix("control.")
        handler = getattr(self, f"_on_{kind}", None)
        if handler is None:
            return  # of a newer version beside this one
        try:
            await handler(event)
        except (MessagingError, DatabaseError) as fault:
            log.warning("a control event waits for the next check: %s", fault, extra={"event": kind})

    async def _on_membership_changed(self, event: dict[str, Any]) -> None:
        await self._read_membership_again(event["room"], event["user"])

    async def _on_room_changed(self, event: dict[str, Any]) -> None:
        room = self.hub.rooms.get(event["room"])
        for user in {connection.user for connection in room.feeds} if room else ():
            await self._read_membership_again(event["room"], user)

    async def _on_session_ended(self, event: dict[str, Any]) -> None:
        for connection in list(self.hub.connections):
            if control.session_digest(connection.visitor.session) == event["session"]:
                connection.close(Close.NO_SESSION)

    async def _on_user_ended(self, event: dict[str, Any]) -> None:
        await self._check_sessions(self.hub.connections_of(event["user"]))

    async def _on_close_user(self, event: dict[str, Any]) -> None:
        for connection in self.hub.connections_of(event["user"]):
            connection.close(Close.RESTART)

    async def _on_sweep(self, event: dict[str, Any]) -> None:
        await self.retry.sweep(event["room"], event["epoch"], event["mark"])

    async def _on_noticed(self, event: dict[str, Any]) -> None:
        await self.notifier.on_noticed(event["user"], event["notices"], event.get("by", ""))

    # Memberships and sessions, read again

    async def _read_membership_again(self, room: str, user: int) -> None:
        connections = self.hub.connections_of(user)
        if not connections:
            return
        found = await directory.room_of(user, room)
        for connection in connections:
            if not connection.greeted:
                continue
            if found is None:
                self.delivery.expel(connection, room)
            elif room in connection.feeds:
                await self.delivery.update(connection, found)
            else:  # beside the rest: it waits for the connection's reads, and a slow reader's take their time
                connection.spawn(self._admit(connection, found))

    async def _admit(self, connection: Connection, room: MemberRoom) -> None:
        try:
            await self.delivery.admit(connection, room)
        except (MessagingError, DatabaseError) as fault:
            log.warning("a room waits for the next check: %s", fault, extra={"room": room.key.id})

    async def _read_members_again(self, room_id: str) -> None:
        """The store's count of joins and leaves moved without an event that this process heard."""
        room = self.hub.rooms.get(room_id)
        if room is None:
            return
        for user in {connection.user for connection in room.feeds}:
            await self._read_membership_again(room_id, user)
        feed = next(iter(room.feeds.values()), None)
        connection = next(iter(room.feeds), None)
        if feed is None or connection is None:
            return
        with contextlib.suppress(MessagingError):
            [standing] = await self.store.members.member_positions(connection.user, [(room.key, "", 0)])
            if standing is not None:
                room.members, room.people = standing.members, standing.people

    async def _recheck_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.policy.recheck_interval_s)
            await self.recheck()

    async def recheck(self) -> None:
        """Read sessions and memberships of all connections again; what cannot be read is left for the next time."""
        try:
            await self._check_sessions(self.hub.connections)
            users = set(self.hub.by_user)
            rooms = await directory.rooms_of_many(users)
            for user in users:
                for connection in self.hub.connections_of(user):
                    if connection.greeted:
                        for room in connection.feeds.keys() ^ rooms[user]:
                            await self._read_membership_again(room, user)
        except (DatabaseError, Unavailable) as fault:
            log.warning("connections cannot be checked: %s", type(fault).__name__)

    async def _check_sessions(self, connections: Iterable[Connection]) -> None:
        asked = list(connections)  # who comes while the database is asked was not asked about
        here = await directory.still_here({connection.visitor for connection in asked})
        for connection in asked:
            if connection.visitor not in here:
                connection.close(Close.NO_SESSION)

    # Sockets that take nothing

    async def _end_stuck_for_ever(self) -> None:
        """uvicorn never ends a peer that stops reading; this does, and the kernel's own time-out frees the socket."""
        while True:
            await asyncio.sleep(LOOK_AT_SOCKETS_EVERY_S)
            stuck_before_s = time.monotonic() - self.policy.stuck_send_s
            for connection in list(self.hub.connections):
                if connection.sending_since_s is not None and connection.sending_since_s < stuck_before_s:
                    connection.close(Close.TOO_MUCH)


_servers: dict[asyncio.AbstractEventLoop, Server] = {}


def server() -> Server:
    """Return this process's server; the first call starts it where no lifespan did."""
    loop = asyncio.get_running_loop()
    if loop not in _servers:
        _servers[loop] = Server(open_store(), policies.current())
        _servers[loop].start()
    return _servers[loop]


async def startup() -> None:
    """Begin the process's server."""
    server()
    gc.collect()
    # At the default 700, collections took a tenth of the time in rooms of two; with 10 for the second, one of those took 45 ms.
    gc.set_threshold(10_000, 2, 50)
    gc.freeze()  # what was imported lives as long as the process: each full collection took 36 ms to look through it


async def say_bye(after_ms: int) -> None:
    """Send `bye` to every connection."""
    await server().say_bye(after_ms)


async def shutdown() -> None:
    """End the process's server and its connections to the store."""
    here = _servers.pop(asyncio.get_running_loop(), None)
    if here is not None:
        await here.stop()
    await connections.close()
