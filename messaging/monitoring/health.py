"""How each part of an installation is: reachable, new enough, set so that nothing accepted can be lost.

`manage.py doctor` prints it; `serve` asks for the store before it opens its port. Each fault is a sentence and its remedy.
Looks at settings of servers only, never at messages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django_q.models import Schedule
from django_redis import get_redis_connection

from messaging import jobs
from messaging import policy as policies
from messaging.bridge import run_verb
from messaging.errors import Unavailable
from messaging.expiry import retention
from messaging.models import DeadLetter, moment
from messaging.store import open_store
from messaging.store.records import Counts, Overdue

from . import status

OLDEST_STORE = (7, 0)
LISTPACK_VALUE_BYTES = 8_192
CLOCK_DIFFERENCE_S = 2.0
MEMORY_SHARE = 0.8
HEARTBEAT_S = 180.0  # each job runs every minute
LATE_EXPIRY_S = 180.0  # as long
DAY_MS = 86_400_000
LATE_SCHEDULE = timedelta(minutes=5)
LAYER_DEADLINE_S = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`fatal`: messages would be lost or not accepted, so that `serve` does not start."""

    sentence: str
    remedy: str
    fatal: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    version: str = ""
    reachable: bool = True
    facts: dict[str, str | int | float | bool | None] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)


def parts() -> list[Part]:
    """Return every part, also when others cannot be reached."""
    return [store(), cache(), channel_layer(), database(), worker(), expiry(), schedules()]


# ── The store ──


def store() -> Part:
    """Return how the store of the messages is."""
    client = get_redis_connection("messages")
    try:
        info = client.info()
        drift_s = _drift_s(client)
    except redis.RedisError as error:
        return _unreachable(
            "store", error, "Start it, or correct REDIS_URL; `manage.py serve` runs one by itself."
        )
    found = _settings(client)
    counted = _counted()
    version = str(info.get("valkey_version") or info["redis_version"])
    facts: dict[str, str | int | float | bool | None] = {
        "server": str(info.get("server_name", "redis")),
        **found,
        "used_memory": int(info["used_memory"]),
        "maxmemory": int(info.get("maxmemory", 0)),
        "role": str(info["role"]),
        "aof_last_write_status": str(info.get("aof_last_write_status", "unknown")),
        "clock_difference_s": round(drift_s, 3),
        **counted,
    }
    faults = [*_server_faults(info, drift_s), *_settings_faults(found), *_persistence_faults(info)]
    return Part(name="store", version=version, facts=facts, faults=faults)


def _counted() -> dict[str, int]:
    try:
        hour = run_verb(_last_hour)
    except (redis.RedisError, Unavailable):  # why it does not answer is a fault of its own
        return {}
    return {
        "accepted_last_hour": hour.accepted,
        "retried_last_hour": hour.retried,
        "gave_up_last_hour": hour.gave_up,
    }


async def _last_hour() -> Counts:
    return await status.last_hour(open_store())


def _drift_s(client: redis.Redis) -> float:
    """Return by how many seconds the store's clock is ahead of ours, half of the round trip taken off."""
    asked_s, asked_mono_s = time.time(), time.monotonic()
    seconds, micros = client.time()
    return float(seconds + micros / 1e6 - asked_s - (time.monotonic() - asked_mono_s) / 2)


def _settings(client: redis.Redis) -> dict[str, str]:
    names = ("maxmemory-policy", "appendonly", "appendfsync", "hash-max-listpack-value")
    try:
        return {name: str(client.config_get(name).get(name, "unknown")) for name in names}
    except redis.RedisError:  # a managed store may forbid CONFIG
        return {}


