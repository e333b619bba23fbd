"""The schedules of the jobs, and the jobs `mark_store` and `rewrite_log`.

django-q2 calls the functions in `SCHEDULES` in the worker. A job has no arguments, because a queued job can be lost; all state is in
the store and the database.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django_q.models import Schedule
from django_q.tasks import async_task
from redis.exceptions import RedisError

from messaging import expiry, losses
from messaging.bridge import run_async
from messaging.store import open_store

from .sweeps import SweepOptions, sweep

SCHEDULES: dict[str, dict[str, Any]] = {
    "retry_undelivered": {"func": "messaging.jobs.retry_undelivered", "minutes": 1},
    "process_expired": {"func": "messaging.jobs.process_expired", "minutes": 1},
    "mark_store": {"func": "messaging.jobs.mark_store", "minutes": 1},
    "rewrite_log": {"func": "messaging.jobs.rewrite_log", "minutes": 60},
    "carry_on_bulk": {"func": "messaging.admin.bulk_job.carry_on", "minutes": 1},
    "clear_sessions": {"func": "messaging.jobs.clear_sessions", "minutes": 60},
}

log = logging.getLogger(__name__)


def install_schedules() -> None:
    """Create or correct the schedules, by name. Idempotent."""
    for name, schedule in SCHEDULES.items():
        # Two processes that start at the same time may both create it, because django-q2 has no constraint against this.
        first = Schedule.objects.filter(name=name).order_by("pk")[:1]
        Schedule.objects.filter(name=name).exclude(pk__in=first.values("pk")).delete()
        Schedule.objects.update_or_create(
            name=name,
            defaults={
                "func": schedule["func"],
                "schedule_type": Schedule.MINUTES,
                "minutes": schedule["minutes"],
                "repeats": -1,
            },
        )


def missing_schedules() -> set[str]:
    """Return the names of the schedules that do not exist."""
    return SCHEDULES.keys() - set(Schedule.objects.values_list("name", flat=True))


def run_soon(name: str) -> None:
    """Put a scheduled job into the queue now. If it is lost, the schedule runs the job later."""
    try:
        async_task(SCHEDULES[name]["func"])
    except (RedisError, OSError) as error:
        log.warning("a job was not queued", extra={"job": name, "reason": type(error).__name__})


def repair_schedules() -> int:
    """Start schedules now whose next run is later than one interval, because the clock was set back. Return their number. Idempotent."""
    now = timezone.now()
    repaired = 0
    for name, schedule in SCHEDULES.items():
        too_late = Schedule.objects.filter(
            name=name, next_run__gt=now + timedelta(minutes=schedule["minutes"])
        )
        repaired += too_late.update(next_run=now)
    return repaired


def heartbeat_age_s() -> float | None:
    """Return the seconds since the last run of any job, or None before the first run. Raises Unavailable."""
    return run_async(_heartbeat_age_s)


async def _heartbeat_age_s() -> float | None:
    store = open_store()
    beats = await store.stats.beats()
    if not beats:
        return None
    newest = max(int(beat["at"]) for beat in beats.values())
    return max(0.0, (await store.now_ms() - newest) / 1000)


def retry_undelivered() -> int:
    """Sweep once, within the deadline of a job; return the number of rooms. The schedule calls this."""
    return run_async(sweep, SweepOptions())


def process_expired() -> int:
    """Process expired messages, within the deadline of a job; return their number. The schedule calls this."""
    return run_async(expiry.process, expiry.ExpiryOptions()).expired


def mark_store() -> None:
    """Detect whether the store has lost data, and mark its present state. The schedule calls this."""
    run_async(losses.mark)


def rewrite_log() -> None:
    """Remove expired text from the store's log on disk. The schedule calls this."""
    run_async(_rewrite_log)


async def _rewrite_log() -> None:
    store = open_store()
    await store.stats.rewrite_log()
    await store.stats.beat("rewrite_log", {})
