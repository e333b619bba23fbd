"""What has expired: say who missed it, write that down, and only then clear it. The job of each minute, and by hand.

Claim the rows that are due, a lease -> read who missed each -> dead letters and notices, in one transaction -> finalize: clear in
the store what is still this claim's, which also tells the rooms' screens -> tell the senders. Killed between any two of these and
run again, the end is the same: the lease runs out, the rows are found in the database and left alone, and the rest goes on.

A batch that the database does not take is split down to single messages, and one that it does not take at all is set aside
without its text; a database that is away ends the job before anything is cleared. Readers do not wait for any of it: a message
is over at its own `expires_at`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from django.db import InterfaceError, OperationalError

from messaging import control
from messaging import policy as policies
from messaging.bridge import in_database
from messaging.store import Store, open_store
from messaging.store.records import Expired, RoomKey

from . import reports, resend, retention

NAMED_MOST = 5_000  # missed recipients written in one transaction: the server's own writes wait for it
TOLD_AT_ONCE = 100  # notices in one control event
REST = 0.5  # of the time a batch took, before the next: the chat shares the machine

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """What a run may do: one room or all, at most so many messages."""

    room: RoomKey | None = None
    limit: int | None = None


@dataclasses.dataclass(slots=True)
class Processed:
    """What a run did. `expired` were cleared, of them `missed` by somebody; `set_aside` are among these; `left` were not taken."""

    expired: int = 0
    missed: int = 0
    set_aside: int = 0
    left: int = 0
    took_s: float = 0.0


async def process(
    what: Expiring,
    *,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[int], None] = lambda count: None,
) -> Processed:
    """Process what is due, a batch at a time; end early at the deadline, the limit, or the batch in which `stopping` turned true.

    Raises Unavailable, and OperationalError or InterfaceError while the database is away: what was claimed is due again after its
    lease.
    """
    store = open_store()
    policy = policies.current()
    started_mono_s = time.monotonic()
    done = Processed()

    def over() -> bool:
        return stopping() or time.monotonic() - started_mono_s >= policy.job_deadline_s

    while not over():
        begun_mono_s = time.monotonic()
        most = _batch(policy.claim_max, what.limit, done)
        dues = await store.expiry.claim(secrets.token_hex(8), limit=most, room=what.room) if most else []
        step("claimed")
        if not dues:
            break
        expired = await store.expiry.read(dues)
        step("read")
        await _process_batch(store, expired, done)
        told(len(dues))
        await asyncio.sleep((time.monotonic() - begun_mono_s) * REST)
    await _keep_house(store, over)
    done.took_s = round(time.monotonic() - started_mono_s, 3)
    await store.stats.beat("process_expired", dataclasses.asdict(done))
    log.info("expiry", extra=dataclasses.asdict(done))
    return done


async def preview(what: Expiring) -> list[Expired]:
    """Say what a run would process and who missed it. Writes nothing: no claim either."""
    store = open_store()
    most = policies.current().claim_max if what.limit is None else what.limit
    return await store.expiry.read(await store.expiry.due(limit=most, room=what.room))


def _batch(most: int, limit: int | None, done: Processed) -> int:
    return most if limit is None else max(0, min(most, limit - done.expired - done.left))


async def _process_batch(store: Store, expired: Sequence[Expired], done: Processed) -> None:
    for part in _portions(expired):
        taken, notices, aside = await _record(part, await store.now_ms())
        step("recorded")
        done.expired += await store.expiry.finalize(taken)
        step("finalized")
        await _tell(notices)
        step("noticed")
        done.missed += sum(bool(one.missed) for one in taken)
        done.set_aside += aside
        done.left += len(part) - len(taken)


def _portions(expired: Sequence[Expired]) -> list[list[Expired]]:
    """Cut a batch so that no transaction writes more names than it may."""
    portions: list[list[Expired]] = [[]]
    names = 0
    for one in expired:
        here = min(len(one.missed), reports.NAMED_MOST)
        if portions[-1] and names + here > NAMED_MOST:
            portions.append([])
            names = 0
        portions[-1].append(one)
        names += here
    return portions


async def _record(
    expired: Sequence[Expired], now_ms: int
) -> tuple[list[Expired], Mapping[int, list[str]], int]:
    """Write a batch down, split where something in it is bad. Return what was taken, whom to tell, how many were set aside."""
    try:
        return list(expired), (await in_database(reports.record, expired, now_ms)).notices, 0
    except (OperationalError, InterfaceError):
        raise
    except reports.ODD as fault:
        if len(expired) == 1:
            return await _set_aside(expired[0], now_ms, fault)
    half = len(expired) // 2
    taken, notices, aside = await _record(expired[:half], now_ms)
    others, more, besides = await _record(expired[half:], now_ms)
    return taken + others, _together(notices, more), aside + besides


async def _set_aside(
    expired: Expired, now_ms: int, fault: Exception
) -> tuple[list[Expired], Mapping[int, list[str]], int]:
    ids = {"room": expired.due.room.id, "seq": expired.due.seq, "fault": type(fault).__name__}
    try:
        recorded = await in_database(reports.set_aside, expired, now_ms, type(fault).__name__)
    except (OperationalError, InterfaceError):
        raise
    except reports.ODD:
        log.error("an expired message cannot be reported; it stays due", extra=ids)
        return [], {}, 0
    log.warning("an expired message was set aside without its text", extra=ids)
    return [expired], recorded.notices, 1


def _together(one: Mapping[int, list[str]], other: Mapping[int, list[str]]) -> dict[int, list[str]]:
    sums: defaultdict[int, list[str]] = defaultdict(list)
    for notices in (one, other):
        for user, ids in notices.items():
            sums[user] += ids
    return sums


async def _tell(notices: Mapping[int, list[str]]) -> None:
    """Announce notices; who is not told so hears of them at the next connect."""
    for user, ids in notices.items():
        for at in range(0, len(ids), TOLD_AT_ONCE):
            if not await control.announce("noticed", user=user, notices=ids[at : at + TOLD_AT_ONCE], by=""):
                return


async def _keep_house(store: Store, over: Callable[[], bool]) -> None:
    """Finish resends that were cut off, scrub texts whose retention is over, keep the records within their bounds.

    Each at least a part, however late it is: otherwise no text would ever go while there is always more to report.
    """
    await resend.finish_unfinished()
    now_ms = await store.now_ms()
    for work in (retention.scrub, retention.prune):
        while True:
            begun_mono_s = time.monotonic()
            if await in_database(work, now_ms) < retention.AT_ONCE or over():
                break
            await asyncio.sleep((time.monotonic() - begun_mono_s) * REST)


def step(name: str) -> None:
    """Mark a place between two writes; a test that kills a worker there replaces this."""
