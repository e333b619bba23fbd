"""Collect the facts of every component of an installation. `faults` derives the faults from them.

`manage.py doctor` prints the components. `serve` checks the store before it starts the other processes.
Reads settings, states and counts, never the text of a message.
"""

from __future__ import annotations

import asyncio
import dataclasses
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django_q.models import Schedule
from django_redis import get_redis_connection

from messaging import jobs
from messaging import policy as policies
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.expiry import retention
from messaging.models import DeadLetter, moment
from messaging.store import open_store
from messaging.store.records import Counts, Memory, Overdue

from . import disk, faults, site_figures, status
from .faults import Facts, Fault, fault

DAY_MS = 86_400_000
LAYER_TIMEOUT_S = 4.0
SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync", "hash-max-listpack-value")
PRAGMAS = ("journal_mode", "synchronous", "secure_delete")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of the installation. `faults` are in the order in which they are printed."""

    name: str
    version: str = ""
    reachable: bool = True
    facts: Facts = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)


def components() -> list[Component]:
    """Return every component, also if some cannot be reached."""
    return [
        data_disk(),
        store(),
        cache(),
        channel_layer(),
        database(),
        files(),
        worker(),
        expiry(),
        schedules(),
    ]


def data_disk() -> Component:
    """Return the free space on the disk of DATA_DIR. On a full disk the embedded store ends, so that it cannot report the reason."""
    free_bytes = disk.free_bytes()
    return Component(name="disk", facts={"free_bytes": free_bytes}, faults=[*faults.of_disk(free_bytes)])


def store() -> Component:
    """Return the state of the store."""
    client = get_redis_connection("messages")
    try:
        info = client.info()
        difference_s = _clock_difference_s(client)
    except redis.RedisError as error:
        return _unreachable("store", "store_unreachable", error)
    values = _settings(client)
    memory = Memory.from_info(info)
    facts: Facts = {
        "server": str(info.get("server_name", "redis")),
        **values,
        "used_memory": memory.used,
        "maxmemory": memory.limit,
        "role": str(info["role"]),
        **{name: str(info.get(name, "unknown")) for name in Memory.WRITES},
        "clock_difference_s": round(difference_s, 3),
    }
    with suppress(redis.RedisError, Unavailable):  # the reason is a separate fault
        _runs, _overdue, hour, _now_ms = run_async(_counts)
        facts |= {f"{name}_last_hour": getattr(hour, name) for name in ("accepted", "retried", "gave_up")}
    return Component(
        name="store",
        version=str(info.get("valkey_version") or info["redis_version"]),
        facts=facts,
        faults=[
            *faults.of_server(
                version=str(info["redis_version"]), role=str(info["role"]), clock_difference_s=difference_s
            ),
            *faults.of_network(**_network(client)),
            *faults.of_memory(memory),
            *faults.of_settings(values),
        ],
    )


def _clock_difference_s(client: redis.Redis) -> float:
    """Return by how many seconds the store's clock is ahead of ours. Half of the round trip is subtracted."""
    start_s, start_mono_s = time.time(), time.monotonic()
    seconds, micros = client.time()
    return float(seconds + micros / 1e6 - start_s - (time.monotonic() - start_mono_s) / 2)


def _network(client: redis.Redis) -> dict[str, Any]:
    """Return the arguments of `faults.of_network` for the store's address."""
    options = client.get_connection_kwargs()
    credentials = options.get("password") or options.get("credential_provider") or options.get("ssl_certfile")
    return {"host": str(options.get("host") or ""), "authenticated": bool(credentials)}


def _settings(client: redis.Redis) -> dict[str, str]:
    try:
        return {name: str(client.config_get(name).get(name, "unknown")) for name in SETTINGS}
    except redis.RedisError:  # a managed store may forbid CONFIG
        return {}


def cache() -> Component:
    """Return the state of the cache, which holds the login limits and the job queue."""
    try:
        get_redis_connection("default").ping()
    except redis.RedisError as error:
        return _unreachable("cache", "cache_unreachable", error)
    return Component(name="cache")


def channel_layer() -> Component:
    """Return whether an event sent over the channel layer arrives."""
    try:
        async_to_sync(_round_trip)()
    except (redis.RedisError, OSError, TimeoutError) as error:
        return _unreachable("channel layer", "channel_layer_unreachable", error)
    return Component(name="channel layer")


