"""`manage.py server`, started as the documents say: the same flags as under `serve`."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.sync.client import unix_connect

from chatsite.environment import BASE_DIR
from chatsite.run import server
from chatsite.run.children import wait_for
from tests.support.sites import Site

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0  # TimeoutStopSec of the unit
REPORT = "tests.support.server_report.application"


def units(command: str) -> list[list[str]]:
    """Return the words of each documented `ExecStart` that runs `manage.py <command>`."""
    pages = "\n".join(path.read_text() for path in sorted((BASE_DIR / "docs").rglob("*.md")))
    lines = re.findall(r"^ExecStart=(.*)$", pages.replace("\\\n", " "), re.MULTILINE)
    return [words for words in map(shlex.split, lines) if words[1:3] == ["manage.py", command]]


def documented(address: Path) -> list[str]:
    """Return the documented command of the server: with this Python, and its socket at `address`."""
    [words] = units("server")
    assert words[0].endswith("/python")
    at = words.index("--uds") + 1
    return [sys.executable, *words[1:at], str(address), *words[at + 1 :]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **plain,
        "DATA_DIR": str(folder),
        "DJANGO_SECRET_KEY": "only-for-tests",
        "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
        "PYTHONPATH": str(BASE_DIR),
        **more,
    }


@contextmanager
def running(command: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=BASE_DIR, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def report(address: str) -> dict[str, Any]:
    with unix_connect(address, "ws://localhost/") as connection:
        told: dict[str, Any] = json.loads(connection.recv(timeout=START_DEADLINE_S))
    return told


def answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


def test_the_documented_unit_and_serve_run_the_same_server(tmp_path: Path) -> None:
    env = environment(tmp_path, APPLICATION_FOR_TESTS=REPORT)
    by_unit, by_serve = tmp_path / "unit.sock", tmp_path / "serve.sock"
    with running(documented(by_unit), tmp_path, env=env):
        assert wait_for(lambda: answers(str(by_unit)), deadline_s=START_DEADLINE_S)
        documented_report = report(str(by_unit))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(by_serve))
        listener.listen()
        fd = listener.fileno()
        with running(server.command(fd=fd), tmp_path, env=env, pass_fds=(fd,)):
            serve_report = report(str(by_serve))
    assert documented_report["http_protocol_class"] == "HttpProtocol"
    assert documented_report["ws_protocol_class"] == "DirectProtocol"
    assert documented_report["loop"] == "uvloop"
    assert documented_report == serve_report
    for name in ("ws_max_size", "backlog", "timeout_graceful_shutdown", "timeout_keep_alive"):
        assert documented_report[name] == repr(server.FLAGS[name])


def test_no_document_writes_the_flags_again() -> None:
    pages = "\n".join(path.read_text() for path in sorted((BASE_DIR / "docs").rglob("*.md")))
    assert not re.findall(r"(?:^|/)uvicorn --|--ws-max-size|--timeout-graceful", pages, re.MULTILINE)


def test_the_documented_unit_serves_the_site_and_stops_in_time(new_site: Any, tmp_path: Path) -> None:
    site: Site = new_site()
    address = tmp_path / "server.sock"
    with running(
        documented(address), tmp_path, env=site._environment(), stderr=subprocess.DEVNULL
    ) as process:
        assert wait_for(lambda: answers(str(address)), deadline_s=START_DEADLINE_S)
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(address))
            asked.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert asked.recv(4_096).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_DEADLINE_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("left", [None, 0o666])
def test_the_unix_socket_is_open_to_the_group_only(tmp_path: Path, left: int | None) -> None:
    """`left`: the mode of a socket that a killed server of an earlier version has left."""
    address = tmp_path / "server.sock"
    if left is not None:
        with socket.socket(socket.AF_UNIX) as earlier:
            earlier.bind(str(address))
        address.chmod(left)
    env = environment(tmp_path, APPLICATION_FOR_TESTS=REPORT)
    with running(documented(address), tmp_path, env=env):
        assert wait_for(lambda: answers(str(address)), deadline_s=START_DEADLINE_S)
        report(str(address))  # uvicorn sets the mode after it has begun to listen
        assert stat.S_IMODE(address.stat().st_mode) == 0o660


def test_a_socket_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "server", "--uds", str(tmp_path / "missing" / "server.sock")],
        cwd=BASE_DIR, env=environment(tmp_path), capture_output=True, text=True, timeout=START_DEADLINE_S,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("CommandError: Cannot listen on ")
    assert ran.stderr.count("\n") == 1


def test_a_server_raises_its_limit_on_open_files(tmp_path: Path) -> None:
    env = environment(tmp_path, APPLICATION_FOR_TESTS=REPORT)
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    address = tmp_path / "server.sock"

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, highest))

    with running(documented(address), tmp_path, env=env, preexec_fn=lower) as process:
        assert wait_for(lambda: answers(str(address)), deadline_s=START_DEADLINE_S)
        assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (highest, highest)


@pytest.mark.parametrize("arguments", [(), ("--fd", "three"), ("--fd", "3", "--uds", "/tmp/one.sock")])
def test_a_server_needs_exactly_one_place_to_listen(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "server", *arguments],
        cwd=BASE_DIR, env=environment(tmp_path), capture_output=True, text=True, timeout=START_DEADLINE_S,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "--uds" in ran.stderr or "--fd" in ran.stderr
