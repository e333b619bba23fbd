"""The scheduled jobs: what runs each minute in the worker, and the same from the command line.

A sweep's way (`retry_undelivered`): claim the rooms whose look is due, a lease -> one control event each, with a mark -> every
server process pushes to its own connections that owe something at or below the mark -> the claim is settled, next look in a
minute. Killed between any two of these, a room is due again after its lease, and what was pushed already is counted in
`attempts`, so nothing is pushed twice. Absent members are parked: nobody walks them.

A tick carries no data and may be lost; all state is in the store. Jobs bound themselves to 40 s and note each run as a heartbeat.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from django.utils import timezone
from django_q.models import Schedule
from django_q.tasks import async_task
from redis.exceptions import RedisError

from . import control, expiry, rooms
from . import policy as policies
from .crossing import run_verb
from .records import Claim, Lag, RoomKey
from .store import Store, open_store

SCHEDULES: dict[str, dict[str, Any]] = {
    "retry_undelivered": {"func": "messaging.jobs.retry_undelivered", "minutes": 1},
    "process_expired": {"func": "messaging.jobs.process_expired", "minutes": 1},
    "rewrite_log": {"func": "messaging.jobs.rewrite_log", "minutes": 60},
    "carry_on_bulk": {"func": "messaging.bulk_job.carry_on", "minutes": 1},
}

ROOMS_MOST = 20  # of a partition in one claim: no call over 5 ms

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep may do. `older_than_s`: leave rooms whose oldest undelivered message is younger."""

    room: RoomKey | None = None
    older_than_s: int = 0
    limit: int | None = None


def install_schedules() -> None:
    """Make the schedules what they should be, by name. Idempotent."""
    for name, wanted in SCHEDULES.items():
        # Two processes that start at once may both have made it: no constraint of django-q2's forbids that.
        first = Schedule.objects.filter(name=name).order_by("pk")[:1]
        Schedule.objects.filter(name=name).exclude(pk__in=first.values("pk")).delete()
        Schedule.objects.update_or_create(
            name=name,
            defaults={
                "func": wanted["func"],
                "schedule_type": Schedule.MINUTES,
                "minutes": wanted["minutes"],
                "repeats": -1,
            },
        )


def run_soon(name: str) -> None:
    """Put a scheduled job into the queue now. A hint: without the queue, or when it is lost there, its next minute comes."""
    try:
        async_task(SCHEDULES[name]["func"])
    except (RedisError, OSError) as fault:
        log.warning("a job was not queued", extra={"job": name, "reason": type(fault).__name__})


def mend_schedules() -> int:
    """Bring forward what waits longer than it ever should: this machine's clock was set back. Return how many. Idempotent."""
    now = timezone.now()
    mended = 0
    for name, wanted in SCHEDULES.items():
        late = Schedule.objects.filter(name=name, next_run__gt=now + timedelta(minutes=wanted["minutes"]))
        mended += late.update(next_run=now)
    return mended


def heartbeat_age_s() -> float | None:
    """Return the seconds since any job ran, None when none ever did. Raises Unavailable."""
    return run_verb(_heartbeat_age_s)


async def _heartbeat_age_s() -> float | None:
    store = open_store()
    beats = await store.beats()
    if not beats:
        return None
    newest = max(int(beat["at"]) for beat in beats.values())
    return max(0.0, (await store.now_ms() - newest) / 1000)


def retry_undelivered() -> int:
    """Sweep once, within the deadline of a job; return how many rooms were told. The schedule calls this."""
    return run_verb(sweep, Sweep())


def process_expired() -> int:
    """Process what has expired, within the deadline of a job; return how many messages. The schedule calls this."""
    return run_verb(expiry.process, expiry.Expiring()).expired


def rewrite_log() -> None:
    """Let expired text leave the store's log on disk. The schedule calls this."""
    run_verb(_rewrite_log)


async def _rewrite_log() -> None:
    store = open_store()
    await store.rewrite_log()
    await store.beat("rewrite_log", {})


async def sweep(
    what: Sweep,
    *,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[Claim], None] = lambda claim: None,
) -> int:
    """Tell the server processes of every due room, a batch at a time; return how many.

    Ends early at the deadline, at the limit, or after the batch in which `stopping` turned true. Raises Unavailable: what was
    claimed by then is due again after its lease.
    """
    store = open_store()
    started_mono_s = time.monotonic()
    deadline_mono_s = started_mono_s + policies.current().job_deadline_s
    finished = await rooms.finish_leaving()
    count = 0
    while (
        not stopping() and time.monotonic() < deadline_mono_s and (what.limit is None or count < what.limit)
    ):
        claims = await store.claim_lagging(secrets.token_hex(8), most=_batch(what, count), room=what.room)
        step("claimed")
        for claim in _wanted(claims, what, await store.now_ms()):
            await control.announce("sweep", room=claim.room.id, epoch=claim.epoch, mark=claim.mark)
            told(claim)
            count += 1
            step("announced")
        await store.settle_lagging(claims)
        step("settled")
        if not claims or what.room is not None:
            break
    took_s = round(time.monotonic() - started_mono_s, 3)
    if what.room is None:  # by hand for one room: that says nothing of a worker
        await store.beat("retry_undelivered", {"rooms": count, "departures": finished, "took_s": took_s})
    log.info("sweep", extra={"rooms": count, "took_s": took_s})
    return count


def _batch(what: Sweep, count: int) -> int:
    return ROOMS_MOST if what.limit is None else max(1, min(ROOMS_MOST, what.limit - count))


def _wanted(claims: list[Claim], what: Sweep, now_ms: int) -> Iterator[Claim]:
    """Leave out what is too young, and rooms in which nothing has had time to be acknowledged."""
    for claim in claims:
        if claim.mark and now_ms - claim.oldest_at >= what.older_than_s * 1000:
            yield claim


async def lagging(what: Sweep) -> list[Lag]:
    """Say which rooms have members behind, soonest due first: what a sweep would look at. Writes nothing."""
    store = open_store()
    keys = [what.room] if what.room else [room for room, _ in await store.active_rooms()]
    now_ms = await store.now_ms()
    found: list[Lag] = []
    for at in range(0, len(keys), 100):
        for lag in await _owing_only(store, keys[at : at + 100]):
            if now_ms - lag.oldest_at >= what.older_than_s * 1000:
                found.append(lag)
            if what.limit is not None and len(found) >= what.limit:
                return found
    return found


async def _owing_only(store: Store, keys: list[RoomKey]) -> list[Lag]:
    """Look at rooms and keep the members who owe something: a sender behind his own message owes nothing."""
    lags = []
    for lag in await store.laggards(keys):
        if lag is None or not lag.laggards:
            continue
        owing = await store.owing(lag.room, lag.epoch, [laggard.user for laggard in lag.laggards])
        users = {row.user for row in owing}
        kept = [laggard for laggard in lag.laggards if laggard.user in users]
        if kept:
            lags.append(
                dataclasses.replace(lag, laggards=kept, behind=lag.behind - len(lag.laggards) + len(kept))
            )
    return lags


def step(name: str) -> None:
    """Mark a place between two writes; a test that kills a worker there replaces this."""
