"""One message in each state, for whoever looks at the staff's pages for the first time: made as people would make them.

A server process of its own, here, in which the demo's people open pages, write, acknowledge or stay silent; what they do takes the
verbs of every connection, what ends takes those of the job and of the staff. The clock is the policy's: in this process silence
counts after 50 ms and a message may live 2 s, so that eight attempts and an end take seconds. What is left stands for a day.

    three messages that carol never answers to and bob never sees: they end -> one is left, one sent again, one discarded
    one that everybody gets -> one that grace's page cannot show -> one that bob and carol do not answer to (two attempts, eight)
    and one in another room for carol, who is away

The messages' ids follow from the room: broken off and begun again, nothing is said twice. The note of the demo says when it is done.
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
BRIEF_S = 2  # of what is to end here
QUICK_S = 0.05
ATTEMPTS = 2  # of who is still tried
NOTHING_WITHIN_S = 30.0  # then something is wrong
LOOK_S = 0.02
BACK_AFTER_S = 1.0  # a page that was closed for its silence

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
    """It was told to stop; begun again, it goes on."""


async def begin(note: Note) -> RoomKey:
    """Return the room of it all, made unless it is there. Raises Conflict where the demo's people are not all here."""
    room = await Room.objects.filter(pk=note.states).afirst() if note.states else None
    if room is None:
        by_name = {person.name: person.id for person in note.users}
        if by_name.keys() != set(demo.PEOPLE):
            raise Conflict("The demo's people are not all here any more.")
        owner, *others = demo.PEOPLE
        room = await rooms.create_room(by_name[owner], ROOM, kind=Room.Kind.PRIVATE, members=others)
        await in_db_thread(demo.note_states, room.id, done=False)
        await rooms.change_room(by_name[owner], room.id, memberships.Change(topic=TOPIC, ttl_s=LIFE_S))
    return memberships.key_of(room)


