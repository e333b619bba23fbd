"""A job (expiry, or that of bulk actions) as a process that something happens to at a place of a test's choosing: `python -m tests.support.kill_points '<Fate as JSON>'`.

A place is the name of one of the job's own steps, or a function of `messaging.expiry` that it calls: `notices.waiting_for` is reached
within the transaction, when everything is written and nothing is committed. Prints `ready`, and at its end what the job did.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import itertools
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens (`kill`: -9; `lock`: another connection writes to the database and does not end) where, the how manieth time."""

    at: str = ""
    nth: int = 1
    job: str = "expiry"  # or `bulk_job`
    does: str = "kill"
    names_most: int | None = None  # in one transaction
    busy_s: float | None = None  # how long a locked database is waited for
    clock_s: int = 0  # how wrong this process's clock is
    waits: bool = False  # for a line on stdin, between `ready` and the job
    runs: int = 1  # at most so many, until nothing is due


def main(fate: Fate) -> None:
    _shift_clock(fate.clock_s)
    _set_busy(fate.busy_s)
    django.setup()
    from messaging.expiry import job as expiry

    if fate.names_most:
        expiry.NAMED_MOST = fate.names_most
    if fate.at:
        _meet(fate)
    _say("ready")
    if fate.waits:
        sys.stdin.readline()
    _say(json.dumps(_run(fate.runs) if fate.job == "expiry" else _carry_on(fate.runs)))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(most: int) -> list[dict[str, Any]]:
    from messaging.bridge import run_verb
    from messaging.expiry import job as expiry

    done: list[dict[str, Any]] = []
    while len(done) < most and (not done or done[-1]["expired"]):
        done.append(dataclasses.asdict(run_verb(expiry.process, expiry.ExpiryOptions())))
    return done


def _carry_on(most: int) -> list[int]:
    from messaging.admin import bulk_job

    rows: list[int] = []
    while len(rows) < most and (not rows or rows[-1]):
        rows.append(bulk_job.carry_on())
    return rows


def _meet(fate: Fate) -> None:
    times = itertools.count(1)

    def happen() -> None:
        if next(times) == fate.nth:
            {"kill": _kill, "lock": _lock}[fate.does]()

    module, _, function = fate.at.rpartition(".")
    if not module:
        job = importlib.import_module(
            {"expiry": "messaging.expiry.job", "bulk_job": "messaging.admin.bulk_job"}[fate.job]
        )
        job.step = lambda name: happen() if name == fate.at else None
        return
    owner = importlib.import_module(f"messaging.expiry.{module}")
    setattr(owner, function, _after(happen, getattr(owner, function)))


def _after(happen: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        happen()
        return function(*args, **kwargs)

    return called


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_held: list[sqlite3.Connection] = []


def _lock() -> None:
    from django.conf import settings

    other = sqlite3.connect(Path(settings.DATABASES["default"]["NAME"]), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    _held.append(other)


def _set_busy(busy_s: float | None) -> None:
    from django.conf import settings

    if busy_s is not None:
        settings.DATABASES["default"]["OPTIONS"]["timeout"] = busy_s


def _shift_clock(by_s: int) -> None:
    """Let this process's clock be wrong, for whatever is imported from here on."""
    if not by_s:
        return
    real_s, real_ns, by = time.time, time.time_ns, datetime.timedelta(seconds=by_s)

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Wrong:
            return super().now(tz) + by

    time.time = lambda: real_s() + by_s
    time.time_ns = lambda: real_ns() + by_s * 10**9
    datetime.datetime = Wrong  # type: ignore[misc]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(Fate(**json.loads(sys.argv[1])))
