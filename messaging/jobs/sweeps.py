"""The job `retry_undelivered`: find rooms whose members owe messages, and request new pushes from every server process.

One run is a sweep. It first finishes joins and departures that are stuck. Then:

1. Claim the due rooms. A claim ends after `lease_s`; the room is then due again.
2. Send one control event for each room, with a mark. Every server process pushes to its connections whose users owe messages at or below
   the mark.
3. Release the claim. The room is due again in one minute.

If the worker is killed between any two of these steps, the room is due again when the claim ends. The store counts attempts, so the same
attempt is never made twice. Nothing is pushed to offline members: they receive the messages when they reconnect.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Iterator

from messaging import checkpoints, control, rooms
from messaging import policy as policies
from messaging.store import Store, open_store
from messaging.store.records import Claim, Lag, RoomKey

ROOM_BATCH = 20  # rooms of a partition in one claim, so that no call takes over 5 ms
READ_BATCH = 100  # rooms in one read of `lagging_rooms`

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The bounds of a sweep. `older_than_s`: skip rooms whose oldest undelivered message is younger."""

    room: RoomKey | None = None
    older_than_s: int = 0
    limit: int | None = None


async def sweep(
    options: SweepOptions,
    *,
    stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Claim], None] = lambda claim: None,
) -> int:
    """Request new pushes in every due room, or in `options.room`; return the number of rooms with such a request.

    Ends early at the deadline, at the limit, or when `stopping` returns true after a batch. If the store is unavailable, raises
    Unavailable; the claimed rooms are due again when their claims end.
    """
    store = open_store()
    started_mono_s = time.monotonic()
    deadline_mono_s = started_mono_s + policies.current().job_deadline_s
    await rooms.finish_joining()
    departures = await rooms.finish_leaving()
    count = 0
    while (
        not stopping()
        and time.monotonic() < deadline_mono_s
        and (options.limit is None or count < options.limit)
    ):
        limit = _batch_limit(options, count)
        claims = await store.retries.claim(secrets.token_hex(8), limit=limit, room=options.room)
        if options.limit is not None:
            # The store's limit is for each partition. The surplus is due again when its claims end.
            claims = claims[: options.limit - count]
        checkpoints.reach("sweep.claimed")
        for claim in _selected(claims, options, await store.now_ms()):
            await control.publish("sweep", room=claim.room.id, epoch=claim.epoch, mark=claim.mark)
            on_progress(claim)
            count += 1
            checkpoints.reach("sweep.announced")
        await store.retries.release(claims)
        checkpoints.reach("sweep.settled")
        if not claims or options.room is not None:
            break
    took_s = round(time.monotonic() - started_mono_s, 3)
    if (
        options.room is None
    ):  # a sweep of one room comes from a command, so it does not prove that a worker runs
        await store.stats.beat(
            "retry_undelivered", {"rooms": count, "departures": departures, "took_s": took_s}
        )
    log.info("sweep", extra={"rooms": count, "took_s": took_s})
    return count


def _batch_limit(options: SweepOptions, count: int) -> int:
    return ROOM_BATCH if options.limit is None else max(1, min(ROOM_BATCH, options.limit - count))


def _selected(claims: list[Claim], options: SweepOptions, now_ms: int) -> Iterator[Claim]:
    """Yield the claims with a mark, of rooms whose oldest message is old enough."""
    for claim in claims:
        if claim.mark and now_ms - claim.oldest_at >= options.older_than_s * 1000:
            yield claim


async def lagging_rooms(options: SweepOptions) -> list[Lag]:
    """Return the rooms with members who owe messages, connected or not, soonest due first. Writes nothing."""
    store = open_store()
    keys = [options.room] if options.room else [room for room, _ in await store.retries.active_rooms()]
    now_ms = await store.now_ms()
    lags: list[Lag] = []
    for start in range(0, len(keys), READ_BATCH):
        for lag in await _owing_only(store, keys[start : start + READ_BATCH]):
            if now_ms - lag.oldest_at >= options.older_than_s * 1000:
                lags.append(lag)
            if options.limit is not None and len(lags) >= options.limit:
                return lags
    return lags


async def _owing_only(store: Store, keys: list[RoomKey]) -> list[Lag]:
    """Remove the members who owe nothing, and rooms without remaining members. Members do not owe their own messages."""
    lags = []
    for lag in await store.retries.members_behind(keys):
        if lag is None or not lag.members_behind:
            continue
        users = [member.user for member in lag.members_behind]
        owing = {row.user for row in await store.retries.owing(lag.room, lag.epoch, users)}
        members = [member for member in lag.members_behind if member.user in owing]
        if members:
            behind = lag.behind - len(lag.members_behind) + len(members)
            lags.append(dataclasses.replace(lag, members_behind=members, behind=behind))
    return lags
