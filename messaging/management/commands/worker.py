"""`manage.py worker`: run the job cluster, and restart it when it ends or hangs."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connections
from django.utils.module_loading import import_string

from messaging import jobs
from messaging.errors import MessagingError
from messaging.management.arguments import Stop

# Every job runs every minute, and the scheduler looks about every 30 s. After three minutes without a heartbeat the cluster
# hangs, although its processes look alive (a killed sentinel leaves workers that never schedule again).
SILENCE_S = 180.0
RUN_AFTER_S = 100.0  # two runs are missed
BEAT_PRECISION_S = 1.0  # of a heartbeat's time on this process's clock
LOOK_EVERY_S = 5.0
MIN_LIFE_S = 5.0  # a cluster that fails at once is not restarted more often than this
PATIENCE_S = 45.0  # a job bounds itself to 40 s and is safe to kill at any line
# The chat has priority where both need the same core. With 15,000 messages due, its p99 was 8 times the idle p99 without this
# and 2.7 times with it. The value is not higher, because a job that holds SQLite's write lock must progress.
NICENESS = 10
NOT_AT_START = ("carry_on_bulk",)  # it may take 40 s, and the cluster starts only after the jobs of the start
PR_SET_PDEATHSIG = 1  # linux/prctl.h

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the scheduled jobs (django-q2). If their processes end or hang, they are started again."

    def handle(self, *args: Any, **options: Any) -> None:
        with Stop() as stop:
            os.nice(NICENESS)
            run_now()
            heartbeat = ClusterHeartbeat()
            while not stop:
                cluster = start_cluster()
                started_mono_s = time.monotonic()
                reason = watch(cluster, stop, heartbeat, started_mono_s=started_mono_s)
                end_group(cluster, patience_s=PATIENCE_S if stop else 5.0)
                if not stop:
                    self.stderr.write(f"{reason}; starting it again.")
                    stop.wait(started_mono_s + MIN_LIFE_S - time.monotonic())


def run_now() -> None:
    """Run the jobs of every minute at once: the cluster's scheduler looks for the first time after half a minute."""
    for name, schedule in jobs.SCHEDULES.items():
        if schedule["minutes"] > 1 or name in NOT_AT_START:
            continue
        try:
            import_string(schedule["func"])()
        except (MessagingError, DatabaseError) as error:
            log.warning("a job failed", extra={"job": name, "reason": str(error)})
    connections.close_all()


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
    """Let the kernel stop the cluster when this process is killed, so that two never run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def watch(
    cluster: subprocess.Popen[bytes],
    stop: Stop,
    age_s: Callable[[], float],
    *,
    started_mono_s: float,
) -> str:
    """Wait until the cluster has ended, no heartbeat has come for too long, or a stop is requested. Return the reason in a few words."""
    while not stop:
        stop.wait(LOOK_EVERY_S)
        if cluster.poll() is not None:
            return f"The job cluster ended with exit code {cluster.returncode}"
        silent_s = min(time.monotonic() - started_mono_s, age_s())
        if silent_s > SILENCE_S:
            return f"No job has run for {silent_s:.0f} s"
    return "A stop was requested"


class ClusterHeartbeat:
    """Return the seconds since the last heartbeat of the cluster, and do its urgent work when it is silent.

    A full store refuses the jobs that the cluster puts into its queue, but these jobs would free memory.
    """

    def __init__(self) -> None:
        self._cluster_beat_mono_s = -math.inf
        self._own_run_mono_s = -math.inf

    def __call__(self) -> float:
        repair_schedules()
        age_s = heartbeat_age_s()
        beat_mono_s = time.monotonic() - age_s
        if beat_mono_s > self._own_run_mono_s:
            self._cluster_beat_mono_s = beat_mono_s
        if age_s > RUN_AFTER_S:
            log.warning("no job runs in the cluster; the worker runs the urgent jobs")
            run_now()
            self._own_run_mono_s = time.monotonic() + BEAT_PRECISION_S
        return time.monotonic() - self._cluster_beat_mono_s


def repair_schedules() -> None:
    """Create missing schedules, and fix them after the clock was set back."""
    try:
        if jobs.missing_schedules():
            jobs.install_schedules()
            log.warning("schedules were missing: they were created again")
        if jobs.repair_schedules():
            log.warning("this machine's clock was set back: the schedules were repaired")
    except DatabaseError:
        pass  # the jobs report it
    finally:
        connections.close_all()


def heartbeat_age_s() -> float:
    """Return the seconds since the last heartbeat, 0 while the store is away: then a new cluster would not help."""
    try:
        age_s = jobs.heartbeat_age_s()
    except (MessagingError, OSError):
        return 0.0
    return float("inf") if age_s is None else age_s


def end_group(cluster: subprocess.Popen[bytes], *, patience_s: float) -> None:
    """Pass SIGTERM on, wait, then kill the rest of the group."""
    if cluster.poll() is None:
        cluster.terminate()
        with suppress(subprocess.TimeoutExpired):
            cluster.wait(patience_s)
    try:
        os.killpg(cluster.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    cluster.wait()
