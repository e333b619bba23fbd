"""Rules of the code that are taken away, one at a time, in the processes of a site. Each makes a named scenario fail.

A process of a scenario with a mutation has the app `Mutation`, which replaces functions or script texts in memory. The product has no
switch for any of this.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig

if TYPE_CHECKING:
    from .cluster import Rows


class Mutation(AppConfig):
    name = "tests.faults"
    label = "mutation"

    def ready(self) -> None:
        MUTATIONS[os.environ["MUTATION_FOR_TESTS"]].apply()


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the code, the change that takes it away, and the scenario that must fail without it."""

    rule: str
    apply: Callable[[], None]
    scenario: str


def _in_script(name: str, before: str, after: str) -> Callable[[], None]:
    """Return a change of the text of a Lua script."""

    def apply() -> None:
        from messaging.store import scripts

        assert scripts._TEXTS[name].count(before) == 1, f"{before!r} is not in {name}.lua"
        scripts._TEXTS[name] = scripts._TEXTS[name].replace(before, after)

    return apply


async def _never(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


async def _nothing(*_: Any, **__: Any) -> None:
    """Take no action."""


def _no_retry() -> None:
    from messaging.live.retry import Retry

    Retry.pushed = lambda *_: None  # type: ignore[method-assign]
    Retry.sweep = _nothing  # type: ignore[method-assign]


def _no_positions() -> None:
    from messaging.live.positions import Positions

    Positions.check = Positions.check_room = _nothing  # type: ignore[method-assign]


def _no_recheck_of_notices() -> None:
    from messaging.live.notifier import Notifier

    Notifier.run = _never  # type: ignore[method-assign]


def _no_subscription_deadline() -> None:
    from messaging.store import connections
    from messaging.store.transport import RedisProtocol

    async def subscription(on_reply: Any, on_end: Any) -> RedisProtocol:
        return await RedisProtocol.open(connections.async_client(timeout_s=None), on_reply, on_end)

    connections.subscription = subscription


def _no_marks() -> None:
    from messaging import losses
    from messaging.jobs import schedules

    losses.check = losses.record_rooms = losses.mark = _nothing  # type: ignore[assignment]
    schedules.losses = losses


def _no_withdrawn_joins() -> None:
    from messaging.rooms import memberships

    memberships.withdraw_membership = lambda *_: None  # type: ignore[assignment]


def _unwritten_reports() -> None:
    from django.db import DatabaseError

    from messaging.expiry import job

    record = job._record

    async def lenient(expired: Any, now_ms: int) -> Any:
        try:
            return await record(expired, now_ms)
        except DatabaseError:
            return job._BatchResult(list(expired), {})

    job._record = lenient


def _unwatched_jobs() -> None:
    from messaging.management.commands import worker

    worker.repair_schedules = lambda: None
    worker.heartbeat_age_s = lambda: 0.0


def _no_new_cluster() -> None:
    from messaging.management.commands import worker

    def watch(_cluster: Any, stop: Any, *_: Any, **__: Any) -> str:
        while not stop:
            stop.wait(5.0)
        return "A stop was requested"

    worker.watch = watch


MUTATIONS = {
    "no_retry": Rule("an unacknowledged message is pushed again", _no_retry, "frames_lost"),
    "no_positions": Rule(
        "positions are compared with the store, so that a lost publication is noticed",
        _no_positions,
        "publications_lost",
    ),
    "no_id_memory": Rule(
        "a repeated id gets its first answer",
        _in_script("append", "if record then return repeated(record, checksum) end", ""),
        "replies_dropped",
    ),
    "no_seq_skip": Rule(
        "a restarted store skips numbers that it may have lost",
        _in_script("append", "if room.skip then seq", "if false then seq"),
        "store_log_cut",
    ),
    "acks_in_time": Rule(
        "a message that came after its end counts as missed",
        _in_script("acknowledge", "if late == '' and not checked_at then", "if true then"),
        "slow_reader",
    ),
    "no_acks_of_leavers": Rule(
        "an acknowledgement counts that arrives after its user left",
        _in_script(
            "acknowledge",
            "if not row or math.min(delivered, row.top)",
            "if true or math.min(delivered, row.top)",
        ),
        "leave_right_after_ack",
    ),
    "no_lease": Rule(
        "a claim of ended messages ends after 30 s",
        _in_script(
            "claim_expired", "string.format('%.0f', now + lease_ms)", "string.format('%.0f', now + 8.64e7)"
        ),
        "worker_killed_in_claim",
    ),
    "unwritten_reports": Rule(
        "the store forgets a message only after its report is written", _unwritten_reports, "database_locked"
    ),
    "no_recheck_of_notices": Rule(
        "a server looks for notices of which it was not told",
        _no_recheck_of_notices,
        "database_away_at_notice",
    ),
    "no_subscription_deadline": Rule(
        "a subscription that is not answered is opened again",
        _no_subscription_deadline,
        "store_half_open_down",
    ),
    "no_marks": Rule("the store is compared with marks in the database", _no_marks, "store_put_back"),
    "no_withdrawn_joins": Rule(
        "a member who could not join the store is no member", _no_withdrawn_joins, "member_added_store_down"
    ),
    "unwatched_jobs": Rule(
        "the worker repairs schedules and notices silent jobs", _unwatched_jobs, "schedules_deleted"
    ),
    "no_new_cluster": Rule("the worker starts jobs again that ended", _no_new_cluster, "sentinel_killed"),
}


async def check(names: list[str], rows: Rows, *, seed: int) -> int:
    """Run the scenario of each mutation; return 1 if one of them does not fail."""
    from .run import STAYED_OPEN, TOO_SLOW, run
    from .scenarios import SCENARIOS

    survivors = []
    for name, mutation in MUTATIONS.items():
        if names and name not in names:
            continue
        verdict = await run(SCENARIOS[mutation.scenario], rows, seed=seed, mutation=name)
        counts = {column: count for column, count in verdict.counts.items() if count}
        found = counts or verdict.unaccounted or verdict.failure in (STAYED_OPEN, TOO_SLOW)
        if not found:
            survivors.append(name)
        print(
            f"{name:26} {mutation.scenario:26} {'found' if found else 'NOT FOUND'}  {counts or verdict.failure}"
        )
        sys.stdout.flush()
    print(f"Not found: {', '.join(survivors)}." if survivors else "All found.", f"Seed {seed}.")
    return 1 if survivors else 0
