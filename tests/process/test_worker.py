"""`manage.py worker`: one job cluster, which ends with it and is replaced when its heartbeat stops."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django_q.status import Stat
from django_q.tasks import async_task

from chatsite.environment import BASE_DIR
from chatsite.run.children import MARK, end, end_marked, mark, marked, wait_for
from messaging import jobs as all_jobs
from messaging.jobs import schedules as jobs
from messaging.management.commands import worker

pytestmark = pytest.mark.usefixtures("redis_url")
DEADLINE_S = 30.0


@pytest.fixture
def process(tmp_path: Path, migrated_database: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `manage.py worker` on the store of this test run and a separate database."""
    env = {
        **os.environ,
        MARK: mark(tmp_path, "worker"),
        "DJANGO_SETTINGS_MODULE": "chatsite.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
    }
    shutil.copy(migrated_database, tmp_path / "db.sqlite3")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "manage.py", "worker"], cwd=BASE_DIR, env=env, stderr=log)
    try:
        yield process
    finally:
        end_marked(tmp_path, patience_s=0)
        process.wait()


def cluster_of(process: subprocess.Popen[bytes], folder: Path) -> list[int]:
    return [
        pid for pid in marked(folder) if pid != process.pid and os.getpgid(pid) != os.getpgid(process.pid)
    ]


def wait_until_up(process: subprocess.Popen[bytes], folder: Path) -> None:
    # Guard, sentinel, two workers, monitor, pusher.
    assert wait_for(lambda: len(cluster_of(process, folder)) >= 6, deadline_s=DEADLINE_S)


def test_a_stop_reaches_the_cluster_and_nothing_is_left(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_until_up(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert marked(tmp_path) == []


def test_jobs_have_a_lower_priority_than_the_chat(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    wait_until_up(process, tmp_path)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for pid in (process.pid, *cluster_of(process, tmp_path)):
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + worker.NICENESS)


def test_a_killed_worker_takes_its_cluster_along(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    wait_until_up(process, tmp_path)
    process.kill()
    assert wait_for(lambda: not cluster_of(process, tmp_path), deadline_s=DEADLINE_S)


def test_a_killed_cluster_is_replaced(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    wait_until_up(process, tmp_path)
    old = cluster_of(process, tmp_path)
    end(old, patience_s=0)
    assert wait_for(lambda: len(cluster_of(process, tmp_path)) >= 6, deadline_s=DEADLINE_S)
    assert not set(old) & set(cluster_of(process, tmp_path))
    assert b"starting it again" in (tmp_path / "log").read_bytes()


def test_jobs_of_every_minute_run_at_the_start(process: subprocess.Popen[bytes]) -> None:
    assert wait_for(lambda: jobs.heartbeat_age_s() is not None, deadline_s=DEADLINE_S)


@pytest.mark.django_db(transaction=True)
def test_the_worker_runs_the_urgent_jobs_when_a_full_store_refuses_those_of_the_cluster(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RUN_AFTER_S", 0.0)
    heartbeat = worker.ClusterHeartbeat()
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                async_task("messaging.jobs.process_expired")
            assert heartbeat() == float("inf"), "the cluster has never run a job"
            assert set(client.hkeys("chat:jobs")) == {b"retry_undelivered", b"process_expired"}
            assert heartbeat() == float("inf"), "its own runs are no heartbeats of the cluster"
        finally:
            client.config_set("maxmemory", 0)
        monkeypatch.setattr(worker, "RUN_AFTER_S", 100.0)
        heartbeat._own_run_mono_s -= worker.BEAT_PRECISION_S  # that time has passed
        all_jobs.process_expired()
        assert heartbeat() < 10, "this run was not its own"


# ── When no job beats; the cluster is a process that just lives ──


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    monkeypatch.setattr(worker, "SILENCE_S", 0.3)
    monkeypatch.setattr(worker, "LOOK_EVERY_S", 0.05)
    process = subprocess.Popen(["sleep", "600"], process_group=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Never:
    """Stands for `Stop`: true once `after_s` have passed."""

    def __init__(self, after_s: float) -> None:
        self._ends_mono_s = time.monotonic() + after_s

    def __bool__(self) -> bool:
        return time.monotonic() >= self._ends_mono_s

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def watch(cluster: subprocess.Popen[bytes], age_s: float, *, running_for_s: float = 60.0) -> str:
    stopping = Never(after_s=1.0)
    started_mono_s = time.monotonic() - running_for_s
    return worker.watch(cluster, stopping, lambda: age_s, started_mono_s=started_mono_s)  # type: ignore[arg-type]


def test_cluster_without_any_heartbeat_is_given_up(cluster: subprocess.Popen[bytes]) -> None:
    assert "No job has run" in watch(cluster, 60.0)


def test_new_cluster_has_time_before_its_first_heartbeat(cluster: subprocess.Popen[bytes]) -> None:
    assert watch(cluster, float("inf"), running_for_s=-10) == "A stop was requested"


def test_cluster_with_heartbeats_is_left_alone(cluster: subprocess.Popen[bytes]) -> None:
    assert watch(cluster, 0.0) == "A stop was requested"


def test_a_cluster_that_does_not_stop_is_killed_after_its_patience() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    cluster = subprocess.Popen(["sleep", "600"], process_group=0, preexec_fn=ignore)
    worker.end_group(cluster, patience_s=0.2)
    assert cluster.returncode == -signal.SIGKILL


# ── A cluster that lost a part: the scheduler looks every 30 s, so this takes a minute ──

JOBS_WITHIN_S = 75.0


def parts() -> list[Stat]:
    return Stat.get_all()


def beat_after(moment_s: float) -> bool:
    age_s = jobs.heartbeat_age_s()
    return age_s is not None and time.time() - age_s > moment_s


@pytest.mark.proof
def test_jobs_go_on_with_a_stopped_monitor_and_again_after_a_killed_sentinel(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    wait_until_up(process, tmp_path)
    assert wait_for(lambda: bool(parts()), deadline_s=DEADLINE_S)
    [cluster] = parts()
    os.kill(cluster.monitor, signal.SIGSTOP)
    stopped_s = time.time()
    assert wait_for(lambda: beat_after(stopped_s), deadline_s=JOBS_WITHIN_S), "they need no monitor"

    old = cluster_of(process, tmp_path)
    os.kill(cluster.sentinel, signal.SIGKILL)
    killed_s = time.time()
    assert wait_for(lambda: not set(old) & set(cluster_of(process, tmp_path)), deadline_s=DEADLINE_S), (
        "no orphan is left"
    )
    assert wait_for(lambda: beat_after(killed_s + 1), deadline_s=JOBS_WITHIN_S)
