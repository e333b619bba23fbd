"""The job that runs bulk actions in chunks. It runs every minute and continues each one until it is done or stopped.

1. Claim a bulk action for the time of a lease.
2. Check that the user who started it still has the permission, and reserve the next chunk.
3. Run the action on the chunk.
4. Record the results and the log entries in one transaction. Continue with 2, for at most 40 s; then the job queues itself again.

A queued run carries no data and may be lost: the next minute's run continues. If the worker is killed between 3 and 4, the rows of the
chunk are in doubt. What happens to them depends on the action (`Action.safe_to_repeat`, `Action.transactional`):

| action | rows in a chunk | killed between 3 and 4 |
|---|---|---|
| `send_again` | 1 | repeated: the letter has its answer, nothing is sent; `requeued` counts as done |
| `discard`, `take_back` | 200 | not possible: 3 and 4 are one transaction |
| `delete` | 1 | repeated: the store knows that the message is deleted; `unknown` counts as done |
| `lifetime` | 1 | repeated: the lifetime is the same; shortening finds only the remaining messages |
| `retry` of rooms | 1 | repeated: attempts are compared and set, so nothing is pushed twice |
| `reset` | 100 | repeated: the attempts are reset already; `no_attempts` counts as done |
| `retry` of members, `extend`, `close` | 100, 1, 1 | not repeated: failed with `cut_off`, because the outcome is unknown |

While the store or the database does not answer, or the store is full, a bulk action is paused: its rows wait. Its state stays
`RUNNING`, and `why` has the reason. The next minute's run tries again: `bulk_rows.claim` clears `why`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import HttpRequest

from messaging import checkpoints, jobs
from messaging import policy as policies
from messaging.bridge import in_db_thread, run_async
from messaging.errors import BacklogFull, Unavailable
from messaging.expiry.requeue import Outcome, Result
from messaging.models import BulkAction
from messaging.store import clock_ms, open_store

from . import bulk_rows
from .action_admin import ActionAdmin, find_action
from .actions import Action, log_each
from .bulk_rows import ChunkResult

TEMPORARY = (
    Unavailable.code,
    BacklogFull.code,
    "database_away",
)  # the action continues automatically after these failures
REST_SHARE = 0.5  # the pause after a chunk, as a share of its time, because the chat shares the machine

State = BulkAction.State

log = logging.getLogger(__name__)


def carry_on() -> int:
    """Run bulk actions for at most the deadline of a job; return the number of processed rows. The schedule calls this."""
    return run_async(_carry_on)


async def _carry_on() -> int:
    """Run everything inside one event loop, so that the connections to the store stay open."""
    try:
        await open_store().now_ms()
    except Unavailable:
        return 0  # every bulk action waits
    return await in_db_thread(_run)


def _run() -> int:
    deadline_mono_s = time.monotonic() + policies.current().job_deadline_s
    bulk_rows.finish_stopped(run_async(clock_ms))
    handled: list[int] = []
    rows = 0
    while time.monotonic() < deadline_mono_s:
        bulk_action = bulk_rows.claim(run_async(clock_ms), policies.current().lease_s, exclude=handled)
        if bulk_action is None:
            return rows
        checkpoints.reach("bulk_job.claimed")
        before = bulk_action.at
        _Run(bulk_action, deadline_mono_s).run()
        rows += bulk_action.at - before
        handled.append(bulk_action.pk)
        _log_progress(bulk_action)
    jobs.run_soon("carry_on_bulk")
    return rows


def _log_progress(bulk_action: BulkAction) -> None:
    log.info(
        "bulk action",
        extra={
            "action": bulk_action.pk,
            "list": bulk_action.listed,
            "verb": bulk_action.verb,
            "state": bulk_action.state,
            "done": bulk_action.done,
            "skipped": bulk_action.skipped,
            "failed": bulk_action.failed,
            "rows": bulk_action.total,
        },
    )


class _ClaimLost(Exception):
    """Another worker has the claim and will record the results."""


class _Run:
    """One worker's run of one bulk action."""

    def __init__(self, bulk_action: BulkAction, deadline_mono_s: float) -> None:
        self.bulk_action = bulk_action
        self.deadline_mono_s = deadline_mono_s

    def run(self) -> None:
        """Process chunks until every row has a result, the deadline passes, or the bulk action is stopped or has to wait."""
        page_and_action = find_action(self.bulk_action)
        try:
            while self.bulk_action.at < self.bulk_action.total:
                chunk_mono_s = time.monotonic()
                if chunk_mono_s >= self.deadline_mono_s:
                    return bulk_rows.release(self.bulk_action)
                if page_and_action is None:
                    return self._stop("no_deed")
                if not self._process_chunk(*page_and_action):
                    return None
                time.sleep((time.monotonic() - chunk_mono_s) * REST_SHARE)
            bulk_rows.finish(self.bulk_action, run_async(clock_ms))
            self.bulk_action.refresh_from_db()
        except _ClaimLost:
            log.warning("another worker took over a bulk action", extra={"action": self.bulk_action.pk})

    def _process_chunk(self, page: ActionAdmin, action: Action) -> bool:
        """Process the next chunk; False: there is nothing more to do now."""
        bulk_action = self.bulk_action
        try:
            now_ms = run_async(_now_ms)
        except Unavailable as error:
            return self._pause(error.code)
        request = _request_of(bulk_action.by_id)
        if request is None or not page.is_allowed(request, action):
            self._stop("no_right")
            return False
        is_repeated = bulk_action.in_doubt > 0
        end = bulk_action.begun if is_repeated else _chunk_end(bulk_action, action)
        reserved_end = bulk_action.at if action.transactional else end
        if not bulk_rows.reserve(bulk_action, reserved_end, now_ms, policies.current().lease_s):
            bulk_rows.release(bulk_action)
            return False
        checkpoints.reach("bulk_job.reserved")
        keys = bulk_rows.keys_of(bulk_action, bulk_action.at, end)
        with transaction.atomic() if action.transactional else nullcontext():
            outcomes, waits_for = _perform(action, bulk_action, keys, is_repeated=is_repeated)
            checkpoints.reach("bulk_job.performed")
            with transaction.atomic():
                if not bulk_rows.record(bulk_action, _chunk_result(outcomes)):
                    raise _ClaimLost
                done = [outcome.key for outcome in outcomes if outcome.result == Result.DONE]
                log_each(request, page.rows_for_log(request, done), bulk_action.noted)
                checkpoints.reach("bulk_job.recording")
        checkpoints.reach("bulk_job.recorded")
        return not waits_for or self._pause(waits_for)

    def _pause(self, reason: str) -> bool:
        bulk_rows.release(self.bulk_action, waits_for=reason)
        log.warning("a bulk action is paused", extra={"action": self.bulk_action.pk, "reason": reason})
        return False

    def _stop(self, reason: str) -> None:
        bulk_rows.release(self.bulk_action)
        bulk_rows.stop(self.bulk_action, reason=reason, name="", now_ms=run_async(clock_ms))
        self.bulk_action.refresh_from_db()


