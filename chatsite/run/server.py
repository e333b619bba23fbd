"""The server process: its flags, its listening socket and its command line.

`manage.py server` calls `run`. `serve` and the systemd unit run that command, so the flags are only here.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
from typing import Any

import uvicorn
from django.conf import settings

from chatsite.environment import BASE_DIR

# A peer that acknowledges no bytes for this time is disconnected. The kernel's default is 15 minutes.
TCP_USER_TIMEOUT_MS = 15_000
# The kernel's buffer for a peer that does not read. With the default, 2.9 MB for each socket were measured.
SEND_BUFFER_BYTES = 128 * 1024
BACKLOG = 2_048
GRACE_S = 2  # for open requests at a stop; `serve` stops everything in under 10 s
MAX_FRAME_BYTES = 65_536  # as in docs/protocol.md

FLAGS: dict[str, Any] = {
    "loop": "uvloop",
    "lifespan": "on",
    # One handshake in each turn of the loop, so that a reconnect storm does not delay the other users.
    "http": "chatsite.http_protocol:HttpProtocol",
    "ws": "chatsite.websocket:DirectProtocol",
    "ws_per_message_deflate": False,
    "ws_max_size": MAX_FRAME_BYTES,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "backlog": BACKLOG,
    "timeout_keep_alive": 5,
    "timeout_graceful_shutdown": GRACE_S,
    "proxy_headers": False,  # TRUSTED_PROXY_COUNT decides which header is trusted
    "server_header": False,
    "access_log": False,
    "log_config": None,  # settings.LOGGING applies to every logger
}


def run(*, uds: str | None = None, fd: int | None = None) -> None:
    """Serve on a unix socket or on an inherited listening socket until SIGTERM or SIGINT."""
    _raise_file_limit()
    module, _, name = settings.ASGI_APPLICATION.rpartition(".")
    uvicorn.run(f"{module}:{name}", uds=uds, fd=fd, **FLAGS)


def _raise_file_limit() -> None:
    """Raise the limit on open files to the highest that is allowed: each connection is an open file, and shells set 1,024."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS reports no highest limit and refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))


def command(*, fd: int) -> list[str]:
    """Return the command line of a server process that inherits the listening socket `fd`."""
    return [sys.executable, str(BASE_DIR / "manage.py"), "server", "--fd", str(fd)]


def bind(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket whose accepted sockets have the server's options. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit these. uvicorn treats an inherited descriptor as a unix socket, and uvloop does not set TCP_NODELAY
    # on those: Nagle's algorithm and delayed acknowledgements then delay small frames by 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // 2)  # the kernel doubles it
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