async def make(note: Note, *, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Make a message of each state; False where that was done before. Raises Conflict, Stopped, Unavailable."""
    if note.states_done:
        return False
    key = await begin(note)
    async with _pages(note, _hurried(), stopping) as pages:
        await _let_end(key, pages)
        await _let_stand(key, pages)
        await _let_park(note.rooms, key, pages)
    await in_db_thread(demo.note_states, key.id, done=True)
    return True


async def stay(note: Note, seconds: float, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Let the last of the people be connected and silent for so long: she lags, and is tried as anybody would be."""
    ends_mono_s = time.monotonic() + seconds

    def over() -> bool:
        return stopping() or time.monotonic() >= ends_mono_s

    async with _pages(note, policies.current(), over) as pages:
        with contextlib.suppress(Stopped):
            while True:
                async with pages.open(demo.PEOPLE[-1]) as silent:
                    await pages.until(silent.is_closed, within_s=seconds)
                await asyncio.sleep(BACK_AFTER_S)


def _hurried() -> Policy:
    """Return the site's policy with another clock. No page is closed for its silence: it would have to come back eight times."""
    site = policies.current()
    return dataclasses.replace(
        site,
        ttl_min_s=BRIEF_S,
        ack_timeout_s=QUICK_S,
        backoff_cap_s=QUICK_S,
        silences_to_close=site.attempts_max + 1,
    )


# ── The story ──


async def _let_end(key: RoomKey, pages: _Pages) -> None:
    """Three that end before bob, carol and 小林 have them, and what becomes of each."""
    ada, grace, _, carol, _ = demo.PEOPLE
    async with pages.open(ada) as hers, pages.open(grace) as graces, pages.open(carol):
        seqs = [await hers.say(key, name, ttl=BRIEF_S) for name in (MISSED, AGAIN, DROPPED)]
        await graces.reject(key, seqs[-1])
        await graces.hold(key, seqs[-1])
    missed = {name: _id(key, name) for name in (MISSED, AGAIN, DROPPED)}
    while await DeadLetter.objects.filter(message_id__in=missed.values()).acount() < len(missed):
        await pages.until(pages.rested(1.0))
        await expiry.process(expiry.ExpiryOptions(room=key))  # or the worker was quicker
    staff = await in_db_thread(get_user_model().objects.filter(is_superuser=True).order_by("pk").first)
    by = staff.pk if staff else None
    await requeue.requeue([await _letter(missed[AGAIN])], by=by)
    now_ms = await open_store().now_ms()
    await in_db_thread(letters.discard, [await _letter(missed[DROPPED])], by, now_ms)


async def _let_stand(key: RoomKey, pages: _Pages) -> None:
    """One with everybody, one that a page cannot show, one that two do not answer to."""
    ada, grace, bob, carol, _ = demo.PEOPLE
    async with contextlib.AsyncExitStack() as open_pages:
        everybody = [await open_pages.enter_async_context(pages.open(name)) for name in demo.PEOPLE]
        for name in ("delivered", "rejected"):
            seq = await everybody[0].say(key, name)
            if name == "rejected":
                await everybody[1].reject(key, seq)
            for page in everybody:
                await page.hold(key, seq)
    async with pages.open(ada) as hers, pages.open(grace) as graces:
        seq = await hers.say(key, "waiting")
        await graces.hold(key, seq)
    for name, attempts in ((bob, ATTEMPTS), (carol, policies.current().attempts_max)):
        async with pages.open(name) as silent:
            await silent.tried(key, attempts)


async def _let_park(others: Sequence[str], key: RoomKey, pages: _Pages) -> None:
    """One for carol, who is away: in whichever other room she and 小林 alone are."""
    async with pages.open(demo.PEOPLE[-1]) as hers:
        async for room in Room.objects.filter(pk__in=others, kind=Room.Kind.PUBLIC).order_by("pk"):
            if await room.memberships.acount() == 2 and room.id in hers.connection.feeds:
                await hers.say(memberships.key_of(room), "parked", of=key)
                return


async def _letter(message: str) -> UUID:
    letter = await DeadLetter.objects.only("id").aget(message_id=message)
    return letter.pk


def _id(key: RoomKey, name: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{key.id} {name}"))


# ── Pages ──


class _Page:
    """A page without its socket: what it would be sent is kept here, what it sends goes to the same verbs."""

    def __init__(self, pages: _Pages, visitor: Any) -> None:
        self.pages = pages
        self.connection = Connection(self._receive, visitor=visitor, policy=pages.server.policy)
        self._heard: list[dict[str, Any]] = []

    async def _receive(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            heard = json.loads(event["text"])
            self._heard += heard if isinstance(heard, list) else [heard]

    def is_closed(self) -> bool:
        return self.connection.closed is not None

    async def say(
        self, room: RoomKey, name: str, *, ttl: int | None = None, of: RoomKey | None = None
    ) -> int:
        """Send a message and return its seq."""
        id_ = _id(of or room, name)
        self.pages.server.sender.send(self.connection, Send(id=id_, room=room.id, body=BODIES[name], ttl=ttl))

        def sent() -> int:
            return next((one["seq"] for one in self._heard if one["type"] == "sent" and one["id"] == id_), 0)

        await self.pages.until(sent)
        return sent()

    async def hold(self, room: RoomKey, seq: int) -> None:
        """Acknowledge up to a seq, and wait until the store knows."""
        feed = self.connection.feeds[room.id]
        ack = RoomAck(room.id, feed.epoch, delivered=seq, read=seq)
        self.pages.server.acknowledger.acknowledge(self.connection, Ack([ack]))
        user, store = self.connection.user, self.pages.server.store

        async def held() -> bool:
            return not await store.retries.owing(room, feed.epoch, [user], mark=seq)

        await self.pages.until(held)

    async def reject(self, room: RoomKey, seq: int) -> None:
        """Say that a message cannot be shown here."""
        epoch = self.connection.feeds[room.id].epoch
        frame = Reject(room=room.id, epoch=epoch, seq=seq, reason="cannot be shown")
        await self.pages.server.changes.reject(self.connection, frame)

    async def tried(self, room: RoomKey, attempts: int) -> None:
        """Stay silent until so many attempts were counted."""
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
        """Open a page of somebody's; it says `hello`."""
        visitor = await directory.authenticate(self._sessions[name])
        page = _Page(self, visitor)
        self.server.registry.enter(page.connection)
        try:
            await self.server.greeter.hello(page.connection, Hello(v=VERSION, rooms=[]))
            yield page
        finally:
            self.server.leave(page.connection)
            await page.connection.finish()

    async def until(self, condition: Callable[[], Any], *, within_s: float = NOTHING_WITHIN_S) -> None:
        """Wait for a condition. Raises Stopped, TimeoutError."""
        async with asyncio.timeout(within_s):
            while True:
                if self._stopping():
                    raise Stopped
                found = condition()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(LOOK_S)

    def rested(self, seconds: float) -> Callable[[], bool]:
        """Return a condition that holds after so long."""
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