async def _round_trip() -> None:
    layer = get_channel_layer()
    try:
        async with asyncio.timeout(LAYER_TIMEOUT_S):
            channel = await layer.new_channel()
            await layer.send(channel, {"type": "doctor.round_trip"})
            await layer.receive(channel)
    finally:
        with suppress(redis.RedisError, OSError):
            await layer.flush()


def database() -> Component:
    """Return the state of the database."""
    try:
        connection.ensure_connection()
        executor = MigrationExecutor(connection)
        missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
        pragmas = _pragmas() if connection.vendor == "sqlite" else {}
    except DatabaseError as error:
        return _unreachable("database", "database_unreachable", error)
    return Component(
        name="database",
        version=".".join(map(str, connection.get_database_version())),
        facts={"vendor": connection.vendor, "migrations_missing": missing, **pragmas},
        faults=[*faults.of_database(migrations_missing=missing, pragmas=pragmas)],
    )


def _pragmas() -> Facts:
    pragmas: Facts = {}
    with connection.cursor() as cursor:
        for name in PRAGMAS:
            cursor.execute(f"PRAGMA {name}")
            pragmas[name] = cursor.fetchone()[0]
    return pragmas


def files() -> Component:
    """Return whether only the site's user can enter DATA_DIR."""
    folder = Path(settings.DATA_DIR)
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:  # on another machine, or not used
        mode = None
    facts: Facts = {"folder": str(folder), "mode": None if mode is None else f"{mode:o}"}
    return Component(name="files", facts=facts, faults=[*faults.of_files(folder=str(folder), mode=mode)])


async def _counts() -> tuple[dict[str, int], Overdue, Counts, int]:
    """Return {job: epoch ms of its last run}, the unreported messages, the counts of the last hour, and the time in epoch ms."""
    store = open_store()
    return (
        await status.last_runs(store),
        await store.expiry.overdue(),
        await status.last_hour(store),
        await store.now_ms(),
    )


def worker() -> Component:
    """Return whether jobs run, with the age of the last heartbeat."""
    try:
        runs, _overdue, _hour, now_ms = run_async(_counts)
    except (redis.RedisError, Unavailable) as error:
        return _unreachable("worker", "jobs_unknown", error)
    age_s = round((now_ms - max(runs.values())) / 1000, 1) if runs else None
    problems = [*faults.of_worker(runs, now_ms, recovery=policies.current().recovery)]
    return Component(name="worker", reachable=not problems, facts={"heartbeat_age_s": age_s}, faults=problems)


def expiry() -> Component:
    """Return whether expired messages are reported in time and completely, and whether every message is accounted for."""
    try:
        runs, overdue, hour, now_ms = run_async(_counts)
    except (redis.RedisError, Unavailable) as error:
        return _unreachable("expiry", "jobs_unknown", error)
    facts: Facts = {
        "due": overdue.due,
        "oldest_s": overdue.oldest_s,
        "expired_last_hour": hour.expired,
        "expired_missed_last_hour": hour.expired_missed,
    }
    problems = [*faults.of_expiry(runs, overdue, now_ms)]
    with suppress(DatabaseError):  # the reason is a separate fault
        since = moment(now_ms - DAY_MS)
        quarantined = DeadLetter.objects.filter(processed_at__gt=since).exclude(fault="").count()
        dropped = retention.dropped_open(now_ms)
        facts |= {"set_aside_last_day": quarantined, "dropped_open_last_day": dropped}
        problems += faults.of_letters(quarantined=quarantined, dropped=dropped)
        figures = site_figures.count()
        facts["lost_by_store_last_week"] = figures.database.losses.messages
        problems += faults.of_losses(figures.database.losses)
        if figures.account is not None:
            facts["unaccounted"] = figures.account.lost
            problems += faults.of_account(figures.account.lost)
    return Component(name="expiry", facts=facts, faults=problems)


def schedules() -> Component:
    """Return whether every schedule exists and none is late."""
    try:
        next_runs = dict(Schedule.objects.filter(name__in=jobs.SCHEDULES).values_list("name", "next_run"))
    except DatabaseError as error:
        return _unreachable("schedules", "schedules_unknown", error)
    return Component(
        name="schedules",
        facts={"found": len(next_runs), "wanted": len(jobs.SCHEDULES)},
        faults=[*faults.of_schedules(next_runs, jobs.SCHEDULES, timezone.now())],
    )


def _unreachable(name: str, key: str, error: Exception) -> Component:
    reason = " ".join(str(error).split()) or "no answer in time"
    return Component(name=name, reachable=False, facts={"error": reason}, faults=[fault(key)])
