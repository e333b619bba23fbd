"""Child processes: commands, each in a separate process group, with a mark in their environment.

Every process that a child starts inherits the mark (`CHAT_CHILD=<data directory>:<name>`). After a `kill -9` of the supervisor or
of a child, `marked` finds the remaining processes by this mark. A record in a file could be out of date.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "CHAT_CHILD"
POLL_S = 0.02
FIRST_WAIT_S = 0.2  # the first restart must be within a second
MAX_WAIT_S = 30.0
MAX_ROUNDS = 10  # of the search for marked processes: an ended process may have started others
HEALTHY_S = 60.0  # after a longer run, the wait is FIRST_WAIT_S again
# With its prefix, a line is shorter than PIPE_BUF: a pipe with free space takes it whole and without waiting.
MAX_LINE_BYTES = 4_000


class Child:
    """One command. It is restarted when it ends, unless it runs only `once`. `patience_s`: the time it may take to stop."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        patience_s: float,
        pass_fds: tuple[int, ...] = (),
        once: bool = False,
    ) -> None:
        self.name = name
        self.once = once
        self.command = command
        self.patience_s = patience_s
        self.due_mono_s: float | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._env = {**env, MARK: mark(folder, name)}
        self._pass_fds = pass_fds
        self._started_mono_s = 0.0
        self.short_lives = 0
        self._unfinished = b""

    def start(self) -> None:
        end_marked(self._folder, self.name, patience_s=0)  # processes that a killed child left
        self.due_mono_s = None
        self._started_mono_s = time.monotonic()
        self._unfinished = b""
        self.process = subprocess.Popen(
            self.command,
            env=self._env,
            pass_fds=self._pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches only the supervisor
        )
        assert self.process.stdout is not None  # noqa: S101  (for the type checker)
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def status(self) -> int:
        """The exit code; a negative number is the signal that ended the child. 0 while it runs."""
        return 0 if self.process is None else self.process.poll() or 0

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the child and all processes that it started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        end_marked(self._folder, self.name, patience_s=0)

    def restart_later(self) -> float:
        """Set the time of the next start. Return the wait in seconds: 0.2, 0.4, 0.8 ... 30, and 0.2 again after a run of a minute."""
        now = time.monotonic()
        self.short_lives = 0 if now - self._started_mono_s > HEALTHY_S else self.short_lives
        wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**self.short_lives)
        self.short_lives += 1
        self.due_mono_s = now + wait_s
        return wait_s

    def read_lines(self) -> list[bytes]:
        """Return the complete lines since the last call. If the child has ended, also return an incomplete last line."""
        if self.process is None or self.process.stdout is None or self.process.stdout.closed:
            return []
        ended = self.process.poll() is not None
        written = self.process.stdout.read()  # None: no output yet; empty: the child closed its output
        if written == b"" and not ended:
            self.close()
        *lines, self._unfinished = (self._unfinished + (written or b"")).split(b"\n")
        while len(self._unfinished) > MAX_LINE_BYTES:
            lines.append(self._unfinished[:MAX_LINE_BYTES])
            self._unfinished = self._unfinished[MAX_LINE_BYTES:]
        if ended and self._unfinished:
            lines.append(self._unfinished)
            self._unfinished = b""
        return [line[:MAX_LINE_BYTES] for line in lines]

    def close(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


def mark(folder: Path, name: str) -> str:
    return f"{folder}:{name}"


def marked(folder: Path, name: str = "") -> list[int]:
    """Return the pids of all processes that carry the mark of `folder`, and of `name` if given."""
    wanted = mark(folder, name)
    pids = []
    for process in psutil.process_iter(["environ"]):
        # None: another user's process, or one that has ended
        value = (process.info["environ"] or {}).get(MARK, "")
        if value == wanted if name else value.startswith(wanted):
            pids.append(process.pid)
    return [pid for pid in pids if pid != os.getpid()]


def end_marked(folder: Path, name: str = "", *, patience_s: float) -> None:
    """Stop all processes with the mark, and those that they start in the meantime."""
    for _ in range(MAX_ROUNDS):
        pids = marked(folder, name)
        if not pids:
            return
        end(pids, patience_s=patience_s)
        patience_s = 0


def end(pids: Iterable[int], *, patience_s: float) -> None:
    """Stop processes: SIGTERM, wait at most `patience_s`, then SIGKILL. They can be any processes, not only children."""
    processes = list(_processes(pids))
    if not processes:
        return
    _send(processes, signal.SIGTERM if patience_s else signal.SIGKILL)
    if patience_s and wait_for(lambda: not _alive(processes), deadline_s=patience_s):
        return
    _send(_alive(processes), signal.SIGKILL)
    wait_for(lambda: not _alive(processes), deadline_s=2.0)


def wait_for(condition: Callable[[], bool], *, deadline_s: float) -> bool:
    """Wait until the condition is true. Return False at the deadline."""
    end_mono_s = time.monotonic() + deadline_s
    while not (result := condition()) and time.monotonic() < end_mono_s:
        time.sleep(POLL_S)
    return result


def _processes(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run. Not by `psutil.wait_procs`: it would take the exit codes of children from `Popen`."""
    return [process for process in processes if _state(process) not in (None, psutil.STATUS_ZOMBIE)]


def _state(process: psutil.Process) -> str | None:
    with suppress(psutil.NoSuchProcess):
        return process.status() if process.is_running() else None
    return None