def _server_faults(info: Mapping[str, Any], drift_s: float) -> list[Fault]:
    faults = []
    number = tuple(int(one) for one in str(info["redis_version"]).split(".")[:2])
    if number < OLDEST_STORE:
        sentence = f"The store is version {info['redis_version']}; its scripts need 7.0."
        faults.append(Fault(sentence=sentence, remedy="Install Valkey, or Redis 7.0 or newer.", fatal=True))
    if info["role"] != "master":
        faults.append(
            Fault(
                sentence="The store is a replica and refuses every write.",
                remedy="Name the primary in REDIS_URL.",
                fatal=True,
            )
        )
    if abs(drift_s) > CLOCK_DIFFERENCE_S:
        sentence = f"The store's clock is {abs(drift_s):.1f} s {'ahead of' if drift_s > 0 else 'behind'} this machine's."
        faults.append(
            Fault(
                sentence=sentence,
                remedy="Let both follow NTP: the store's clock decides when messages expire.",
            )
        )
    limit = int(info.get("maxmemory", 0))
    if limit and info["used_memory"] > MEMORY_SHARE * limit:
        sentence = f"The store uses {100 * info['used_memory'] // limit} % of its memory; when it is full, sending stops."
        faults.append(Fault(sentence=sentence, remedy="Raise maxmemory, or shorten the rooms' lifetimes."))
    return faults


def _settings_faults(found: Mapping[str, str]) -> list[Fault]:
    if not found:
        return [
            Fault(
                sentence="The store does not show its settings (CONFIG is forbidden).",
                remedy="See in its console that maxmemory-policy is noeviction, appendonly yes and appendfsync always.",
            )
        ]
    return [fault for name, judge in _JUDGES.items() if (fault := judge(found[name])) is not None]


def _judge_policy(value: str) -> Fault | None:
    if value == "noeviction":
        return None
    sentence = (
        f"The store evicts when it is full (maxmemory-policy {value}): messages would disappear in silence."
    )
    return Fault(
        sentence=sentence,
        remedy="Run `CONFIG SET maxmemory-policy noeviction` and put it into its file.",
        fatal=True,
    )


def _judge_appendonly(value: str) -> Fault | None:
    if value == "yes":
        return None
    sentence = "The store writes no log to disk (appendonly no): a crash loses accepted messages."
    return Fault(sentence=sentence, remedy="Run `CONFIG SET appendonly yes` and put it into its file.")


def _judge_appendfsync(value: str) -> Fault | None:
    if value == "always":
        return None
    sentence = f"The store syncs its log to disk with appendfsync {value}: a power cut can lose the last accepted messages."
    return Fault(sentence=sentence, remedy="Run `CONFIG SET appendfsync always` and put it into its file.")


def _judge_listpack(value: str) -> Fault | None:
    if value.isdigit() and int(value) >= LISTPACK_VALUE_BYTES:
        return None
    sentence = f"The store spends about twice the memory on each message (hash-max-listpack-value {value})."
    remedy = f"Run `CONFIG SET hash-max-listpack-value {LISTPACK_VALUE_BYTES}` and put it into its file."
    return Fault(sentence=sentence, remedy=remedy)


_JUDGES: dict[str, Callable[[str], Fault | None]] = {
    "maxmemory-policy": _judge_policy,
    "appendonly": _judge_appendonly,
    "appendfsync": _judge_appendfsync,
    "hash-max-listpack-value": _judge_listpack,
}


def _persistence_faults(info: Mapping[str, Any]) -> list[Fault]:
    failed = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if info.get(name, "ok") != "ok"
    ]
    if not failed:
        return []
    sentence = f"The store could not write to its disk ({', '.join(failed)})."
    return [Fault(sentence=sentence, remedy="See the store's log; make room on its disk.")]


# ── Cache and channel layer ──


def cache() -> Part:
    """Return how the cache is, which carries the login limits and the job queue."""
    try:
        get_redis_connection("default").ping()
    except redis.RedisError as error:
        return _unreachable("cache", error, "Start the store; its server must have at least three databases.")
    return Part(name="cache")


