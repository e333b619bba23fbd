"""`manage.py serve` with real processes: what it starts, what it restarts, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from chatsite.environment import BASE_DIR
from chatsite.run import children, embedded_store, server, startup
from tests.support.sites import KEPT

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0  # the promise
RESTART_DEADLINE_S = 20.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing of this test run's own settings is left."""
    plain = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**plain, "DATA_DIR": str(folder), **more}


def wait_for(condition: Callable[[], bool], *, deadline_s: float, wanted: str) -> None:
    assert children.wait_for(condition, deadline_s=deadline_s), f"not within {deadline_s} s: {wanted}"


class Served:
    """A running `serve`; its whole output is in a file."""

    def __init__(
        self, folder: Path, *arguments: str, seed: bool = False, before: Sequence[str] = (), **more: str
    ) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *before,
                    *(sys.executable, "manage.py", "serve", "--port", "0"),
                    *(() if seed else ("--no-seed",)),
                    *arguments,
                ],
                cwd=BASE_DIR,
                env=environment(folder, **more),
                stdout=log,
                stderr=log,
                process_group=0,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_until_ready(self) -> Served:
        children.wait_for(
            lambda: self.address or self.process.poll() is not None, deadline_s=START_DEADLINE_S
        )
        assert self.address, self.output
        return self

    @property
    def address(self) -> str:
        match = re.search(r"The chat is at http://(127\.0\.0\.1:\d+)/", self.output)
        return match.group(1) if match else ""

    def status(self) -> int:
        """Return the status of a page, 0 while nobody answers."""
        client = http.client.HTTPConnection(self.address, timeout=10)
        try:
            client.request("GET", "/accounts/login/")
            return client.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            client.close()

    def pids(self, name: str = "") -> list[int]:
        return children.marked(self.folder, name)

    def child(self, name: str) -> int:
        """Return the pid of the child itself, without what it started; 0 while there is none."""
        children_of = [pid for pid in self.pids(name) if parent_of(pid) == self.process.pid]
        return children_of[0] if children_of else 0

    def store(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.folder / "valkey.sock"), db=9)

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """Tell it to stop and return in how many seconds it did."""
        started_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(STOP_DEADLINE_S + 10)
        return time.monotonic() - started_s

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.stop()
        children.end_marked(self.folder, patience_s=0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    children.end_marked(folder, patience_s=0)


@pytest.fixture
def used_folder(folder: Path, site_data: Path) -> Path:
    """Return the data folder of an earlier run: nothing is to be migrated or collected."""
    shutil.copytree(site_data, folder)
    return folder


@pytest.fixture
def served(used_folder: Path) -> Iterator[Served]:
    """Run `serve` on the data of an earlier run."""
    yield from _serve(used_folder)


@pytest.fixture
def served_without_worker(used_folder: Path) -> Iterator[Served]:
    yield from _serve(used_folder, "--no-worker")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, site_data: Path) -> Iterator[Served]:
    """Run one `serve` for the tests that leave it running."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    shutil.copytree(site_data, folder)
    yield from _serve(folder)


def _serve(folder: Path, *arguments: str) -> Iterator[Served]:
    served = Served(folder, *arguments)
    try:
        yield served.wait_until_ready()
    finally:
        served.clean_up()


def manage(
    folder: Path, *arguments: str, before: Sequence[str] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
    )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def parent_of(pid: int) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).ppid()
    return 0


def command_of(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


# ── What runs ──


def test_serve_runs_store_worker_and_server_in_separate_groups_and_keeps_its_files_private(
    folder: Path,
) -> None:
    served = Served(folder)
    try:
        _check_what_runs(served.wait_until_ready())
    finally:
        served.clean_up()


def _check_what_runs(served: Served) -> None:
    assert served.status() == 200
    groups = {name: {os.getpgid(pid) for pid in served.pids(name)} for name in ("store", "server", "worker")}
    assert len(groups["store"]) == 1
    assert len(groups["server"]) == 1
    wait_for(
        lambda: len({os.getpgid(pid) for pid in served.pids("worker")}) == 2,
        deadline_s=10,
        wanted="qcluster's group",
    )
    assert os.getpgid(served.process.pid) not in set.union(*groups.values())
    for name in ("valkey-server", "manage.py server", "qcluster"):
        wait_for(
            lambda name=name: any(name in command_of(pid) for pid in served.pids()),
            deadline_s=10,
            wanted=name,
        )
    assert stat.S_IMODE(served.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((served.folder / "secret-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((served.folder / "valkey.sock").stat().st_mode) & 0o077 == 0
    with served.store() as store:
        expected = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        for name, value in expected.items():
            assert store.config_get(name)[name] == value
        memory = int(store.config_get("maxmemory")["maxmemory"])
        assert embedded_store.MIN_MEMORY_BYTES <= memory < psutil.virtual_memory().total


@pytest.mark.xdist_group("shared")
def test_every_command_takes_the_key_and_the_store_of_the_running_site(shared: Served) -> None:
    ran = manage(shared.folder, "shell", "--no-imports", "-c", _LOOK)
    assert ran.stdout.split() == [(shared.folder / "secret-key").read_text().strip(), "True"], ran.stderr


_LOOK = """
from django.conf import settings
from django_redis import get_redis_connection
print(settings.SECRET_KEY, get_redis_connection("messages").ping())
"""


@pytest.mark.proof
def test_processes_share_one_listening_socket(used_folder: Path) -> None:
    served = Served(used_folder, "--processes", "2", "--no-worker")
    try:
        served.wait_until_ready()
        servers = served.pids("server-1") + served.pids("server-2")
        assert len(servers) == 2
        assert served.pids("worker") == []
        for pid in servers:  # the other one answers
            kill(pid)
            wait_for(lambda: served.status() == 200, deadline_s=RESTART_DEADLINE_S, wanted="an answer")
    finally:
        served.clean_up()


def test_a_port_that_is_closed_a_moment_later_is_waited_for() -> None:
    """An orphan's socket may be open for a moment after the orphan has ended."""
    with socket.create_server(("127.0.0.1", 0)) as orphan:
        port = orphan.getsockname()[1]
        with pytest.raises(startup.CannotServe, match="Something else listens"):
            startup._bind("127.0.0.1", port, patience_s=0)
        threading.Timer(0.3, orphan.close).start()
        startup._bind("127.0.0.1", port, patience_s=10).close()


