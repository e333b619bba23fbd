"""A whole site for a test: a store that writes every answer to disk, a real server process as `serve` runs it, and rows to talk with.

Each part can be killed, frozen and started again. The rows are in the test run's database, which the server shares by a link
that can be taken away. The tests wait for conditions and never sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from asgiref.sync import sync_to_async
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection

from chatsite import environment
from chatsite.run import embedded_store, server
from messaging.models import Membership, Room

# Variables that processes get from the environment of the tests. The last one is set by `make coverage`.
KEPT = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START")
START_DEADLINE_S = 30.0
POLL_S = 0.01


async def until(condition: Callable[[], Any], *, within_s: float = 10.0, what: str = "") -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    ends_s = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < ends_s, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(POLL_S)


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a session."""

    id: int
    name: str
    cookie: str


class StoreProcess:
    """A store on its own socket, with `appendfsync always`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.folder.mkdir()
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = embedded_store.find_server()
        assert binary is not None
        with (self.folder / "log").open("ab") as log:
            command = embedded_store.command(binary, folder=self.folder, socket=self.socket)
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        ready = embedded_store.wait_until_ready(self.url, deadline_s=START_DEADLINE_S)
        assert ready, (self.folder / "log").read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        _kill(self.process)


class Site:
    """One server process, its store and its address."""

    def __init__(
        self,
        folder: Path,
        *,
        application: str = "",
        database_url: str = "",
        redis_url: str = "",
        **policy: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store = StoreProcess(folder)
        self.listener = server.bind("127.0.0.1", 0)  # the socket options are part of what is tested
        self.listener.listen(server.BACKLOG)
        self.port: int = self.listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"ws://127.0.0.1:{self.port}/ws/chat/"
        self.process: subprocess.Popen[bytes] | None = None
        self._policy = policy
        self._application = application
        self._database = folder / _database_file()
        self._database_url = database_url or _database_url(self._database)
        self._redis_url = redis_url

    # Processes

    def start(self) -> Site:
        self._link_database()
        self.store.start()
        self.store.wait_until_ready()
        self.start_server()
        self.wait_until_served()
        return self

    def start_server(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                server.command(fd=self.listener.fileno()),
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=environment.BASE_DIR,
                pass_fds=(self.listener.fileno(),),
            )

    def _environment(self) -> dict[str, str]:
        plain = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {
            **plain,
            "DATA_DIR": str(self.folder),
            "DATABASE_URL": self._database_url,
            "REDIS_URL": self._redis_url or self.store.url,
            "SITE_URL": f"{self.origin},http://localhost:{self.port}",
            "DJANGO_SECRET_KEY": settings.SECRET_KEY,
            "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
            "MESSAGING_FOR_TESTS": json.dumps(self._policy),
            "APPLICATION_FOR_TESTS": self._application,
            "PYTHONPATH": str(environment.BASE_DIR),
        }

    def wait_until_served(self) -> None:
        ends_s = time.monotonic() + START_DEADLINE_S
        while self.check() == 0:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            assert time.monotonic() < ends_s, self.log
            time.sleep(POLL_S)

    def check(self, *, cookie: str = "", origin: str = "") -> int:
        """Return the status of `GET /ws/chat/check/`, 0 while nobody answers."""
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        headers = {name: value for name, value in (("Cookie", cookie), ("Origin", origin)) if value}
        try:
            asked.request("GET", "/ws/chat/check/", headers=headers)
            return asked.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            asked.close()

    def kill_server(self) -> None:
        _kill(self.process)

    async def restart_server(self) -> None:
        """Kill the server with -9 and wait until another answers in its place."""
        await asyncio.to_thread(self.kill_server)
        self.start_server()
        await asyncio.to_thread(self.wait_until_served)

    async def restart_store(self) -> None:
        """Kill the store with -9 and wait until another answers with what the first one had on disk."""
        await asyncio.to_thread(self.store.kill)
        self.store.start()
        await asyncio.to_thread(self.store.wait_until_ready)

    def end(self) -> None:
        self._end_server()
        self.store.kill()
        self.listener.close()

    def _end_server(self) -> None:
        """Kill the server. Where coverage is measured it is terminated first, because it writes its lines when it exits."""
        if "COVERAGE_PROCESS_START" in os.environ and self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(START_DEADLINE_S)
        self.kill_server()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def faults(self) -> list[str]:
        """Return what no test expects in a server's log."""
        # A 503 is named as an error by Django when the database is away; a missing store by the channel layer.
        expected = ("Service Unavailable", "ERROR channels_redis.pubsub")
        words = ("traceback", "Traceback", " ERROR ", " CRITICAL ", "never retrieved")
        return [
            line
            for line in self.log.splitlines()
            if any(word in line for word in words) and not any(word in line for word in expected)
        ]

    def forgive(self) -> None:
        """Forget the faults so far: the test made them."""
        (self.folder / "log").write_text("")

    def sockets_of(self, client_port: int) -> list[str]:
        """Return the states of the server's TCP connections with a client's port, also where no process holds them any more."""
        return [
            connection.status
            for connection in psutil.net_connections("tcp4")
            if connection.laddr.port == self.port
            and connection.raddr
            and connection.raddr.port == client_port
        ]

    async def announce(self, kind: str, **fields: Any) -> None:
        """Send a control event as another process of the site would."""
        layer = RedisPubSubChannelLayer(hosts=[f"{self.store.url}?db=2"], prefix="chat")
        await layer.group_send("control", {"type": f"control.{kind}", **fields})
        await layer.flush()

    # The database

    def _link_database(self) -> None:
        if connection.vendor == "sqlite":
            self._database.symlink_to(connection.settings_dict["NAME"])
        elif folder := _socket_folder():
            self._database.symlink_to(folder / self._database.name)

    def let_writes_end(self) -> None:
        """Wait until nobody writes: on PostgreSQL the emptying of the tables and a write would each wait for the other."""
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        )
        ends_s = time.monotonic() + START_DEADLINE_S
        quiet = 0
        while connection.vendor == "postgresql" and quiet < 2 and time.monotonic() < ends_s:
            with connection.cursor() as cursor:
                cursor.execute(f"{others} AND pid <> pg_backend_pid()")
                quiet = 0 if cursor.fetchone()[0] else quiet + 1
            time.sleep(POLL_S)

    def take_database_away(self) -> None:
        """Put a directory where the server's way to the database was: nothing can be opened there."""
        if not self._database.is_symlink():
            pytest.skip("only a PostgreSQL at a socket of this machine can be taken away")
        self._database.rename(self.folder / "away")
        self._database.mkdir()

    def bring_database_back(self) -> None:
        self._database.rmdir()
        (self.folder / "away").rename(self._database)


