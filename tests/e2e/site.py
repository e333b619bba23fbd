"""A whole separate site for the browser tests: real server, real store, private folder, free port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is logged in: `session` is the value of the cookie."""

    id: int
    name: str
    password: str
    session: str


@dataclass(frozen=True, slots=True)
class Demo:
    """The rows that `seed_demo` made."""

    people: list[Person]
    rooms: list[dict[str, Any]]

    @property
    def room(self) -> str:
        return str(self.rooms[0]["id"])


def wait_for(what: str, condition: Callable[[], T], deadline_s: float = 20.0) -> T:
    """Return the first true answer of `condition`; fail with `what` when none came in time."""
    end = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"did not come in {deadline_s} s: {what}")
        time.sleep(POLL_S)


class Site:
    """Start, seed, wound and stop one installation."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        """`folder` is empty. `data`: the data folder of a site that has run, to be copied, which saves six seconds."""
        self.folder = folder
        if data:
            shutil.copytree(data, folder / "data")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: subprocess.Popen[str] | None = None
        self._one_command = threading.Lock()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(self.port), "--no-worker", "--no-seed"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for(f"a server, see {self.log}", self.answers, START_DEADLINE_S)

    def stop(self) -> None:
        if self._commands is not None:
            self._commands.communicate()
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_DEADLINE_S)

    def seed(self, *, users: int, rooms: int = 1, members: int | None = None) -> Demo:
        """Make fresh people and rooms; every room has the first `members` of them."""
        sizes = ["--users", str(users), "--rooms", str(rooms), "--members", str(members or users)]
        made = json.loads(self.manage("seed_demo", "--json", "--sessions", "--force", *sizes))
        people = [
            Person(one["id"], one["name"], one["password"], one["session"].partition("=")[2])
            for one in made["users"]
        ]
        return Demo(people, made["rooms"])

    def manage(self, *words: str) -> str:
        """Run a management command and return its output."""
        with self._one_command:
            if self._commands is None:
                self._commands = subprocess.Popen(
                    [sys.executable, "-m", "tests.e2e.commands"],
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            assert self._commands.stdin is not None
            assert self._commands.stdout is not None
            self._commands.stdin.write(json.dumps(words) + "\n")
            self._commands.stdin.flush()
            done = json.loads(self._commands.stdout.readline())
        assert not done["error"], f"{words}: {done['error']}"
        return str(done["output"])

    def process_expired(self) -> None:
        """Run the expiry job once: this site has no worker."""
        self.manage("process_expired", "--once")

    def kill_server(self) -> int:
        """End the web server with -9; the supervisor starts another. Return the pid that died."""
        pid = self.server_pid()
        os.kill(pid, signal.SIGKILL)
        return pid

    def freeze_server(self) -> int:
        pid = self.server_pid()
        os.kill(pid, signal.SIGSTOP)
        return pid

    def server_pid(self) -> int:
        assert self._process is not None
        return wait_for("a web server", lambda: _child_called("manage.py server", self._process.pid))

    def store_pid(self) -> int:
        assert self._process is not None
        return wait_for("a store", lambda: _child_called("valkey-server", self._process.pid))

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {"DATA_DIR": str(self.folder / "data"), "SITE_URL": self.url}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _child_called(name: str, parent: int) -> int | None:
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()):
                return child.pid
    return None
