"""Run a job (expiry or bulk actions) as a process that is killed, or meets a locked database, at a chosen place.

Run it as `python -m tests.support.kill_points '<Fate as JSON>'`. A place is a checkpoint of the job, or a function of
`messaging.expiry` that the job calls: `notices.waiting_for` is reached in the transaction, when everything is written and nothing
is committed. Prints `ready`, and at the end the result of the job.
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
    """The event (`kill`: -9; `lock`: another connection holds a write transaction), its place, and the pass at which it happens."""

    at: str = ""
    nth: int = 1
    job: str = "expiry"  # or `bulk_job`
    does: str = "kill"
    names_batch: int | None = None  # in one transaction
    busy_s: float | None = None  # timeout for a locked database
    clock_s: int = 0  # error of this process's clock
    waits: bool = False  # for a line on stdin, between `ready` and the job
    runs: int = 1  # the limit; runs end when nothing is due


def main(fate: Fate) -> None:
    _shift_clock(fate.clock_s)
    _set_busy(fate.busy_s)
    django.setup()
    from messaging.expiry import job as expiry

    if fate.names_batch:
        expiry.NAMES_BATCH = fate.names_batch
    if fate.at:
        _install(fate)
    _print("ready")
    if fate.waits:
        sys.stdin.readline()
    _print(json.dumps(_run(fate.runs) if fate.job == "expiry" else _carry_on(fate.runs)))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(limit: int) -> list[dict[str, Any]]:
    from messaging.bridge import run_async
    from messaging.expiry import job as expiry

    done: list[dict[str, Any]] = []
    while len(done) < limit and (not done or done[-1]["expired"]):
        done.append(run_async(expiry.process, expiry.ExpiryOptions()).as_data())
    return done


def _carry_on(limit: int) -> list[int]:
    from messaging.admin import bulk_job

    rows: list[int] = []
    while len(rows) < limit and (not rows or rows[-1]):
        rows.append(bulk_job.carry_on())
    return rows


def _install(fate: Fate) -> None:
    passes = itertools.count(1)

    def happen() -> None:
        if next(passes) == fate.nth:
            {"kill": _kill, "lock": _lock}[fate.does]()

    module, _, function = fate.at.rpartition(".")
    if not module:
        place = f"{fate.job}.{fate.at}"
        checkpoints = importlib.import_module("messaging.checkpoints")
        checkpoints.reach = lambda checkpoint: happen() if checkpoint == place else None
        return
    owner = importlib.import_module(f"messaging.expiry.{module}")
    setattr(owner, function, _preceded(happen, getattr(owner, function)))


def _preceded(happen: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
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
    """Shift this process's clock, for all modules that are imported later."""
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
