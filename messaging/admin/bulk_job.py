"""The job that does bulk actions, in steps: what was begun goes on each minute until it is done or stopped.

Claim an action, a lease -> is it to go on, and may its starter still? -> note up to where the next step reaches -> the deed ->
note what became of its rows, with the log's entries, in one transaction -> the next step, at most 40 s, then the job queues itself again.
A tick carries no data and may be lost: the next minute's goes on.

Killed between a deed and its note, rows are in doubt. What happens to those is the deed's own (`Action.again`, `Action.whole`):

| action | rows in a step | killed between deed and note |
|---|---|---|
| `send_again` | 1 | once more: the letter has its answer, nothing is sent; `requeued` counts as done |
| `discard`, `take_back` | 200 | no such moment: deed and note are one transaction |
| `delete` | 1 | once more: the store knows it is gone; `unknown` counts as done |
| `lifetime` | 1 | once more: the same lifetime; shortening finds only what is left |
| `retry` of rooms | 1 | once more: attempts are compared and set, so nothing is pushed twice |
| `reset` | 100 | once more: counted anew is counted anew; `no_attempts` counts as done |
| `retry` of members, `extend`, `close` | 100, 1, 1 | not again: failed, `cut_off`, for nobody knows whether they were done |

A store that is away or full pauses an action where it stands: its rows wait, and the next minute tries again.
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
from redis.exceptions import RedisError

from messaging import jobs
from messaging import policy as policies
from messaging.bridge import in_db_thread, run_async
from messaging.errors import BacklogFull, Unavailable
from messaging.expiry.requeue import Result
from messaging.models import BulkAction
from messaging.store import clock_ms, open_store

from . import bulk_rows
from .actions import Action, ActionAdmin, deed_of, log_each
from .bulk_rows import Became
from .operations import Outcome

WAITED_FOR = (Unavailable.code, BacklogFull.code, "database_away")  # what comes back by itself
REST = 0.5  # of the time a step took, before the next: the chat shares the machine

State = BulkAction.State

log = logging.getLogger(__name__)


def carry_on() -> int:
    """Go on with bulk actions for at most the deadline of a job; return how many rows were reached. The schedule calls this."""
    return run_async(_carry_on)


async def _carry_on() -> int:
    """Give all of a run's crossings to the store one loop, whose connections stay open."""
    try:
        await open_store().now_ms()
    except Unavailable:
        return 0  # everything waits
    return await in_db_thread(_run)


def _run() -> int:
    deadline_mono_s = time.monotonic() + policies.current().job_deadline_s
    bulk_rows.settle_stopped(run_async(clock_ms))
    paused: list[int] = []
    rows = 0
    while time.monotonic() < deadline_mono_s:
        action = bulk_rows.claim(run_async(clock_ms), policies.current().lease_s, but=paused)
        if action is None:
            return rows
        step("claimed")
        before = action.at
        _Run(action, deadline_mono_s).work()
        rows += action.at - before
        paused.append(action.pk)
        ids = {"action": action.pk, "list": action.listed, "verb": action.verb, "state": action.state}
        counts = {"done": action.done, "skipped": action.skipped, "failed": action.failed}
        log.info("bulk action", extra={**ids, **counts, "rows": action.total})
    jobs.run_soon("carry_on_bulk")
    return rows


class _Overtaken(Exception):
    """Another worker has the claim: what this one did not note is the other's."""


