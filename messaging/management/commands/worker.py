"""`manage.py worker`: run the jobs, and run them again when they hang."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connections
from django.utils.module_loading import import_string

from messaging import jobs
from messaging.errors import MessagingError

# Every job runs each minute, and the scheduler looks about every 30 s: after three silent minutes the cluster hangs, however
# alive its processes look (a killed sentinel leaves workers that never schedule again).
SILENCE_S = 180.0
LOOK_EVERY_S = 5.0
POLL_S = 0.1
SHORTEST_LIFE_S = 5.0  # one that fails at once is not started more often than this
PATIENCE_S = 45.0  # a job bounds itself to 40 s and is safe to kill at any line
# The chat goes first where both want the same core: with 15,000 messages due its p99 was 8 times the idle one without, 2.7 times
# with this. No more, for a job that holds SQLite's write lock must go on.
NICER = 10
WAITS = ("carry_on_bulk",)  # not at the start: it may take all of its 40 s, and the cluster starts only then
PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the scheduled jobs (django-q2) in a process group of its own; start it again when it dies or hangs."

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = Stopping()
        os.nice(NICER)
        run_now()
        while not stopping:
            cluster = start_cluster()
            started_mono_s = time.monotonic()
            why = watch(cluster, stopping, look, started_mono_s=started_mono_s)
            end_group(cluster, patience_s=PATIENCE_S if stopping else 5.0)
            if not stopping:
                self.stderr.write(f"{why}; starting it again.")
                stopping.wait(started_mono_s + SHORTEST_LIFE_S - time.monotonic())


def run_now() -> None:
    """Run what is due each minute at once: the cluster's own scheduler first looks after half a minute."""
    for name, schedule in jobs.SCHEDULES.items():
        if schedule["minutes"] > 1 or name in WAITS:
            continue
        try:
            import_string(schedule["func"])()
        except (MessagingError, redis.RedisError, DatabaseError) as error:
            log.warning("a job failed at the start", extra={"job": name, "reason": str(error)})
    connections.close_all()


class Stopping:
    """Becomes true at SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def __bool__(self) -> bool:
        return self._stopping

    def wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < ends:
            time.sleep(POLL_S)

    def _stop(self, *_: object) -> None:
        self._stopping = True


def start_cluster() -> subprocess.Popen[bytes]:
    manage = Path(sys.argv[0]).resolve()
    return subprocess.Popen(
        [sys.executable, str(manage), "qcluster"],
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        env={**os.environ, "DATA_DIR": str(settings.DATA_DIR)},
    )


def _end_with_parent() -> None:
    """Ask the kernel to stop the cluster when this process is killed, so that two never run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def watch(
    cluster: subprocess.Popen[bytes],
    stopping: Stopping,
    age_s: Callable[[], float],
    *,
    started_mono_s: float,
) -> str:
    """Wait until the cluster has ended, no job has beaten for too long, or we are to stop; return why in a few words."""
    while not stopping:
        stopping.wait(LOOK_EVERY_S)
        if cluster.poll() is not None:
            return f"the job cluster ended with {cluster.returncode}"
        silent_s = min(time.monotonic() - started_mono_s, age_s())
        if silent_s > SILENCE_S:
            return f"no job has run for {silent_s:.0f} s"
    return "told to stop"


def look() -> float:
    """Mend what a clock that was set back did to the schedules; return the seconds since any job beat."""
    try:
        if jobs.repair_schedules():
            log.warning("this machine's clock was set back: the schedules were brought forward")
    except DatabaseError:
        pass  # the jobs say it
    finally:
        connections.close_all()
    return heartbeat_age_s()


def heartbeat_age_s() -> float:
    """Return the seconds since any job beat; 0 without the store, where no job can beat and a new cluster would not help."""
    try:
        age_s = jobs.heartbeat_age_s()
    except (MessagingError, redis.RedisError, OSError):
        return 0.0
    return float("inf") if age_s is None else age_s


def end_group(cluster: subprocess.Popen[bytes], *, patience_s: float) -> None:
    """Pass SIGTERM on, wait, then kill whatever is left of the group."""
    if cluster.poll() is None:
        cluster.terminate()
        with suppress(subprocess.TimeoutExpired):
            cluster.wait(patience_s)
    try:
        os.killpg(cluster.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    cluster.wait()
