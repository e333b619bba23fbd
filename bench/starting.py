"""Start a system with its own new store and the same settings; `Running` owns all processes of one start and ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.processes import SERVER_CORE, CannotMeasure, descendants, end, free_port, on_cores, prefer
from bench.systems import Place, System, found, plain_env
from chatsite.run import embedded_store

READY_WITHIN_S = 60.0


@dataclasses.dataclass(slots=True)
class Running:
    """A started system: where it listens, and the processes whose CPU is counted."""

    system: System
    port: int
    server: subprocess.Popen[bytes]
    store: subprocess.Popen[bytes]
    store_socket: Path
    place: Place

    def pids(self) -> dict[str, list[int]]:
        return {"server": descendants(self.server.pid), "store": [self.store.pid]}


@contextlib.contextmanager
def running(
    system: System, *, fsync: str, site: Path, cores: Sequence[int] = (SERVER_CORE,)
) -> Iterator[Running]:
    """Start a system with its store on the server's core, or on `cores`; end both."""
    if system.needs and not found(system.needs):
        raise CannotMeasure(f"{system.needs} is not installed: apt-get install {system.needs}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder_name:
        folder = Path(folder_name)
        with store_on(folder / "store", fsync=fsync, cores=cores) as (store, socket_path):
            place = Place(
                folder=folder,
                port=free_port(),
                store_url=f"unix://{socket_path}",
                fsync=fsync,
                site=site,
            )
            env = {**plain_env(), **system.env(place)}
            with (folder / "server.log").open("wb") as log:
                server = subprocess.Popen(
                    on_cores(cores, system.command(place)),
                    cwd=system.cwd, env=env, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            prefer(server.pid)
            try:
                wait_until_served(system, server, place.port, folder / "server.log")
                yield Running(system, place.port, server, store, socket_path, place)
            finally:
                end(server)


@contextlib.contextmanager
def store_on(
    folder: Path, *, fsync: str = "always", cores: Sequence[int] = (SERVER_CORE,)
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a fresh store with the embedded one's settings; yield it and its socket."""
    binary = embedded_store.find_server()
    if binary is None:
        raise CannotMeasure("no valkey-server or redis-server found")
    folder.mkdir(parents=True)
    path = folder / "store.sock"
    command = embedded_store.command(binary, folder=folder, socket=path, appendfsync=fsync)
    store = subprocess.Popen(on_cores(cores, command), stdout=subprocess.DEVNULL, start_new_session=True)
    prefer(store.pid)
    try:
        if not embedded_store.wait_until_ready(f"unix://{path}", deadline_s=10):
            raise CannotMeasure("the store does not answer")
        yield store, path
    finally:
        end(store)


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