class _Run:
    """One worker's work on one action."""

    def __init__(self, action: BulkAction, deadline_mono_s: float) -> None:
        self.action = action
        self.deadline_mono_s = deadline_mono_s
        self.lease_s = policies.current().lease_s

    def work(self) -> None:
        """Do step after step until all rows have an outcome, the time is over, somebody stopped it, or it has to wait."""
        found = deed_of(self.action)
        try:
            while self.action.at < self.action.total:
                begun_mono_s = time.monotonic()
                if begun_mono_s >= self.deadline_mono_s:
                    return bulk_rows.release(self.action, doubtful=self.action.begun - self.action.at)
                if found is None:
                    return self._stop("no_deed", self.action.begun - self.action.at)
                if not self._step(*found):
                    return None
                time.sleep((time.monotonic() - begun_mono_s) * REST)
            bulk_rows.end(self.action, run_async(clock_ms))
            self.action.refresh_from_db()
        except _Overtaken:
            log.warning("a bulk action was taken over by another worker", extra={"action": self.action.pk})

    def _step(self, page: ActionAdmin, verb: Action) -> bool:
        """Reach the next rows; False: there is nothing more to do now."""
        action = self.action
        doubtful = action.begun - action.at
        upto = action.begun if doubtful else _upto(action, verb)
        try:
            now_ms = run_async(_now_ms)
        except Unavailable as fault:
            return self._wait(fault.code, doubtful)
        if not bulk_rows.begin(action, action.at if verb.whole else upto, now_ms, self.lease_s):
            raise _Overtaken
        if action.state != State.RUNNING:
            bulk_rows.release(action, doubtful=doubtful)
            return False
        request = _as(action.by_id)
        if request is None or not page.may(request, verb):
            self._stop("no_right", doubtful)
            return False
        step("begun")
        keys = bulk_rows.keys_of(action, action.at, upto)
        with transaction.atomic() if verb.whole else nullcontext():
            outcomes, waits = _reach(verb, action, keys, doubtful)
            step("reached")
            with transaction.atomic():
                if not bulk_rows.note(action, _became(outcomes)):
                    raise _Overtaken
                done = [one.key for one in outcomes if one.result == Result.DONE]
                log_each(request, page.logged(request, done), action.noted)
                step("noting")
        step("noted")
        return not waits or self._wait(waits, len(keys) - len(outcomes))

    def _wait(self, why: str, doubtful: int) -> bool:
        bulk_rows.release(self.action, why=why, doubtful=doubtful)
        log.warning("a bulk action waits", extra={"action": self.action.pk, "reason": why})
        return False

    def _stop(self, why: str, doubtful: int) -> None:
        bulk_rows.release(self.action, doubtful=doubtful)
        bulk_rows.stop(self.action, why=why, name="", now_ms=run_async(clock_ms))
        self.action.refresh_from_db()


async def _now_ms() -> int:
    return await open_store().now_ms()


def _upto(action: BulkAction, verb: Action) -> int:
    """Return where the next step ends: within its portion."""
    portion_ends = (action.at // bulk_rows.PORTION + 1) * bulk_rows.PORTION
    return min(action.at + verb.step, portion_ends, action.total)


def _as(user: int | None) -> HttpRequest | None:
    """Return a request of who started an action, as he stands now, to ask what he may."""
    found = get_user_model().objects.filter(pk=user).first() if user else None
    if found is None:
        return None
    request = HttpRequest()
    request.user = found
    return request


def _reach(verb: Action, action: BulkAction, keys: Sequence[str], doubtful: int) -> tuple[list[Outcome], str]:
    """Do the deed; return what became of the rows up to the first that has to wait, and what that one waits for."""
    if doubtful and verb.again is None:
        return [Outcome(key, Result.FAILED, "cut_off") for key in keys], ""
    try:
        found = {one.key: one for one in verb.do(action.by_id or 0, keys, action.given)}
    except (Unavailable, RedisError, OSError):
        return [], Unavailable.code
    reached: list[Outcome] = []
    waits = next((one.why for one in found.values() if _is_to_wait(one)), "")
    for key in keys:
        one = found.get(key)
        if (one is None and waits) or (one is not None and _is_to_wait(one)):
            return reached, waits
        one = one or Outcome(key, Result.SKIPPED, "unknown")
        if doubtful and one.result == Result.SKIPPED and one.why in (verb.again or ()):
            one = Outcome(key, Result.DONE)
        reached.append(one)
    return reached, ""


def _is_to_wait(one: Outcome) -> bool:
    return one.result == Result.FAILED and one.why in WAITED_FOR


def _became(outcomes: Sequence[Outcome]) -> Became:
    counts = Counter(one.result.value for one in outcomes)
    return Became(
        **counts,
        reasons=Counter(one.why for one in outcomes if one.why),
        left_out=Counter(why for one in outcomes for why in one.left_out),
    )


def step(name: str) -> None:
    """Mark a place between two writes; a test that kills a worker there replaces this."""
