"""The state of delivery: stored messages, lagging and parked members, retries, and the last runs of the jobs.

The counts come from the store's indexes of rooms with unacknowledged messages. The cost grows with these rooms, not with all stored
messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from typing import Any

from messaging import policy as policies
from messaging.store import Store, open_store
from messaging.store.records import Counts, Lag, Owing, RoomKey
from messaging.store.stats import COUNTED

ROOM_BATCH = 100
MAX_MEMBERS = 1_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of rooms and of (room, member) pairs. Ages are in seconds; None if there is nothing to count.

    `lagging` members are connected, `parked` members are not. `retrying` members have attempts left after the first,
    `gave_up` members have none left. `expired_due` messages have expired and are not reported yet, the oldest for
    `expired_due_s`. These and `last_hour` are counted for all rooms.
    """

    now_ms: int
    stored: int
    rooms_active: int
    lagging: int
    parked: int
    retrying: int
    gave_up: int
    oldest_undelivered_s: int | None
    expired_due: int
    expired_due_s: float | None
    connections: dict[str, int]
    jobs: dict[str, dict[str, Any]]
    memory_bytes: int
    memory_limit_bytes: int
    eviction: str
    life: str
    last_hour: Counts


@dataclasses.dataclass(slots=True, kw_only=True)
class TotalDebt:
    """The messages that members owe, summed over the rooms with unacknowledged messages except `rooms_left_out`.

    Counts of (room, member) pairs as in `Status`. `on_the_way`: live messages that at least one recipient has not received. The
    oldest of them was accepted at `oldest_at`. The next attempt to a connected member is due at `next_at`. Both are epoch ms, or 0.
    """

    rooms: int = 0
    rooms_left_out: int = 0
    lagging: int = 0
    parked: int = 0
    retrying: int = 0
    gave_up: int = 0
    on_the_way: int = 0
    oldest_at: int = 0
    next_at: int = 0


async def status(room: RoomKey | None = None) -> Status:
    """Return the state of delivery in one room or in all. Raises Unavailable."""
    store = open_store()
    now_ms = await store.now_ms()
    presence = await store.presence.online()
    debt = await total_debt(store, set().union(*presence.values()), room)
    memory = await store.stats.memory()
    overdue = await store.expiry.overdue()
    return Status(
        now_ms=now_ms,
        stored=await store.stats.count_messages(room),
        rooms_active=debt.rooms,
        lagging=debt.lagging,
        parked=debt.parked,
        retrying=debt.retrying,
        gave_up=debt.gave_up,
        oldest_undelivered_s=(now_ms - debt.oldest_at) // 1000 if debt.oldest_at else None,
        expired_due=overdue.due,
        expired_due_s=overdue.oldest_s,
        connections={process: len(users) for process, users in presence.items()},
        jobs={
            name: {**beat, "age_s": (now_ms - beat["at"]) // 1000}
            for name, beat in (await store.stats.beats()).items()
        },
        memory_bytes=memory.used,
        memory_limit_bytes=memory.limit,
        eviction=memory.policy,
        life=store.life,
        last_hour=await last_hour(store),
    )


async def last_hour(store: Store) -> Counts:
    """Return the counts of the last 60 minutes."""
    minutes = await store.stats.counts("minute", 60)
    sums = {name: sum(getattr(minute, name) for minute in minutes) for name in COUNTED}
    return Counts(at=minutes[0].at, **sums)


async def last_runs(store: Store) -> dict[str, int]:
    """Return {job: epoch ms of its last run}."""
    return {job: int(beat["at"]) for job, beat in (await store.stats.beats()).items()}


async def total_debt(
    store: Store,
    online: Set[int],
    room: RoomKey | None = None,
    *,
    max_rooms: int | None = None,
    max_members: int = MAX_MEMBERS,
    batch: int = ROOM_BATCH,
) -> TotalDebt:
    """Add up the rooms with unacknowledged messages, at most `max_rooms`, soonest due first. Three round trips for every `batch` rooms."""
    keys = (
        [room] if room else [key for key, _ in await store.retries.active_rooms(limit=max_rooms)][:max_rooms]
    )
    debt = TotalDebt()
    for start in range(0, len(keys), batch):
        lags = [
            lag
            for lag in await store.retries.members_behind(keys[start : start + batch], limit=max_members)
            if lag
        ]
        debt.rooms += sum(bool(lag.live) for lag in lags)
        behind = [lag for lag in lags if lag.members_behind]
        debt.on_the_way += sum(await store.retries.count_undelivered([lag.room for lag in behind]))
        for lag, owing in zip(behind, await store.retries.owing_among(behind), strict=True):
            _add(debt, lag, owing, online)
    if max_rooms is not None:
        debt.rooms_left_out = max(0, await store.retries.count_active_rooms() - len(keys))
    return debt


def _add(debt: TotalDebt, lag: Lag, owing: Sequence[Owing], online: Set[int]) -> None:
    """Add the members of a room who owe messages. Members behind who were not read count as parked."""
    max_attempts = policies.current().attempts_max
    for row in owing:
        connected = row.user in online
        debt.lagging += connected
        debt.parked += not connected
        debt.gave_up += row.attempts >= max_attempts
        if 0 < row.attempts < max_attempts:
            debt.retrying += 1
            if connected:  # offline members have no attempts: they receive everything with the next `hello`
                debt.next_at = min(debt.next_at or row.next_at_ms, row.next_at_ms)
    debt.parked += lag.behind - len(lag.members_behind)
    if owing and lag.oldest_at:
        debt.oldest_at = min(debt.oldest_at or lag.oldest_at, lag.oldest_at)
