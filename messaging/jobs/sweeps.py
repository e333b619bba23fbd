"""The sweep: find rooms in which members lack messages, and tell every server process to push again.

1. Claim the rooms that are due. A claim is a lease.
2. Send one control event for each room, with a mark. Each server process pushes to its own connections that owe something at or
   below the mark.
3. Settle the claim. The room is due again in one minute.

If the worker is killed between any two of these steps, the room is due again after its lease. Earlier pushes are counted in
`attempts`, so nothing is pushed twice. Absent members are parked: no sweep looks at them.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Iterator

from messaging import control, rooms
from messaging import policy as policies
from messaging.store import Store, open_store
from messaging.store.records import Claim, Lag, RoomKey

ROOMS_MOST = 20  # of a partition in one claim: no call over 5 ms

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep may do. `older_than_s`: leave rooms whose oldest undelivered message is younger."""

    room: RoomKey | None = None
    older_than_s: int = 0
    limit: int | None = None


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
        claims = await store.retries.claim(secrets.token_hex(8), limit=_batch(what, count), room=what.room)
        step("claimed")
        for claim in _wanted(claims, what, await store.now_ms()):
            await control.publish("sweep", room=claim.room.id, epoch=claim.epoch, mark=claim.mark)
            told(claim)
            count += 1
            step("announced")
        await store.retries.release(claims)
        step("settled")
        if not claims or what.room is not None:
            break
    took_s = round(time.monotonic() - started_mono_s, 3)
    if what.room is None:  # by hand for one room: that says nothing of a worker
        await store.stats.beat(
            "retry_undelivered", {"rooms": count, "departures": finished, "took_s": took_s}
        )
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
    keys = [what.room] if what.room else [room for room, _ in await store.retries.active_rooms()]
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
    for lag in await store.retries.members_behind(keys):
        if lag is None or not lag.members_behind:
            continue
        owing = await store.retries.owing(
            lag.room, lag.epoch, [laggard.user for laggard in lag.members_behind]
        )
        users = {row.user for row in owing}
        kept = [laggard for laggard in lag.members_behind if laggard.user in users]
        if kept:
            lags.append(
                dataclasses.replace(
                    lag, members_behind=kept, behind=lag.behind - len(lag.members_behind) + len(kept)
                )
            )
    return lags


def step(name: str) -> None:
    """Mark a place between two writes; a test that kills a worker there replaces this."""