def channel_layer() -> Part:
    """Return whether an event sent over the channel layer arrives."""
    try:
        async_to_sync(_round_trip)()
    except (redis.RedisError, OSError, TimeoutError) as error:
        return _unreachable(
            "channel layer", error, "Start the store; its server must have at least three databases."
        )
    return Part(name="channel layer")


async def _round_trip() -> None:
    layer = get_channel_layer()
    try:
        async with asyncio.timeout(LAYER_DEADLINE_S):
            channel = await layer.new_channel()
            await layer.send(channel, {"type": "doctor.round_trip"})
            await layer.receive(channel)
    finally:
        with suppress(redis.RedisError, OSError):
            await layer.flush()


# ── The database ──


def database() -> Part:
    """Return how the database is."""
    try:
        connection.ensure_connection()
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        facts: dict[str, str | int | float | bool | None] = {
            "vendor": connection.vendor,
            "migrations_missing": len(missing),
        }
        if connection.vendor == "sqlite":
            facts.update(_pragmas())
    except DatabaseError as error:
        return _unreachable("database", error, "Start it, or correct DATABASE_URL.")
    faults = []
    if missing:
        sentence = f"{len(missing)} migrations have not been applied."
        faults.append(Fault(sentence=sentence, remedy="Run `manage.py migrate`."))
    if connection.vendor == "sqlite" and (facts["journal_mode"], facts["synchronous"]) != ("wal", 2):
        sentence = (
            f"SQLite runs with journal_mode {facts['journal_mode']} and synchronous {facts['synchronous']}."
        )
        faults.append(
            Fault(sentence=sentence, remedy="Keep the OPTIONS of DATABASES in the settings: WAL and FULL.")
        )
    version = ".".join(map(str, connection.get_database_version()))
    return Part(name="database", version=version, facts=facts, faults=faults)


def _pragmas() -> dict[str, str | int]:
    found = {}
    with connection.cursor() as cursor:
        for name in ("journal_mode", "synchronous", "secure_delete"):
            cursor.execute(f"PRAGMA {name}")
            found[name] = cursor.fetchone()[0]
    return found


# ── The jobs ──


def worker() -> Part:
    """Return when a job last ran."""
    try:
        age_s = jobs.heartbeat_age_s()
    except (redis.RedisError, Unavailable) as error:
        return _unreachable("worker", error, "Start the store first.")
    remedy = "Start `manage.py worker`; `manage.py serve` runs one by itself."
    if age_s is None:
        fault = Fault(
            sentence="No job has ever run: nothing is retried by the sweep.",
            remedy=remedy,
        )
        return Part(name="worker", reachable=False, facts={"heartbeat_age_s": None}, faults=[fault])
    faults = []
    if age_s > HEARTBEAT_S:
        sentence = f"The last job ran {age_s:.0f} s ago; one should run each minute."
        faults.append(Fault(sentence=sentence, remedy=remedy))
    if not policies.current().nets:
        sentence = "The retry nets are switched off: what is lost on the way stays lost."
        faults.append(Fault(sentence=sentence, remedy="Unset MESSAGING_NETS; it is for the drill only."))
    return Part(
        name="worker", reachable=not faults, facts={"heartbeat_age_s": round(age_s, 1)}, faults=faults
    )


def expiry() -> Part:
    """Return whether what expires is reported in time, and whole."""
    try:
        overdue, beats, hour, now_ms = run_verb(_expiry)
    except (redis.RedisError, Unavailable):
        sentence = "How late the expiry reports are is not known without the store."
        return Part(
            name="expiry", reachable=False, faults=[Fault(sentence=sentence, remedy="Start the store first.")]
        )
    facts: dict[str, str | int | float | bool | None] = {
        "due": overdue.due,
        "oldest_s": overdue.oldest_s,
        "expired_last_hour": hour.expired,
        "expired_missed_last_hour": hour.expired_missed,
    }
    faults = [*_late_faults(overdue), *_silent_faults(beats, now_ms)]
    try:
        since = moment(now_ms - DAY_MS)
        aside = DeadLetter.objects.filter(processed_at__gt=since).exclude(fault="").count()
        dropped = retention.dropped_open(now_ms)
    except DatabaseError:  # why it does not answer is a fault of its own
        return Part(name="expiry", facts=facts, faults=faults)
    facts |= {"set_aside_last_day": aside, "dropped_open_last_day": dropped}
    return Part(name="expiry", facts=facts, faults=[*faults, *_letter_faults(aside, dropped)])


