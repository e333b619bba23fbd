"""The systems that are measured: the command of each, and what of the load generator speaks to it. bench/starting.py starts them."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a system runs: its own folder, port and store."""

    folder: Path
    port: int
    store_url: str
    fsync: str
    site: Path  # the seeded site of this project


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One line of the table. `client`: the generator's client; `site`: it is this project's; `needs`: what else must be installed.

    `stores`: what the store's setting changes; `only`: the start of the names of the scenarios that it is measured in.
    """

    name: str
    title: str
    client: str
    command: Callable[[Place], list[str]]
    env: Callable[[Place], dict[str, str]]
    cwd: Path = ROOT
    site: bool = False
    needs: str = ""
    stores: bool = True
    only: str = ""


def plain_env() -> dict[str, str]:
    """Return an environment without the settings of the person who measures."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def site_env(folder: Path, store_url: str) -> dict[str, str]:
    """Return what a command of this project's site in `folder` needs."""
    return {
        **plain_env(),
        "DATA_DIR": str(folder),
        "REDIS_URL": store_url,
        "DJANGO_SECRET_KEY": (folder / "secret-key").read_text(),
        "MESSAGING_RATE_LIMIT_SCALE": "1000000",
    }


def _chat_env(place: Place) -> dict[str, str]:
    shutil.copytree(place.site, place.folder / "site")
    return site_env(place.folder / "site", place.store_url)


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


def _mosquitto(place: Place) -> list[str]:
    """Write the broker's configuration: persistent, as often as it can be.

    It has no setting that writes each message before it is acknowledged: with autosave_on_changes and an interval of 1 it writes
    its whole database in the turn after a change, else once a second.
    """
    lines = {
        "listener": f"{place.port} 127.0.0.1",
        "allow_anonymous": "true",
        "set_tcp_nodelay": "true",
        "max_queued_messages": "0",  # else it drops above 1,000
        "persistence": "true",
        "persistence_location": f"{place.folder}/",
        "autosave_on_changes": "true" if place.fsync == "always" else "false",
        "autosave_interval": "1",
        "log_type": "error",
    }
    if os.geteuid() == 0:
        lines["user"] = "root"  # else it becomes another user, to whom the folder is closed
    file = place.folder / "mosquitto.conf"
    file.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    return [str(found("mosquitto")), "-c", str(file)]


def found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


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
            name="spike",
            title="its bare hot path (spike)",
            client="spike",
            command=_uvicorn,
            env=lambda place: {"STORE_URL": place.store_url},
            cwd=PEERS / "spike",
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
            stores=False,
        ),
        System(
            name="mosquitto",
            title="Mosquitto, MQTT 5 QoS 1, persistent sessions",
            client="mqtt",
            command=_mosquitto,
            env=lambda place: {},
            needs="mosquitto",
            only="pairs",
        ),
        System(
            name="chat-2",
            title="this server, two processes",
            client="chat",
            command=_chat(2),
            env=_chat_env,
            site=True,
            only="check",
        ),
    )
}
PEERED = [name for name in SYSTEMS if name != "chat-2"]  # those that are compared