def test_accepted_sockets_time_out_a_dead_peer_and_buffer_little_for_one_that_does_not_read() -> None:
    with server.bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert (
                accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == server.TCP_USER_TIMEOUT_MS
            )
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= server.SEND_BUFFER_BYTES


# ── Who cannot start ──


def run_serve(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return manage(folder, "serve", "--no-seed", *arguments, **more)


@pytest.mark.xdist_group("shared")
def test_a_second_serve_on_the_same_data_is_refused_in_one_sentence_and_disturbs_nothing(
    shared: Served,
) -> None:
    before = set(shared.pids())
    ran = run_serve(shared.folder, "--port", "0")
    assert ran.returncode == 1
    assert len((ran.stdout + ran.stderr).splitlines()) == 1
    assert str(shared.process.pid) in ran.stderr
    assert before <= set(shared.pids())
    assert shared.status() == 200


def test_a_taken_port_is_refused_in_one_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run_serve(folder, "--port", str(port))
    assert ran.returncode == 1
    assert len((ran.stdout + ran.stderr).splitlines()) == 1
    assert str(port) in ran.stderr
    assert children.marked(folder) == []


def test_a_store_that_does_not_answer_is_named_by_its_variable(folder: Path) -> None:
    ran = run_serve(folder, "--port", "0", REDIS_URL=f"unix://{folder.parent}/nobody.sock")
    assert ran.returncode == 1
    assert len((ran.stdout + ran.stderr).splitlines()) == 1
    assert "REDIS_URL" in ran.stderr


def test_a_store_that_cannot_read_its_own_file_is_given_up_with_a_sentence(folder: Path) -> None:
    log = folder / "store" / "appendonlydir"
    log.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (log / "appendonly.aof.manifest").write_text("nonsense\n")
    ran = run_serve(folder, "--port", "0")
    assert ran.returncode == 1
    assert "The store does not start" in ran.stderr.splitlines()[-1]
    assert children.marked(folder) == []


def test_a_database_that_does_not_answer_is_named_by_its_variable(folder: Path) -> None:
    ran = run_serve(folder, "--port", "0", DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    assert ran.returncode == 1
    assert "DATABASE_URL" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr
    assert children.marked(folder) == []


@pytest.mark.parametrize("arguments", [("--port", "65536"), ("--port", "http"), ("--processes", "0")])
def test_a_nonsense_argument_is_a_usage_error(folder: Path, arguments: tuple[str, str]) -> None:
    ran = run_serve(folder, *arguments)
    assert ran.returncode == 2
    assert arguments[1] in ran.stderr


# ── What dies is started again ──


@pytest.mark.xdist_group("shared")
def test_a_killed_child_is_started_again_and_a_line_reports_it(shared: Served) -> None:
    with shared.store() as store:
        store.set("kept", "before the kill")
    for name in ("server", "worker", "store"):
        old = shared.child(name)
        kill(old)
        wait_for(
            lambda name=name, old=old: shared.child(name) not in (0, old),  # type: ignore[misc]
            deadline_s=1.5,  # within 1 s, and what it takes to see it
            wanted=f"a new {name}",
        )
        assert f"{name} was ended by SIGKILL; starting it again" in shared.output
    wait_for(lambda: shared.status() == 200, deadline_s=RESTART_DEADLINE_S, wanted="the server")
    with shared.store() as store:
        assert children.wait_for(lambda: _holds(store), deadline_s=RESTART_DEADLINE_S), (
            "the store lost what it answered"
        )
    wait_for(lambda: _clusters(shared) == 1, deadline_s=RESTART_DEADLINE_S, wanted="one job cluster")


def _holds(store: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(store.get("kept") == b"before the kill")
    return False


def _clusters(served: Served) -> int:
    """Return how many job clusters run: each is one process group."""
    return len({os.getpgid(pid) for pid in served.pids("worker") if "qcluster" in command_of(pid)})


def test_waits_between_restarts_grow_until_the_child_is_healthy(tmp_path: Path) -> None:
    child = children.Child("store", ["true"], folder=tmp_path, env={}, patience_s=1)
    child._started_mono_s = time.monotonic()
    assert [child.restart_later() for _ in range(9)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    child._started_mono_s -= children.HEALTHY_S + 1
    assert child.restart_later() == 0.2


# ── The end ──


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.proof)])
def test_a_signal_ends_everything_in_time_also_with_a_client_that_does_not_read(
    served: Served, number: signal.Signals
) -> None:
    host, port = served.address.split(":")
    with (
        socket.create_connection((host, int(port))) as mute,
        socket.create_connection((host, int(port))) as half,
    ):
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = b"GET /jsi18n/ HTTP/1.1\r\nHost: %s\r\n\r\n" % served.address.encode()
        for _ in range(50):
            mute.sendall(asked)  # and never reads an answer
        half.sendall(b"GET / HTTP/1.1\r\n")  # and never ends the request
        took_s = served.stop(number)
    assert took_s < STOP_DEADLINE_S
    assert served.process.returncode == 0
    assert served.pids() == []
    assert not (served.folder / "valkey.sock").exists()


def test_a_stop_sends_bye_on_open_sockets_before_it_closes_them(served_without_worker: Served) -> None:
    served = served_without_worker
    with connected(served) as socket_:
        served.process.send_signal(signal.SIGTERM)
        bye = next(frame for frame in frames(socket_) if frame["type"] == "bye")
        assert bye["after_ms"] > 0
        with pytest.raises(ConnectionClosed) as closed:
            list(frames(socket_))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert served.stop() < STOP_DEADLINE_S


@contextlib.contextmanager
def connected(served: Served) -> Iterator[ClientConnection]:
    """Open a socket as a person who is logged in, and say hello."""
    cookie = manage(served.folder, "shell", "--no-imports", "-c", _LOG_IN).stdout.strip()
    with connect(
        f"ws://{served.address}/ws/chat/",
        origin=Origin(f"http://{served.address}"),
        additional_headers={"Cookie": cookie},
    ) as socket_:
        socket_.send(json.dumps({"type": "hello", "v": 1, "rooms": []}))
        assert next(frames(socket_))["type"] == "welcome"
        yield socket_


def frames(socket_: ClientConnection) -> Iterator[dict[str, Any]]:
    while True:
        frame = json.loads(socket_.recv(timeout=STOP_DEADLINE_S))
        yield from frame if isinstance(frame, list) else [frame]


_LOG_IN = """
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
ada = get_user_model().objects.create_user("ada", password="x")
session = SessionStore()
session[SESSION_KEY] = str(ada.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = ada.get_session_auth_hash()
session.save()
print(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")
"""


def test_a_second_ctrl_c_does_not_break_off_the_ordered_stop(served: Served) -> None:
    served.process.send_signal(signal.SIGINT)
    wait_for(lambda: "Stopping." in served.output, deadline_s=5, wanted="the stop to begin")
    served.stop()
    assert served.process.returncode == 0
    assert served.pids() == []


def test_serve_stops_although_nobody_reads_its_output(used_folder: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as unread, os.fdopen(writer, "wb") as end:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--port", "0", "--no-seed", "--no-worker"],
            cwd=BASE_DIR,
            env=environment(used_folder),
            stdout=end,
            stderr=end,
        )
        os.set_blocking(end.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(end.fileno(), b"x" * 4096)  # the pipe is full
        wait_for(
            lambda: bool(children.marked(used_folder, "server")),
            deadline_s=START_DEADLINE_S,
            wanted="the server",
        )
        process.terminate()
        process.wait(3 * STOP_DEADLINE_S)  # that it stops is the rule here; how fast is another test's
        assert unread
    assert process.returncode == 0
    assert children.marked(used_folder) == []


@pytest.mark.proof
def test_next_serve_takes_over_after_a_kill_of_the_supervisor_and_no_message_is_lost(
    used_folder: Path,
) -> None:
    first = Served(used_folder)
    second = None
    try:
        first.wait_until_ready()
        with first.store() as store:
            store.set("kept", "before the kill")
        kill(first.process.pid)
        first.process.wait()
        orphans = set(first.pids())
        assert orphans, "this test is about what a kill leaves behind"
        second = Served(used_folder).wait_until_ready()
        assert not orphans & set(second.pids())
        assert second.status() == 200
        # The worker starts its cluster after the jobs that it runs at once.
        wait_for(lambda: _clusters(second) > 0, deadline_s=START_DEADLINE_S, wanted="a job cluster")
        assert _clusters(second) == 1
        with second.store() as store:
            assert store.get("kept") == b"before the kill"
    finally:
        for served in filter(None, (first, second)):
            served.clean_up()


@pytest.mark.proof
def test_a_live_store_of_unknown_origin_on_the_socket_is_ended_before_ours_starts(used_folder: Path) -> None:
    first = Served(used_folder, "--no-worker").wait_until_ready()
    assert first.stop() < STOP_DEADLINE_S
    files = used_folder / "store"
    stranger = subprocess.Popen(
        embedded_store.command(
            embedded_store.find_server() or Path(), folder=files, socket=used_folder / "valkey.sock"
        ),
        stdout=subprocess.DEVNULL,
    )
    second = None
    try:
        wait_for((used_folder / "valkey.sock").exists, deadline_s=10, wanted="the stranger's socket")
        second = Served(used_folder, "--no-worker").wait_until_ready()
        assert stranger.wait(1) == 0
        assert second.status() == 200
    finally:
        stranger.kill()
        stranger.wait()
        if second is not None:
            second.clean_up()


# ── A full disk ──

# A mount that only this process and its children see. It needs no right where the kernel lets every user make a namespace.
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=100m none "$1" && cp -a "$0"/. "$1" && shift && exec "$@"'


@pytest.mark.proof
@pytest.mark.mount
def test_a_full_disk_is_named_and_the_store_starts_again_when_there_is_space(
    folder: Path, site_data: Path
) -> None:
    folder.mkdir()
    small_disk = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        ON_A_SMALL_DISK,
        str(site_data),
        str(folder),
    ]
    served = Served(folder, before=small_disk).wait_until_ready()
    try:
        inside = Path(f"/proc/{served.process.pid}/root{folder}")
        store = served.child("store")
        fill(inside / "filler")
        wait_for(lambda: "The disk of DATA_DIR is full" in served.output, deadline_s=60, wanted="the reason")
        assert "store ended with" in served.output
        enter = ["nsenter", f"--target={served.process.pid}", "--user", "--mount", "--preserve-credentials"]
        judged = manage(folder, "doctor", before=[*enter, f"--wd={BASE_DIR}"])
        assert "The disk of DATA_DIR is full or nearly full: 0 MB are free." in judged.stdout, judged
        (inside / "filler").unlink()
        wait_for(lambda: served.child("store") not in (0, store), deadline_s=60, wanted="another store")
        wait_for(
            lambda: not manage(folder, "doctor", before=[*enter, f"--wd={BASE_DIR}"]).returncode,
            deadline_s=60,
            wanted="no fault",
        )
    finally:
        served.clean_up()


@pytest.mark.proof
@pytest.mark.mount
@pytest.mark.parametrize("more", [{}, {"DJANGO_SECRET_KEY": "only-for-tests"}])
def test_a_start_on_a_full_disk_is_one_sentence(folder: Path, more: dict[str, str]) -> None:
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$0" && ! head -c 2M /dev/zero 2> /dev/null > "$0/filler" && exec "$@"'
    full_disk = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]
    ran = manage(folder, "serve", "--port", "0", before=full_disk, **more)
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert re.match(r"(The disk of DATA_DIR is full|DATA_DIR cannot be written to: No space left)", line)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1_000)):
            pass


