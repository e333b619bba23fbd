"""One message in each state, so that the staff pages of a new site show all of them.

This process runs a server. The people of the demo open pages in it, and send, acknowledge or stay silent through the operations of
every connection. The job and the staff process the expired messages. The times of this server's policy are short: an
acknowledgement is late after 50 ms and a message can live for 2 s, so that eight attempts and an expiry take seconds. The other
messages live for a day.

1. Three messages expire, because carol acknowledges none and bob is offline: one stays, one is sent again, one is discarded.
2. All members get one message. Grace rejects another. Bob and carol do not acknowledge a third (two and eight attempts).
3. One message in another room waits for carol, who is offline.

The ids of the messages are derived from the room, so that an interrupted run can be repeated. `demo.json` records that all of
them exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session

from messaging import expiry, rooms
from messaging import policy as policies
from messaging.bridge import in_db_thread
from messaging.errors import Conflict
from messaging.expiry import letters, requeue
from messaging.live import directory
from messaging.live.connection import Connection
from messaging.live.server import Server
from messaging.models import DeadLetter, Room
from messaging.policy import DAY_S, Policy
from messaging.protocol import VERSION, Ack, Hello, Reject, RoomAck, Send
from messaging.rooms import memberships
from messaging.store import Store, connections, open_store
from messaging.store.records import RoomKey

from . import people as demo
from .people import Note

ROOM, TOPIC = "What becomes of a message", "One in each state, for the staff's pages"
LIFE_S = DAY_S
SHORT_LIFE_S = 2  # of messages that expire here
ACK_TIMEOUT_S = 0.05
ATTEMPTS = 2  # for a member who is still retried
CONDITION_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02
RECONNECT_AFTER_S = 1.0  # a page that was closed because it did not acknowledge

MISSED, AGAIN, DROPPED = "missed", "sent again", "discarded"
BODIES = {
    MISSED: "Nobody but grace gets this one before it ends.",
    AGAIN: "This one ends as well, and the staff send it again.",
    DROPPED: "This one ends as well, and the staff discard it.",
    "delivered": "Everybody has this one.",
    "rejected": "grace's page cannot show this one.",
    "waiting": "bob and carol do not answer to this one.",
    "parked": "carol 不在，等她上线就会收到。",
}


class Stopped(Exception):
    """The run was stopped. It can be repeated."""


async def begin(note: Note) -> RoomKey:
    """Return the room of the messages, created if it is missing. Raises Conflict when people of the demo are missing."""
    room = await Room.objects.filter(pk=note.states).afirst() if note.states else None
    if room is None:
        by_name = {person.name: person.id for person in note.users}
        if by_name.keys() != set(demo.PEOPLE):
            raise Conflict("The people of the demo are not all here any more.")
        owner, *others = demo.PEOPLE
        room = await rooms.create_room(by_name[owner], ROOM, kind=Room.Kind.PRIVATE, members=others)
        await in_db_thread(demo.note_states, room.id, done=False)
        await rooms.change_room(by_name[owner], room.id, memberships.Change(topic=TOPIC, ttl_s=LIFE_S))
    return memberships.key_of(room)


async def make(note: Note, *, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Create one message in each state; False if they exist. Raises Conflict, Stopped, Unavailable."""
    if note.states_done:
        return False
    key = await begin(note)
    async with _pages(note, _fast_policy(), stopping) as pages:
        await _make_expired(key, pages)
        await _make_current(key, pages)
        await _make_parked(note.rooms, key, pages)
    await in_db_thread(demo.note_states, key.id, done=True)
    return True


