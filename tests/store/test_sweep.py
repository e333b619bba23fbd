"""Large sweeps: two at a time, many members of whom few are connected, and the calls of the store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from django.conf import settings

from messaging import control
from messaging.live.hub import Hub, HubListener
from messaging.live.registry import Registry
from messaging.live.retry import Retry
from messaging.policy import Policy
from messaging.store import Store, connections
from messaging.store.records import RoomKey
from tests.support.messages import NAMES, ROOM, accept, message, read
from tests.support.people import Events
from tests.support.sites import _database_url
from tests.support.sockets import Socket, open_feed, until

ROOT = Path(__file__).parents[2]
ROOMS = [RoomKey(f"r{number}", number % 64) for number in range(200)]
SWEEPS = 'import sys, django; django.setup(); from messaging import jobs; print("ready", flush=True); sys.stdin.readline(); print(jobs.retry_undelivered(), flush=True)'


async def owed(store: Store, *rooms: RoomKey) -> None:
    """Make members owe an old message in rooms that are due."""
    for room in rooms:
        await accept(store, message(room=room))
        await store.client.hset(f"{room.key}:msg:1", "sent_at", await store.now_ms() - 60_000)
        await store.client.zadd(f"{room.prefix}unacked", {room.id: 1})


async def test_two_concurrent_sweeps_announce_each_room_once(
    store: Store, events: Events, transactional_db: None
) -> None:
    await owed(store, *ROOMS)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
        "DATABASE_URL": _database_url(Path(settings.DATABASES["default"]["NAME"])),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SWEEPS],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    announced: Counter[str] = Counter()
    while announced.total() < len(ROOMS):
        event = await events.until(type="sweep")
        announced[event["room"]] += 1
    counts = [int((await asyncio.to_thread(process.communicate))[0]) for process in processes]
    await control.publish("sweep", room="the end", epoch="", mark=0)
    assert (await events.next())["room"] == "the end", "nothing else was announced"
    assert announced == Counter(room.id for room in ROOMS)
    assert sum(counts) == len(ROOMS)


# ── 10,000 members, of whom 100 are connected and do not acknowledge ──

MANY, HERE = 10_000, 100
PATIENT = Policy(ack_timeout_s=60.0)  # the sweep alone pushes


class Counting:
    """Counts the scripts that a store runs."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        run = store.scripts.run

        async def counting(calls: list[tuple[str, tuple[object, ...]]], **options: bool) -> list[object]:
            self.calls.update(name for name, _ in calls)
            return await run(calls, **options)

        monkeypatch.setattr(store.scripts, "run", counting)


@dataclasses.dataclass
class Process:
    """The parts of one server process that sweep."""

    store: Store
    hub: Hub
    retry: Retry


@pytest.fixture
async def process(redis_url: str) -> AsyncIterator[Process]:
    """Run a process for a room of many members."""

    async def many(room: str) -> list[int]:
        return list(range(1, MANY + 1))

    store = Store(connections.async_client(), PATIENT, members_of=many)
    registry = Registry()
    retry = Retry(store, registry, PATIENT)
    hub = Hub(registry, PATIENT, HubListener(pushed=retry.pushed))
    running = asyncio.ensure_future(hub.run())
    yield Process(store, hub, retry)
    for connection in list(registry.connections):
        retry.forget(connection)
        registry.leave(connection)
        await connection.finish()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await connections.close()


def attempts(socket: Socket) -> list[int]:
    return [frame["attempt"] for frame in socket.of("message") if "attempt" in frame]


async def test_sweep_serves_all_connected_members_and_offline_members_cost_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = range(MANY - HERE + 1, MANY + 1)
    for user in here:
        monkeypatch.setitem(NAMES, user, f"user{user}")
    store = process.store
    sockets = [(await open_feed(store, process.hub, user))[2] for user in here]
    await owed(store, ROOM)
    await until(lambda: all(socket.of("message") for socket in sockets))

    [claim] = await store.retries.claim("t")
    counting = Counting(store, monkeypatch)
    await process.retry.sweep(claim.room.id, claim.epoch, claim.mark)
    assert counting.calls == {"who_owes": 1, "record_attempt": HERE, "read_after": HERE}
    await until(lambda: all(attempts(socket) == [1] for socket in sockets))
    written = await store.client.hkeys(f"{ROOM.key}:attempts")
    assert {int(user) for user in written} == set(here), "an offline member costs no attempt"

    back = await read(store, user=2)
    assert [stored.seq for stored in back.messages] == [1], "and gets all messages on return"
