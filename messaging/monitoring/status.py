"""How delivery stands: what is stored, who lags, who is parked, what gave up, whether the jobs run.

Counted from the store's indexes over rooms with something unacknowledged: the cost grows with those, never with what is stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from typing import Any

from messaging import policy as policies
from messaging.store import Store, open_store
from messaging.store.records import Counts, Lag, Owing, RoomKey
from messaging.store.stats import COUNTED

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


@dataclasses.dataclass(slots=True, kw_only=True)
class Owed:
    """What members owe in the rooms looked at, which are those with something unacknowledged but for `rooms_left_out`.

    Counts of (room, member) pairs as in `Status`; `on_the_way` live messages that somebody stands below who did not write them.
    Epoch ms: the oldest of these was accepted at `oldest_at`, the next attempt to somebody connected is due at `next_at`; 0 where there is none.
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
    """Count, for one room or all. Raises Unavailable."""
    store = open_store()
    now_ms = await store.now_ms()
    presence = await store.presence.online()
    found = await owed(store, set().union(*presence.values()), room)
    memory = await store.stats.memory()
    overdue = await store.expiry.overdue()
    return Status(
        stored=await store.stats.count_messages(room),
        rooms_active=found.rooms,
        lagging=found.lagging,
        parked=found.parked,
        retrying=found.retrying,
        gave_up=found.gave_up,
        oldest_undelivered_s=(now_ms - found.oldest_at) // 1000 if found.oldest_at else None,
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
    """Return what was done in the last 60 minutes."""
    minutes = await store.stats.counts("minute", 60)
    sums = {what: sum(getattr(minute, what) for minute in minutes) for what in COUNTED}
    return Counts(at=minutes[0].at, **sums)


async def owed(
    store: Store,
    online: Set[int],
    room: RoomKey | None = None,
    *,
    rooms_most: int | None = None,
    members_most: int = MEMBERS_LOOKED_AT,
    at_once: int = ROOMS_IN_ONE_CALL,
) -> Owed:
    """Look at the rooms with something unacknowledged, or at `rooms_most` of them, those due soonest: three round trips `at_once`."""
    keys = (
        [room]
        if room
        else [key for key, _ in await store.retries.active_rooms(limit=rooms_most)][:rooms_most]
    )
    found = Owed()
    for at in range(0, len(keys), at_once):
        lags = [
            lag
            for lag in await store.retries.members_behind(keys[at : at + at_once], limit=members_most)
            if lag
        ]
        found.rooms += sum(bool(lag.live) for lag in lags)
        behind = [lag for lag in lags if lag.members_behind]
        found.on_the_way += sum(await store.retries.count_undelivered([lag.room for lag in behind]))
        for lag, owing in zip(behind, await store.retries.owing_among(behind), strict=True):
            _add(found, lag, owing, online)
    if rooms_most is not None:
        found.rooms_left_out = max(0, await store.retries.count_active_rooms() - len(keys))
    return found


def _add(found: Owed, lag: Lag, owing: Sequence[Owing], online: Set[int]) -> None:
    """Add a room's members who owe something. Beyond those looked at, all count as parked."""
    most = policies.current().attempts_max
    for row in owing:
        here = row.user in online
        found.lagging += here
        found.parked += not here
        found.gave_up += row.attempts >= most
        if 0 < row.attempts < most:
            found.retrying += 1
            if here:  # who is away is not pushed to: everything comes with the next `hello`
                found.next_at = min(found.next_at or row.next_at_ms, row.next_at_ms)
    found.parked += lag.behind - len(lag.members_behind)
    if owing and lag.oldest_at:
        found.oldest_at = min(found.oldest_at or lag.oldest_at, lag.oldest_at)
