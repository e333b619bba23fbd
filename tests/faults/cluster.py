"""A site whose parts can be killed, frozen and cut off from each other: server processes, worker, store, database, each behind a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import redis
from django.core.management import call_command
from django.db import connection
from django_q.brokers.redis_broker import Redis
from django_q.tasks import async_task

from chatsite.environment import BASE_DIR
from chatsite.run.children import MARK, end_marked, mark, marked
from tests.support.lines import Line
from tests.support.sites import Person, Site, StoreProcess, people, room

CLIENTS = 10
ACTORS = ("zoe", "yuri", "xenia", "walt")  # they are not in the rooms of the clients
SETTINGS = "tests.faults.settings"
TICK_S = 2.0
JOBS = ("process_expired", "retry_undelivered", "mark_store")
START_TRIES = 200


class Rows:
    """The database of all scenarios, made once: the clients with their rooms, the actors with theirs. Each scenario gets a copy."""

    def __init__(self) -> None:
        call_command("migrate", verbosity=0)
        self.clients = people(*(f"user{number:02}" for number in range(1, CLIENTS + 1)))
        self.actors = dict(zip(ACTORS, people(*ACTORS), strict=True))
        self.rooms = [room(*self.clients, name=name) for name in ("atlas", "borealis")]
        self.stage = room(*self.actors.values(), name="stage")
        _make_owner(self.stage, self.actors["zoe"])
        name = str(connection.settings_dict["NAME"])
        connection.close()
        self.file = Path(tempfile.mkdtemp(prefix="chat-rows-")) / "db.sqlite3"
        shutil.copy(name, self.file)

    def close(self) -> None:
        shutil.rmtree(self.file.parent, ignore_errors=True)


def _make_owner(room_id: str, person: Person) -> None:
    from messaging.models import Membership

    Membership.objects.filter(room_id=room_id, user_id=person.id).update(role="owner")


class Part(Site):
    """A server process or the worker: its line to the store, its link to the database, its folder and log."""

    def __init__(
        self, folder: Path, store: StoreProcess, line: Line, database: Path, mutation: str, **policy: Any
    ) -> None:
        super().__init__(folder, redis_url=line.url, **policy)
        self.store = store
        self.line = line
        self.door = Line(self.port)  # between the clients and this process
        self._rows = database
        self._mutation = mutation

    def _link_database(self) -> None:
        self._database.symlink_to(self._rows)

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            "MUTATION_FOR_TESTS": self._mutation,
            MARK: mark(self.folder, "part"),
        }

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.door.port}/ws/chat/"

    def take_database_away(self) -> None:
        """Let this process open no database."""
        self._database.unlink()
        self._database.mkdir()

    def bring_database_back(self) -> None:
        self._database.rmdir()
        self._link_database()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class Cluster:
    """One site. Use it in `async with`; everything is deleted at the end, except the ledgers if `keep_ledgers`."""

    def __init__(self, rows: Rows, *, servers: int, rng: random.Random, mutation: str, **policy: Any) -> None:
        self.rows = rows
        self.folder = Path(tempfile.mkdtemp(prefix="chat-faults-"))
        self.ledgers = self.folder / "ledgers"
        self.ledgers.mkdir()
        self.keep_ledgers = False
        self.database = self.folder / "db.sqlite3"
        self.store = StoreProcess(self.folder)
        self.servers: list[Part] = []
        self.jobs: Part
        self.ticked: tuple[str, ...] = (
            JOBS  # put into the queue all the time; () leaves the jobs to their schedules
        )
        self._count = servers
        self._rng = rng
        self._mutation = mutation
        self._policy = policy
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Cluster:
        try:
            await self._start()
        except BaseException:
            self.keep_ledgers = True
            await self.__aexit__()
            raise
        return self

    async def _start(self) -> None:
        shutil.copy(self.rows.file, self.database)
        self.store.start()
        await asyncio.to_thread(self.store.wait_until_ready)
        for name in [*(f"server-{number + 1}" for number in range(self._count)), "jobs"]:
            line = await Line(self.store.socket, rng=self._rng).open()
            part = Part(self.folder / name, self.store, line, self.database, self._mutation, **self._policy)
            part._link_database()
            if name == "jobs":
                self.jobs = part
                continue
            await part.door.open()
            self.servers.append(part)
            part.start_server()
        self.start_worker()
        await asyncio.gather(*(asyncio.to_thread(part.wait_until_served) for part in self.servers))
        self._tasks.append(asyncio.create_task(self._tick_forever()))

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for part in [*self.servers, *([self.jobs] if hasattr(self, "jobs") else [])]:
            for pid in marked(part.folder):
                _signal(pid, signal.SIGCONT)
            end_marked(part.folder, patience_s=0)
            if part.process is not None:
                part.process.wait()
            part.listener.close()
            await part.line.close()
            if part is not getattr(self, "jobs", None):
                await part.door.close()
        self.store.kill()
        if self.keep_ledgers:
            for log in self.folder.glob("*/log"):
                shutil.copy(log, self.ledgers / f"{log.parent.name}.log")
            for path in self.folder.iterdir():
                if path != self.ledgers:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    # The worker

    def start_worker(self) -> None:
        with (self.jobs.folder / "log").open("ab") as log:
            self.jobs.process = subprocess.Popen(
                [sys.executable, "manage.py", "worker"],
                cwd=BASE_DIR,
                env=self.jobs._environment(),
                stdout=log,
                stderr=log,
            )

    def kill_worker(self) -> None:
        """Kill the worker, its cluster and their children with -9."""
        end_marked(self.jobs.folder, patience_s=0)
        assert self.jobs.process is not None
        self.jobs.process.wait()

    def kill_sentinel(self) -> bool:
        """Kill the process that guards the cluster's workers and schedules; return whether there was one."""
        assert self.jobs.process is not None
        for cluster in psutil.Process(self.jobs.process.pid).children():
            for sentinel in cluster.children():
                if sentinel.children():
                    sentinel.kill()
                    return True
        return False

    async def _tick_forever(self) -> None:
        """Put the jobs of every minute into the queue every two seconds, so that a scenario is short."""
        while True:
            await asyncio.sleep(TICK_S)
            if self.ticked:
                await asyncio.to_thread(self._tick)

    def _tick(self) -> None:
        broker = Redis()
        try:
            with redis.Redis.from_url(f"{self.store.url}?db=1", socket_timeout=1.0) as broker.connection:
                if broker.queue_size() < len(self.ticked):
                    for job in self.ticked:
                        async_task(f"messaging.jobs.{job}", broker=broker)
        except (redis.RedisError, OSError):
            pass  # the store is away or full

    # The store

    def redis(self, number: int = 0) -> redis.Redis:
        """Return a connection to the store past all lines."""
        return redis.Redis.from_url(f"{self.store.url}?db={number}", socket_timeout=10.0)

    async def command(self, *words: Any) -> Any:
        """Run a command of the store past all lines."""

        def run() -> Any:
            with self.redis() as client:
                return client.execute_command(*words)

        return await asyncio.to_thread(run)

    async def disturb(self, *words: Any) -> None:
        """Run a command of the store, unless another fault prevents it."""
        with contextlib.suppress(redis.RedisError, OSError):
            await self.command(*words)

    async def restart_store(self, *, down_s: float = 0.0) -> None:
        await asyncio.to_thread(self.store.kill)
        await asyncio.sleep(down_s)
        self.store.start()
        await asyncio.to_thread(self.store.wait_until_ready)

    @property
    def store_files(self) -> Path:
        return self.store.folder / "appendonlydir"

    # The database

    async def sql(self, statement: str) -> None:
        def run() -> None:
            database = sqlite3.connect(self.database, timeout=20)
            with database:
                database.execute(statement)
            database.close()

        await asyncio.to_thread(run)

    async def lock_database(self, seconds: float) -> None:
        """Hold a write transaction on the database, as a backup or a stuck process does."""
        database = sqlite3.connect(self.database, timeout=60, check_same_thread=False, isolation_level=None)
        await asyncio.to_thread(database.execute, "BEGIN IMMEDIATE")
        await asyncio.sleep(seconds)
        database.rollback()
        database.close()

    # What operators see

    async def manage(self, *words: str) -> str:
        """Run a command of the site as its operator would; return what it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "manage.py",
            *words,
            cwd=BASE_DIR,
            env=self.jobs._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        printed, _ = await process.communicate()
        return printed.decode()

    async def unaccounted(self) -> int:
        """Return the number of accepted messages for which the site's account has no place."""
        parts = json.loads(await self.manage("doctor", "--json"))["parts"]
        [facts] = [part["facts"] for part in parts if part["name"] == "expiry"]
        return int(facts.get("unaccounted", 0))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def eventually(condition: Any, *, within_s: float) -> bool:
    """Wait until a condition is true; return whether it was in time."""
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        if condition():
            return True
        await asyncio.sleep(0.1)
    return bool(condition())