# ── The first run ──


@pytest.mark.proof
def test_the_first_run_prints_log_ins_that_work_and_the_next_run_prints_the_same(folder: Path) -> None:
    printed = []
    for _ in range(2):
        served = Served(folder, "--no-worker", seed=True)
        try:
            served.wait_until_ready()
            wait_for(lambda served=served: "Ctrl-C" in served.output, deadline_s=5, wanted="the log-ins")  # type: ignore[misc]
            printed.append(re.findall(r"og in as (\S+), password (\S+)", served.output))
        finally:
            served.clean_up()
    assert printed[0] == printed[1]
    assert [name for name, _ in printed[0]][-1] == "staff"
    ran = manage(folder, "shell", "--no-imports", "-c", _TRY.format(printed[0]))
    assert ran.stdout.strip() == str([True] * len(printed[0])), ran.stderr


_TRY = """
from django.contrib.auth import authenticate
print([authenticate(username=name, password=password) is not None for name, password in {}])
"""


@pytest.mark.proof
def test_the_first_run_makes_a_message_in_each_state_behind_the_first_page_and_by_hand_none_is_added(
    folder: Path,
) -> None:
    served = Served(folder, seed=True)
    try:
        served.wait_until_ready()
        assert served.status() == 200
        assert "message in each state" not in served.output
        wait_for(lambda: "stays connected and silent" in served.output, deadline_s=40, wanted="the states")
        assert served.child("demo")
        assert " retry " not in served.output, "its attempts are no news"
        accepted = _accepted(folder)
        assert accepted == 8
        by_hand = manage(folder, "seed_demo", "--states", "--force")
        assert (by_hand.returncode, by_hand.stderr.strip()) == (
            0,
            "A message in each state already exists.",
        )
        assert _accepted(folder) == accepted
        os.kill(served.child("demo"), signal.SIGTERM)
        wait_for(lambda: not served.pids("demo"), deadline_s=5, wanted="its end")
        assert served.stop() < STOP_DEADLINE_S
        assert "demo ended" not in served.output
        assert "starting it again" not in served.output
    finally:
        served.clean_up()


def _accepted(folder: Path) -> int:
    told = manage(folder, "messaging_status", "--json")
    return int(json.loads(told.stdout)["last_hour"]["accepted"])
