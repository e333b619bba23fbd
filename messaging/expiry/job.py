"""The job `process_expired`: record the members who missed each expired message, then clear the message.

It runs every minute, or from a command.

1. Claim due messages. A claim ends after `lease_s`; the messages are then due again.
2. Read the members who missed each message.
3. Write dead letters and notices in one transaction (`reports`).
4. Finalize: clear the messages of this claim in the store. This also informs the open pages of the rooms.
5. Announce the notices to the senders.

If the job is killed between any two of the first four steps and runs again, the result is the same. The claim ends, rows that
were already written to the database are not changed, and the remaining steps follow. If it is killed before the last step, the servers find the notices
themselves (`live.notifier`).

A batch that the database refuses is split down to single messages. A single message that it refuses is quarantined: reported
without its text. If the database is down, the job ends; it clears only messages that it has reported. Readers do not wait for the job: every message
ends at its `expires_at`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db import InterfaceError, OperationalError

from messaging import checkpoints, control
from messaging import policy as policies
from messaging.bridge import in_db_thread
from messaging.store import Store, open_store
from messaging.store.records import Expired, RoomKey

from . import reports, resend, retention

NAMES_BATCH = 5_000  # missed recipients in one transaction: on SQLite, other writes wait for it
NOTICE_BATCH = 100  # notices in one control event
REST_RATIO = 0.5  # pause after a batch, as a share of its duration: the chat uses the same machine

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryOptions:
    """The bounds of a run: one room or all, at most `limit` messages."""

    room: RoomKey | None = None
    limit: int | None = None


@dataclasses.dataclass(slots=True)
class Processed:
    """The counts of a run.

    `expired`: messages that were cleared. `missed`: those of them that at least one member missed. `quarantined`: those of them
    that were reported without their text. `left`: messages that could not be reported and stay due.
    """

    expired: int = 0
    missed: int = 0
    quarantined: int = 0
    left: int = 0
    took_s: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """Return the counts in the form of the heartbeat, the log and `--json`. In it, `quarantined` keeps its older name `set_aside`."""
        data = dataclasses.asdict(self)
        return {"set_aside" if name == "quarantined" else name: value for name, value in data.items()}


@dataclasses.dataclass(slots=True)
class _BatchResult:
    """`reported`: the messages to clear; `notices`: {user: ids of notices to announce}."""

    reported: list[Expired]
    notices: Mapping[int, list[str]]
    quarantined: int = 0


async def process(
    options: ExpiryOptions,
    *,
    stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Processed:
    """Process due messages in batches. End early at the deadline, at the limit, or when `stopping` returns true after a batch.

    `on_progress` is called after every batch with its number of messages.

    Raises Unavailable if the store is down, and OperationalError or InterfaceError if the database is down. The claimed messages are
    due again when their claim ends.
    """
    store = open_store()
    policy = policies.current()
    started_mono_s = time.monotonic()
    counts = Processed()

    def over() -> bool:
        return stopping() or time.monotonic() - started_mono_s >= policy.job_deadline_s

    while not over():
        batch_mono_s = time.monotonic()
        limit = _batch_limit(policy.claim_max, options.limit, counts)
        dues = await store.expiry.claim(secrets.token_hex(8), limit=limit, room=options.room) if limit else []
        checkpoints.reach("expiry.claimed")
        if not dues:
            break
        expired = await store.expiry.read(dues)
        checkpoints.reach("expiry.read")
        await _process_batch(store, expired, counts)
        on_progress(len(dues))
        await asyncio.sleep((time.monotonic() - batch_mono_s) * REST_RATIO)
    await _clean_up(store, over)
    counts.took_s = round(time.monotonic() - started_mono_s, 3)
    await store.stats.beat("process_expired", counts.as_data())
    log.info("expiry", extra=counts.as_data())
    return counts


async def preview(options: ExpiryOptions) -> list[Expired]:
    """Return the next messages that a run would process, with the members who missed them: at most `limit`, or one batch. Writes nothing."""
    store = open_store()
    limit = policies.current().claim_max if options.limit is None else options.limit
    return await store.expiry.read(await store.expiry.due(limit=limit, room=options.room))


def _batch_limit(claim_max: int, limit: int | None, counts: Processed) -> int:
    return claim_max if limit is None else max(0, min(claim_max, limit - counts.expired - counts.left))


async def _process_batch(store: Store, expired: Sequence[Expired], counts: Processed) -> None:
    for batch in _split_by_names(expired):
        result = await _record(batch, await store.now_ms())
        checkpoints.reach("expiry.recorded")
        counts.expired += await store.expiry.finalize(result.reported)
        checkpoints.reach("expiry.finalized")
        await _announce(result.notices)
        checkpoints.reach("expiry.noticed")
        counts.missed += sum(bool(message.missed) for message in result.reported)
        counts.quarantined += result.quarantined
        counts.left += len(batch) - len(result.reported)


def _split_by_names(expired: Sequence[Expired]) -> list[list[Expired]]:
    """Split a batch so that no transaction writes more than `NAMES_BATCH` names."""
    batches: list[list[Expired]] = [[]]
    total = 0
    for message in expired:
        names = min(len(message.missed), reports.MAX_NAMED)
        if batches[-1] and total + names > NAMES_BATCH:
            batches.append([])
            total = 0
        batches[-1].append(message)
        total += names
    return batches


async def _record(expired: Sequence[Expired], now_ms: int) -> _BatchResult:
    """Write the reports of a batch. If the database refuses it, split it in halves, down to single messages; quarantine each one that is refused."""
    try:
        report = await in_db_thread(reports.record, expired, now_ms)
    except (OperationalError, InterfaceError):
        raise
    except reports.INVALID_ROW_ERRORS as error:
        if len(expired) == 1:
            return await _quarantine(expired[0], now_ms, error)
    else:
        return _BatchResult(list(expired), report.notices)
    half = len(expired) // 2
    return _merge(await _record(expired[:half], now_ms), await _record(expired[half:], now_ms))


async def _quarantine(expired: Expired, now_ms: int, error: Exception) -> _BatchResult:
    fault = type(error).__name__
    ids = {"room": expired.due.room.id, "seq": expired.due.seq, "fault": fault}
    try:
        report = await in_db_thread(reports.quarantine, expired, now_ms, fault)
    except (OperationalError, InterfaceError):
        raise
    except reports.INVALID_ROW_ERRORS:
        log.error("an expired message cannot be reported; it stays due", extra=ids)
        return _BatchResult([], {})
    log.warning("an expired message was quarantined without its text", extra=ids)
    return _BatchResult([expired], report.notices, quarantined=1)


def _merge(first: _BatchResult, second: _BatchResult) -> _BatchResult:
    notices: defaultdict[int, list[str]] = defaultdict(list)
    for result in (first, second):
        for user, ids in result.notices.items():
            notices[user] += ids
    return _BatchResult(first.reported + second.reported, notices, first.quarantined + second.quarantined)


async def _announce(notices: Mapping[int, list[str]]) -> None:
    """Announce notices. If this fails, a user gets the notices at the next connect."""
    for user, ids in notices.items():
        for start in range(0, len(ids), NOTICE_BATCH):
            batch = ids[start : start + NOTICE_BATCH]
            if not await control.announce("noticed", user=user, notices=batch, by=""):
                return


async def _clean_up(store: Store, over: Callable[[], bool]) -> None:
    """Finish interrupted resends, delete old texts and old records.

    At least one batch of texts and one of records is deleted, even after the deadline. Otherwise no text would be deleted as long as
    the reports take all the time of every run.
    """
    await resend.finish_unfinished()
    now_ms = await store.now_ms()
    for work in (retention.scrub, retention.prune):
        while True:
            batch_mono_s = time.monotonic()
            if await in_db_thread(work, now_ms) < retention.ROW_BATCH or over():
                break
            await asyncio.sleep((time.monotonic() - batch_mono_s) * REST_RATIO)
