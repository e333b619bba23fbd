"""Processes and the cores they run on: the server's side has one, the load generator another."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[-1]
MANY = (
    CORES if len(CORES) == 2 else CORES[:-1]
)  # for more server processes than one; of two the generator has its share


class CannotMeasure(Exception):
    """A system did not start, or the generator did not end; the text contains the reason."""


def on_core(core: int, command: Sequence[str]) -> list[str]:
    return on_cores([core], command)


def on_cores(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def prefer(pid: int) -> None:
    """Let the kernel prefer a process and what it starts, where root asks for it with BENCH_PREFER=1.

    On a machine that does other work as well; for every system alike. Each is a session, which the scheduler groups.
    """
    if os.environ.get("BENCH_PREFER"):
        Path(f"/proc/{pid}/autogroup").write_text("-15")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return a process and everything it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return [pid]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; kill what is left of it."""
    left = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=12)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in left[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
