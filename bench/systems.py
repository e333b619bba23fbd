"""The systems that are measured: how each is started on the server's core, and what of the load generator speaks to it.

Every system gets a store of its own, fresh, with the same settings; `Running` owns all processes of one start and ends them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chatsite import embedded

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[-1]
READY_WITHIN_S = 60.0
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools"),
    *(
        "--ws",
        "websockets-sansio",
        "--ws-per-message-deflate",
        "false",
        "--no-access-log",
        "--log-level",
        "warning",
    ),
]


class CannotMeasure(Exception):
    """A system did not start; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a system runs: its own folder, port and store."""

    folder: Path
    port: int
    store_url: str
    site: Path  # the seeded site of this project


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One line of the table. `client`: the generator's client; `site`: it is this project's."""

    name: str
    title: str
    client: str
    command: Callable[[Place], list[str]]
    env: Callable[[Place], dict[str, str]]
    cwd: Path = ROOT
    site: bool = False


def plain_env() -> dict[str, str]:
    """Return an environment in which nothing of whoever measures changes a system."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def _chat_env(place: Place) -> dict[str, str]:
    shutil.copytree(place.site, place.folder / "site")
    return {
        "DATA_DIR": str(place.folder / "site"),
        "REDIS_URL": place.store_url,
        "MESSAGING_RATE_LIMIT_SCALE": "1000000",
    }


def _chat(processes: int) -> Callable[[Place], list[str]]:
    return lambda place: [
        *(sys.executable, "manage.py", "serve", "--no-seed"),
        *("--port", str(place.port), "--processes", str(processes)),
    ]


def _uvicorn(place: Place) -> list[str]:
    return [*UVICORN, "--port", str(place.port), "app:application"]


def _tutorial(layer: str) -> Callable[[Place], dict[str, str]]:
    return lambda place: {"LAYER": layer, "STORE_URL": place.store_url}


def _socketio(keep: bool) -> Callable[[Place], dict[str, str]]:
    return lambda place: {"PORT": str(place.port), "STORE_URL": place.store_url, "KEEP": "1" if keep else ""}


SYSTEMS = {
    system.name: system
    for system in (
        System(
            name="chat",
            title="**this server**",
            client="chat",
            command=_chat(1),
            env=_chat_env,
            site=True,
        ),
        System(
            name="tutorial",
            title="Channels tutorial, pub/sub layer",
            client="echo",
            command=_uvicorn,
            env=_tutorial("pubsub"),
            cwd=PEERS / "tutorial",
        ),
        System(
            name="tutorial-core",
            title="Channels tutorial, core layer",
            client="echo",
            command=_uvicorn,
            env=_tutorial("core"),
            cwd=PEERS / "tutorial",
        ),
        System(
            name="socketio",
            title="Socket.IO 4 + Redis streams",
            client="socketio",
            command=lambda place: ["node", str(PEERS / "socketio" / "server.mjs")],
            env=_socketio(keep=False),
        ),
        System(
            name="socketio-storing",
            title="the same, storing before the ack",
            client="socketio",
            command=lambda place: ["node", str(PEERS / "socketio" / "server.mjs")],
            env=_socketio(keep=True),
        ),
        System(
            name="raw",
            title="raw ASGI broadcast, nothing stored",
            client="echo",
            command=_uvicorn,
            env=lambda place: {},
            cwd=PEERS / "raw",
        ),
    )
}


@dataclasses.dataclass(slots=True)
class Running:
    """A started system: where it listens, and the processes whose CPU is counted."""

    system: System
    port: int
    server: subprocess.Popen[bytes]
    store: subprocess.Popen[bytes]
    store_socket: Path

    def pids(self) -> dict[str, list[int]]:
        return {"server": descendants(self.server.pid), "store": [self.store.pid]}


@contextlib.contextmanager
def running(system: System, *, fsync: str, site: Path) -> Iterator[Running]:
    """Start a system with its store on the server's core; end both."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder_name:
        folder = Path(folder_name)
        with store_on(folder / "store", fsync=fsync) as (store, socket_path):
            place = Place(folder=folder, port=free_port(), store_url=f"unix://{socket_path}", site=site)
            env = {**plain_env(), **system.env(place)}
            with (folder / "server.log").open("wb") as log:
                server = subprocess.Popen(
                    on_core(SERVER_CORE, system.command(place)),
                    cwd=system.cwd, env=env, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            prefer(server.pid)
            try:
                wait_until_served(system, server, place.port, folder / "server.log")
                yield Running(system, place.port, server, store, socket_path)
            finally:
                end(server)


@contextlib.contextmanager
def store_on(folder: Path, *, fsync: str = "always") -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a fresh store with the embedded one's settings; yield it and its socket."""
    binary = embedded.find_server()
    if binary is None:
        raise CannotMeasure("no valkey-server or redis-server found")
    folder.mkdir(parents=True)
    path = folder / "store.sock"
    command = embedded.command(binary, folder=folder, socket=path, appendfsync=fsync)
    store = subprocess.Popen(on_core(SERVER_CORE, command), stdout=subprocess.DEVNULL, start_new_session=True)
    prefer(store.pid)
    try:
        if not embedded.wait_until_ready(f"unix://{path}", deadline_s=10):
            raise CannotMeasure("the store does not answer")
        yield store, path
    finally:
        end(store)


def on_core(core: int, command: Sequence[str]) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]


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
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


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


def wait_until_served(system: System, server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends:
        if server.poll() is not None:
            raise CannotMeasure(f"{system.name} ended at once: {log.read_text()[-500:]}")
        if _listens(port) and (not system.site or _answers(port)):
            return
        time.sleep(0.05)
    raise CannotMeasure(f"{system.name} does not answer: {log.read_text()[-500:]}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ws/chat/check/", timeout=1)
    except urllib.error.HTTPError:
        return True  # 401: it is there
    except OSError:
        return False
    return True