class Neighbour(Site):
    """Another server process of a site, at its own address. It knows only what the store tells it."""

    def __init__(self, site: Site, folder: Path) -> None:
        super().__init__(folder, **site._policy)
        self.store = site.store

    def start(self) -> Neighbour:
        self._link_database()
        self.start_server()
        self.wait_until_served()
        return self

    def end(self) -> None:
        self._end_server()
        self.listener.close()


class Browser:
    """The pages of somebody who is logged in. Synchronous."""

    def __init__(self, site: Site, who: Person) -> None:
        self.site = site
        self.cookie = who.cookie

    def post(self, path: str, **fields: str) -> int:
        """Fill in the form of a page and send it; return the status."""
        return int(self.submit(path, **fields).status)

    def submit(self, path: str, **fields: str) -> Any:
        """Fill in the form of a page and send it; return the answer."""
        page = self._open(path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.read().decode())
        assert token is not None
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token.group(1), **fields}).encode()
        return self._open(path, data=data, Cookie=self._with_csrf(page))

    def call(self, method: str, path: str, **fields: Any) -> int:
        """Use the JSON side as the chat's page does; return the status."""
        page = self._open("/")
        cookie = self._with_csrf(page)
        token = cookie.partition("csrftoken=")[2]
        headers = {"Cookie": cookie, "X-CSRFToken": token, "Content-Type": "application/json"}
        return int(self._open(path, method=method, data=json.dumps(fields).encode(), **headers).status)

    def get(self, path: str) -> Any:
        """Return the answer of the JSON interface."""
        return json.loads(self._open(path).read())

    def _with_csrf(self, page: Any) -> str:
        given = [value.split(";")[0] for value in page.headers.get_all("Set-Cookie") or []]
        return "; ".join([self.cookie, *(pair for pair in given if pair.startswith("csrftoken="))])

    def _open(
        self, path: str, *, method: str | None = None, data: bytes | None = None, **headers: str
    ) -> Any:
        headers = {"Cookie": self.cookie, "Origin": self.site.origin, **headers}
        address = self.site.origin + path
        return urllib.request.urlopen(
            urllib.request.Request(address, data, headers, method=method), timeout=10
        )


# Rows


def person(name: str) -> Person:
    """Make a user with a session."""
    user = get_user_model().objects.create_user(username=name, password=f"password of {name}")
    return Person(user.pk, name, session_of(user))


def session_of(user: Any) -> str:
    """Log a user in; return the Cookie header."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}"


def people(*names: str) -> list[Person]:
    return [person(name) for name in names]


def room(*members: Person, kind: str = "public", name: str = "atlas", **fields: Any) -> str:
    """Make a room with its members; return its id. The store hears of it at the first `hello`."""
    row = Room.objects.create(name=name, kind=kind, **fields)
    Membership.objects.bulk_create([Membership(room=row, user_id=member.id) for member in members])
    return row.id


def add_row(room_id: str, member: Person) -> None:
    """Write a membership, and nothing else: no event, nothing in the store."""
    Membership.objects.create(room_id=room_id, user_id=member.id)


def remove_row(room_id: str, member: Person) -> None:
    """Delete a membership, and nothing else."""
    Membership.objects.filter(room_id=room_id, user_id=member.id).delete()


def later(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which uses the database, for a test that is a coroutine."""
    return sync_to_async(function)


def shake_hands(site: Site, headers: Sequence[tuple[str, str]], *, path: str = "/ws/chat/") -> int:
    """Ask for a WebSocket with exactly these headers and the necessary ones; return the HTTP status."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{site.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers),
    ]
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as asked:
        asked.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return int(asked.recv(4096).split(b" ", 2)[1])


def _database_url(link: Path) -> str:
    """Return the address of the test run's database, for another process: by `link`, where that is one."""
    if connection.vendor == "sqlite":
        return f"sqlite:///{link}"
    fields = connection.settings_dict
    who = f"{fields['USER']}:{fields['PASSWORD']}"
    folder = link.parent if link.is_symlink() else _socket_folder()
    if folder:
        return f"postgres://{who}@/{fields['NAME']}?host={folder}&port={_postgres_port()}"
    return f"postgres://{who}@{fields['HOST']}:{_postgres_port()}/{fields['NAME']}"


def _socket_folder() -> Path | None:
    """Return where PostgreSQL's socket is, None when the test run reaches it over the network."""
    host = connection.settings_dict["OPTIONS"].get("host", "")
    return Path(host) if host.startswith("/") else None


def _database_file() -> str:
    return "db.sqlite3" if connection.vendor == "sqlite" else f".s.PGSQL.{_postgres_port()}"


def _postgres_port() -> int:
    fields = connection.settings_dict
    return int(fields["OPTIONS"].get("port") or fields["PORT"] or 5432)


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