async def _now_ms() -> int:
    return await open_store().now_ms()


def _chunk_end(bulk_action: BulkAction, action: Action) -> int:
    """Return where the next chunk ends, which is never after its portion."""
    portion_end = (bulk_action.at // bulk_rows.PORTION_KEYS + 1) * bulk_rows.PORTION_KEYS
    return min(bulk_action.at + action.chunk_rows, portion_end, bulk_action.total)


def _request_of(user_id: int | None) -> HttpRequest | None:
    """Return a request of the user who started a bulk action, to check their permissions as they are now."""
    user = get_user_model().objects.filter(pk=user_id).first() if user_id else None
    if user is None:
        return None
    request = HttpRequest()
    request.user = user
    return request


def _perform(
    action: Action, bulk_action: BulkAction, keys: Sequence[str], *, is_repeated: bool
) -> tuple[list[Outcome], str]:
    """Run the action; return the outcomes before the first row that has to wait, and the reason why that row waits."""
    if is_repeated and action.safe_to_repeat is None:
        return [Outcome(key, Result.FAILED, "cut_off") for key in keys], ""
    try:
        results = action.perform(bulk_action.by_id or 0, keys, bulk_action.given)
    except (Unavailable, OSError):
        return [], Unavailable.code
    by_key = {outcome.key: outcome for outcome in results}
    waits_for = next((outcome.why for outcome in results if _has_to_wait(outcome)), "")
    outcomes: list[Outcome] = []
    for key in keys:
        outcome = by_key.get(key)
        if outcome is None:
            if waits_for:  # the action ended at the row that has to wait
                break
            outcome = Outcome(key, Result.SKIPPED, "unknown")
        elif _has_to_wait(outcome):
            break
        if is_repeated and outcome.result == Result.SKIPPED and outcome.why in (action.safe_to_repeat or ()):
            outcome = Outcome(key, Result.DONE)
        outcomes.append(outcome)
    return outcomes, waits_for


def _has_to_wait(outcome: Outcome) -> bool:
    return outcome.result == Result.FAILED and outcome.why in TEMPORARY


def _chunk_result(outcomes: Sequence[Outcome]) -> ChunkResult:
    return ChunkResult(
        **Counter(outcome.result.value for outcome in outcomes),
        reasons=Counter(outcome.why for outcome in outcomes if outcome.why),
        left_out=Counter(why for outcome in outcomes for _user, why in outcome.left_out),
    )
