"""`manage.py server`: one server process, with the flags that the site needs."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from chatsite.run import server

SOCKET_MODE = 0o660  # the proxy's user is in the site's group


class Command(BaseCommand):
    help = "Run one server process behind a proxy or a supervisor. To run everything, use `manage.py serve`."
    requires_system_checks = []  # `serve` and `doctor` check; a restart has no time for it

    def add_arguments(self, parser: CommandParser) -> None:
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--uds", metavar="PATH", help="listen on this unix socket")
        where.add_argument(
            "--fd", type=_descriptor, metavar="N", help="use this inherited listening socket (systemd: 3)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["uds"]:
            _reserve(Path(options["uds"]))
        server.run(uds=options["uds"], fd=options["fd"])


def _reserve(path: Path) -> None:
    """Put a socket with the mode 660 at `path`. uvicorn replaces it and keeps its mode; a new one would be open to all users."""
    try:
        if not path.exists():
            with socket.socket(socket.AF_UNIX) as placeholder:
                placeholder.bind(str(path))
        path.chmod(SOCKET_MODE)
    except OSError as error:
        raise CommandError(f"Cannot listen on {path}: {error.strerror or error}.") from None


def _descriptor(given: str) -> int:
    if not given.isascii() or not given.isdigit():
        raise argparse.ArgumentTypeError(f"a file descriptor must be a whole number, not {given!r}")
    return int(given)