async def stay(note: Note, seconds: float, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Keep the last of the people connected and silent for `seconds`: they lag, and their messages are retried."""
    ends_mono_s = time.monotonic() + seconds

    def over() -> bool:
        return stopping() or time.monotonic() >= ends_mono_s

    async with _pages(note, policies.current(), over) as pages:
        with contextlib.suppress(Stopped):
            while True:
                async with pages.open(demo.PEOPLE[-1]) as silent:
                    await pages.until(silent.is_closed, within_s=seconds)
                await asyncio.sleep(RECONNECT_AFTER_S)


def _fast_policy() -> Policy:
    """Return the policy of the site with short times. No page is closed for silence: it would have to reconnect eight times."""
    site = policies.current()
    return dataclasses.replace(
        site,
        ttl_min_s=SHORT_LIFE_S,
        ack_timeout_s=ACK_TIMEOUT_S,
        backoff_cap_s=ACK_TIMEOUT_S,
        silences_to_close=site.attempts_max + 1,
    )


# ── The steps ──


async def _make_expired(key: RoomKey, pages: _Pages) -> None:
    """Create three messages that expire before bob, carol and 小林 receive them; send one again and discard one."""
    ada, grace, _, carol, _ = demo.PEOPLE
    async with pages.open(ada) as sender, pages.open(grace) as recipient, pages.open(carol):
        seqs = [await sender.send(key, name, ttl=SHORT_LIFE_S) for name in (MISSED, AGAIN, DROPPED)]
        await recipient.reject(key, seqs[-1])
        await recipient.hold(key, seqs[-1])
    missed = {name: _id(key, name) for name in (MISSED, AGAIN, DROPPED)}
    while await DeadLetter.objects.filter(message_id__in=missed.values()).acount() < len(missed):
        await pages.until(pages.elapsed(1.0))
        await expiry.process(expiry.ExpiryOptions(room=key))  # unless the worker was faster
    staff = await in_db_thread(get_user_model().objects.filter(is_superuser=True).order_by("pk").first)
    by = staff.pk if staff else None
    await requeue.requeue([await _letter(missed[AGAIN])], by=by)
    now_ms = await open_store().now_ms()
    await in_db_thread(letters.discard, [await _letter(missed[DROPPED])], by, now_ms)


async def _make_current(key: RoomKey, pages: _Pages) -> None:
    """Create a delivered, a rejected and an unacknowledged message."""
    ada, grace, bob, carol, _ = demo.PEOPLE
    async with contextlib.AsyncExitStack() as open_pages:
        all_pages = [await open_pages.enter_async_context(pages.open(name)) for name in demo.PEOPLE]
        for name in ("delivered", "rejected"):
            seq = await all_pages[0].send(key, name)
            if name == "rejected":
                await all_pages[1].reject(key, seq)
            for page in all_pages:
                await page.hold(key, seq)
    async with pages.open(ada) as sender, pages.open(grace) as recipient:
        seq = await sender.send(key, "waiting")
        await recipient.hold(key, seq)
    for name, attempts in ((bob, ATTEMPTS), (carol, policies.current().attempts_max)):
        async with pages.open(name) as silent:
            await silent.wait_for_attempts(key, attempts)


async def _make_parked(others: Sequence[str], key: RoomKey, pages: _Pages) -> None:
    """Create a message for carol, who is offline, in a public room of carol and 小林 only."""
    async with pages.open(demo.PEOPLE[-1]) as sender:
        async for room in Room.objects.filter(pk__in=others, kind=Room.Kind.PUBLIC).order_by("pk"):
            if await room.memberships.acount() == 2 and room.id in sender.connection.feeds:
                await sender.send(memberships.key_of(room), "parked", of=key)
                return


async def _letter(message: str) -> UUID:
    letter = await DeadLetter.objects.only("id").aget(message_id=message)
    return letter.pk


def _id(key: RoomKey, name: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{key.id} {name}"))


# ── Pages ──


class _Page:
    """A page without a socket. It collects the frames of the server, and calls the operations of a connection."""

    def __init__(self, pages: _Pages, visitor: Any) -> None:
        self.pages = pages
        self.connection = Connection(self._receive, visitor=visitor, policy=pages.server.policy)
        self._frames: list[dict[str, Any]] = []

    async def _receive(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            frames = json.loads(event["text"])
            self._frames += frames if isinstance(frames, list) else [frames]

    def is_closed(self) -> bool:
        return self.connection.closed is not None

    async def send(
        self, room: RoomKey, name: str, *, ttl: int | None = None, of: RoomKey | None = None
    ) -> int:
        """Send a message and return its seq."""
        id_ = _id(of or room, name)
        self.pages.server.sender.send(self.connection, Send(id=id_, room=room.id, body=BODIES[name], ttl=ttl))

        def seq() -> int:
            sent = (frame for frame in self._frames if frame["type"] == "sent" and frame["id"] == id_)
            return next((frame["seq"] for frame in sent), 0)

        await self.pages.until(seq)
        return seq()

    async def hold(self, room: RoomKey, seq: int) -> None:
        """Acknowledge up to a seq, and wait until the store has recorded it."""
        feed = self.connection.feeds[room.id]
        ack = RoomAck(room.id, feed.epoch, delivered=seq, read=seq)
        self.pages.server.acknowledger.acknowledge(self.connection, Ack([ack]))
        user, store = self.connection.user, self.pages.server.store

        async def held() -> bool:
            return not await store.retries.owing(room, feed.epoch, [user], mark=seq)

        await self.pages.until(held)

    async def reject(self, room: RoomKey, seq: int) -> None:
        """Reject a message as one that cannot be shown."""
        epoch = self.connection.feeds[room.id].epoch
        frame = Reject(room=room.id, epoch=epoch, seq=seq, reason="cannot be shown")
        await self.pages.server.changes.reject(self.connection, frame)

    async def wait_for_attempts(self, room: RoomKey, attempts: int) -> None:
        """Stay silent until a number of attempts was counted."""
        feed, store, user = self.connection.feeds[room.id], self.pages.server.store, self.connection.user

        async def counted() -> bool:
            owing = await store.retries.owing(room, feed.epoch, [user])
            return not owing or owing[0].attempts >= attempts

        await self.pages.until(counted)


class _Pages:
    """The pages of this process."""

    def __init__(self, server: Server, sessions: dict[str, str], stopping: Callable[[], bool]) -> None:
        self.server = server
        self._sessions = sessions
        self._stopping = stopping

    @contextlib.asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[_Page]:
        """Open a page of a person and send `hello`."""
        visitor = await directory.authenticate(self._sessions[name])
        page = _Page(self, visitor)
        self.server.registry.enter(page.connection)
        try:
            await self.server.greeter.hello(page.connection, Hello(v=VERSION, rooms=[]))
            yield page
        finally:
            self.server.leave(page.connection)
            await page.connection.finish()

    async def until(self, condition: Callable[[], Any], *, within_s: float = CONDITION_TIMEOUT_S) -> None:
        """Wait for a condition. Raises Stopped, TimeoutError."""
        async with asyncio.timeout(within_s):
            while True:
                if self._stopping():
                    raise Stopped
                result = condition()
                if await result if asyncio.iscoroutine(result) else result:
                    return
                await asyncio.sleep(POLL_INTERVAL_S)

    def elapsed(self, seconds: float) -> Callable[[], bool]:
        """Return a condition that becomes true after `seconds`."""
        ends_mono_s = time.monotonic() + seconds
        return lambda: time.monotonic() >= ends_mono_s


@contextlib.asynccontextmanager
async def _pages(note: Note, policy: Policy, stopping: Callable[[], bool]) -> AsyncIterator[_Pages]:
    """Run a server process here, with a session for each of the people."""
    server = Server(Store(connections.async_client(), policy), policy)
    headers = await in_db_thread(demo.log_in, [person.id for person in note.users])
    sessions = {person.name: headers[person.id].partition("=")[2] for person in note.users}
    server.start()
    try:
        yield _Pages(server, sessions, stopping)
    finally:
        await server.stop()
        await Session.objects.filter(session_key__in=sessions.values()).adelete()
