"""How delivery stands: what is stored, who lags, who is parked, what gave up, whether the jobs run.

Counted from the store's indexes over rooms with something unacknowledged: the cost grows with those, never with what is stored.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from . import policy as policies
from .records import Counts, Lag, RoomKey
from .store import COUNTED, Store, open_store

ROOMS_IN_ONE_CALL = 100
MEMBERS_LOOKED_AT = 1_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Counts of rooms and of (room, member) pairs; ages in seconds, None where there is nothing to be that old.

    `lagging` members are connected, `parked` are not; `retrying` and `gave_up` are among those who lag. `expired_due` messages have
    expired and are not yet reported, the oldest since `expired_due_s`. These and `last_hour` are of all rooms.
    """

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


async def status(room: RoomKey | None = None) -> Status:
    """Count, for one room or all. Raises Unavailable."""
    store = open_store()
    now_ms = await store.now_ms()
    keys = [room] if room else [key for key, _ in await store.active_rooms()]
    presence = await store.presence()
    online = set().union(*presence.values())
    counts = {"lagging": 0, "parked": 0, "retrying": 0, "gave_up": 0}
    active, oldest_at = 0, 0
    for at in range(0, len(keys), ROOMS_IN_ONE_CALL):
        for lag in await store.laggards(keys[at : at + ROOMS_IN_ONE_CALL], most=MEMBERS_LOOKED_AT):
            if lag is None:
                continue
            active += bool(lag.live)
            if await _count(store, lag, online, counts) and lag.oldest_at:
                oldest_at = min(oldest_at or lag.oldest_at, lag.oldest_at)
    memory = await store.memory()
    overdue = await store.overdue()
    return Status(
        stored=await store.stored(room),
        rooms_active=active,
        **counts,
        oldest_undelivered_s=(now_ms - oldest_at) // 1000 if oldest_at else None,
        expired_due=overdue.due,
        expired_due_s=overdue.oldest_s,
        connections={process: len(users) for process, users in presence.items()},
        jobs={
            name: {**beat, "age_s": (now_ms - beat["at"]) // 1000}
            for name, beat in (await store.beats()).items()
        },
        memory_bytes=memory.used,
        memory_limit_bytes=memory.limit,
        eviction=memory.policy,
        life=store.life,
        last_hour=await last_hour(store),
    )


async def last_hour(store: Store) -> Counts:
    """Return what was done in the last 60 minutes."""
    minutes = await store.counts("minute", 60)
    sums = {what: sum(getattr(minute, what) for minute in minutes) for what in COUNTED}
    return Counts(at=minutes[0].at, **sums)


async def _count(store: Store, lag: Lag, online: set[int], counts: dict[str, int]) -> bool:
    """Add a room's members who owe something; say whether there is one. Beyond those looked at, all count as parked."""
    users = [laggard.user for laggard in lag.laggards]
    if not users:
        return False
    owing = await store.owing(lag.room, lag.epoch, users)
    for row in owing:
        here = row.user in online
        counts["lagging" if here else "parked"] += 1
        if row.attempts >= policies.current().attempts_max:
            counts["gave_up"] += 1
        elif row.attempts:
            counts["retrying"] += 1
    counts["parked"] += lag.behind - len(users)
    return bool(owing)
