"""A separate site of the drill: a new folder, a free port and its own store. Its processes can be killed.

It kills only descendants of the `serve` that it started, found by the mark that `serve` gives its children, never by a name on the machine. It
takes no address, so that it cannot attach to another site.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from .plan import DrillError, Plan

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.1
MARK = "CHAT_CHILD"  # the environment variable of children of `serve`: <folder>:<name>
_ADDRESS = re.compile(r"The chat is at (http://\S+?)/?\s")


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """A person who is logged in."""

    id: int
    cookie: str


class Instance:
    """One running `serve`. A context manager: everything is deleted at the end, except the ledgers if `keep_ledgers`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(tempfile.mkdtemp(prefix="chat-drill-")).resolve()
        self.ledgers = self.folder / "ledgers"
        self.ledgers.mkdir()
        self.log = self.ledgers / "serve.log"
        self.origin = ""
        self.people: list[Person] = []
        self.rooms: list[str] = []
        self.keep_ledgers = False
        self._serve: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Instance:
        try:
            self._start()
            self._seed()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self.keep_ledgers:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"{self.origin.replace('http', 'ws', 1)}/ws/chat/"

    # Starting and stopping

    def _start(self) -> None:
        command = ["serve", "--port", "0", "--no-seed", "--processes", str(self.plan.processes)]
        if not self.plan.worker:
            command.append("--no-worker")
        with self.log.open("wb") as log:
            self._serve = subprocess.Popen(
                _manage(*command),
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # only the drill gets Ctrl-C
            )
        ends_s = time.monotonic() + START_TIMEOUT_S
        while (address := _ADDRESS.search(self.log.read_text(errors="replace"))) is None:
            if self._serve.poll() is not None or time.monotonic() > ends_s:
                raise DrillError(f"The site of the drill does not start: {self._last_line()}")
            time.sleep(POLL_INTERVAL_S)
        self.origin = address[1]

    def _seed(self) -> None:
        plan = self.plan
        shape = ["--users", str(plan.clients), "--rooms", str(plan.rooms), "--members", str(plan.clients)]
        seeded = subprocess.run(
            _manage("seed_demo", *shape, "--sessions", "--json", "--force"),
            env=self._env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if seeded.returncode:
            raise DrillError(
                f"The people of the drill could not be created: {seeded.stderr.decode().strip()}"
            )
        output: dict[str, Any] = json.loads(seeded.stdout)
        self.people = [Person(user["id"], user["session"]) for user in output["users"]]
        self.rooms = [room["id"] for room in output["rooms"]]

    def _env(self) -> dict[str, str]:
        """Return an environment without settings of another site: no REDIS_URL, no DATABASE_URL, no key."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "DATA_DIR": str(self.folder / "data"),
            "MESSAGING_RECOVERY": "on" if self.plan.recovery else "off",
        }

    def _stop(self) -> None:
        if self._serve is None:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
        descendants = _descendants(self._serve.pid)
        self._serve.terminate()
        try:
            self._serve.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._serve.kill()
            self._serve.wait()
            for process in descendants:
                if _mark_of(process).startswith(str(self.folder)):
                    _kill(process)

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "its log is empty."

    # Killing

    def kill(self, kind: str, rng: random.Random) -> bool:
        """Kill a server process, the job cluster or the store with -9; False when none is running."""
        if self._serve is None:
            return False
        names = {process: _mark_of(process).rpartition(":")[2] for process in _descendants(self._serve.pid)}
        processes = [process for process, name in names.items() if name.partition("-")[0] == kind]
        if kind == "worker":
            return any(_kill_cluster(process) for process in processes)
        return bool(processes) and _kill(rng.choice(processes))


def _manage(*command: str) -> list[str]:
    return [sys.executable, str(Path(sys.argv[0]).resolve()), *command]


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _mark_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.environ().get(MARK, "")
    return ""


def _kill_cluster(worker: psutil.Process) -> bool:
    """Kill the process group that `worker` supervises."""
    with suppress(psutil.NoSuchProcess):
        groups = [child.pid for child in worker.children() if _leads_group(child.pid)]
        for pid in groups:
            os.killpg(pid, signal.SIGKILL)
        return bool(groups)
    return False


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def _kill(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
