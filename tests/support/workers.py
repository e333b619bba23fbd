"""The jobs of a site under test: `manage.py worker` and other commands as processes, on the site's store and database."""

from __future__ import annotations

import subprocess
import sys

import redis
from django_q.brokers.redis_broker import Redis
from django_q.tasks import async_task

from chatsite.environment import BASE_DIR
from chatsite.run.children import MARK, end_marked, mark
from tests.support.sites import Site

WITHIN_S = 30.0


class Worker:
    """One `manage.py worker`; its output is written to `worker.log` in the site's folder."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.log = site.folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Worker:
        environment = {**self.site._environment(), MARK: mark(self.site.folder, "worker")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "worker"], cwd=BASE_DIR, env=environment, stdout=log, stderr=log
            )
        return self

    def has_run(self) -> bool:
        """Say whether what it runs at once, at its start, is done."""
        return b" messaging.expiry.job expiry " in self.log.read_bytes()

    def end(self) -> None:
        """Kill it and all its child processes."""
        end_marked(self.site.folder, "worker", patience_s=0)
        if self.process is not None:
            self.process.wait()


def manage(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a `manage.py` command as the site's operator would."""
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=BASE_DIR,
        env=site._environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def enqueue(site: Site, job: str, *, module: str = "jobs") -> None:
    """Put a job into the queue of the site's workers, as its schedule does."""
    broker = Redis()
    with redis.Redis.from_url(f"{site.store.url}?db=1") as broker.connection:
        async_task(f"messaging.{module}.{job}", broker=broker)