async def _expiry() -> tuple[Overdue, dict[str, dict[str, Any]], Counts, int]:
    store = open_store()
    return (
        await store.expiry.overdue(),
        await store.stats.beats(),
        await status.last_hour(store),
        await store.now_ms(),
    )


def _late_faults(overdue: Overdue) -> Iterator[Fault]:
    if overdue.oldest_s is not None and overdue.oldest_s > LATE_EXPIRY_S:
        yield Fault(
            sentence=f"{overdue.due} expired messages are not reported to their senders, the oldest for {overdue.oldest_s:.0f} s.",
            remedy="See that a worker runs; `manage.py process_expired --once` reports them now.",
        )


def _silent_faults(beats: Mapping[str, Mapping[str, Any]], now_ms: int) -> Iterator[Fault]:
    """Say that this job stands still although another runs; where none does, `worker` says it."""
    ages_s = {job: (now_ms - int(beat["at"])) / 1000 for job, beat in beats.items()}
    own_s = ages_s.pop("process_expired", None)
    others_run = min(ages_s.values(), default=HEARTBEAT_S) < HEARTBEAT_S
    if others_run and (own_s is None or own_s > HEARTBEAT_S):
        since = "has never run" if own_s is None else f"last ran {own_s:.0f} s ago"
        yield Fault(
            sentence=f"The job process_expired {since}, although other jobs run.",
            remedy="See the worker's log for its failure; `manage.py process_expired --once` shows it at once.",
        )


def _letter_faults(aside: int, dropped: int) -> Iterator[Fault]:
    if aside:
        yield Fault(
            sentence=f"{aside} expired messages of the last day were set aside without their text: they fit no table.",
            remedy="See them with `manage.py dead_letters list --set-aside` and report the fault that stands there.",
        )
    if dropped:
        yield Fault(
            sentence=f"{dropped} open dead letters were dropped in the last day, there being too many.",
            remedy="Send again or discard what is old with `manage.py dead_letters`, or raise dead_letter_count.",
        )


def schedules() -> Part:
    """Return whether every schedule is there and none is late."""
    try:
        found = {row.name: row for row in Schedule.objects.filter(name__in=jobs.SCHEDULES)}
    except DatabaseError as error:
        return _unreachable("schedules", error, "Start the database, and run `manage.py migrate`.")
    faults = [
        Fault(
            sentence=f"The schedule {name} is missing.",
            remedy="Run `manage.py migrate` or `manage.py serve`: both put it back.",
        )
        for name in jobs.SCHEDULES
        if name not in found
    ]
    faults += [
        Fault(
            sentence=f"The schedule {name} is late since {row.next_run:%Y-%m-%d %H:%M} UTC.",
            remedy="See that a worker runs.",
        )
        for name, row in found.items()
        if row.next_run and row.next_run < timezone.now() - LATE_SCHEDULE
    ]
    return Part(name="schedules", facts={"found": len(found), "wanted": len(jobs.SCHEDULES)}, faults=faults)


def _unreachable(name: str, error: Exception, remedy: str) -> Part:
    reason = " ".join(str(error).split()) or "no answer in time"
    sentence = f"The {name} cannot be reached: {reason.rstrip('.')}."
    return Part(name=name, reachable=False, faults=[Fault(sentence=sentence, remedy=remedy, fatal=True)])
