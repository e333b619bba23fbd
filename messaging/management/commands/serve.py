"""`manage.py serve`: the whole chat on this machine."""

from __future__ import annotations

import argparse
import errno
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from chatsite.run.startup import CannotServe, Options, serve


class Command(BaseCommand):
    help = "Run the whole chat on this machine: store, jobs and server. Ctrl-C stops everything."

    def add_arguments(self, parser: CommandParser) -> None:
        defaults = Options()
        parser.add_argument(
            "--host", default=defaults.host, help="address to listen on (default: %(default)s)"
        )
        parser.add_argument(
            "--port",
            type=_port,
            default=defaults.port,
            help="port to listen on; 0 takes any free port (default: %(default)s)",
        )
        parser.add_argument(
            "--processes",
            type=_processes,
            default=defaults.processes,
            metavar="N",
            help="server processes (default: 1)",
        )
        parser.add_argument(
            "--no-worker",
            action="store_true",
            help="run no jobs, because another machine runs `manage.py worker`",
        )
        parser.add_argument(
            "--no-seed", action="store_true", help="do not create the demo users and rooms on the first run"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = Options(
            host=options["host"],
            port=options["port"],
            processes=options["processes"],
            worker=not options["no_worker"],
            seed=not options["no_seed"],
        )
        try:
            serve(chosen)
        except CannotServe as error:
            self.stderr.write(str(error))
            sys.exit(1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.stderr.write("The disk of DATA_DIR is full: free space on it.")
            sys.exit(1)


def _port(given: str) -> int:
    return _whole(given, 0, 65_535, "the port")


def _processes(given: str) -> int:
    return _whole(given, 1, 64, "the number of processes")


def _whole(given: str, lowest: int, highest: int, name: str) -> int:
    if not given.isascii() or not given.isdigit() or not lowest <= int(given) <= highest:
        raise argparse.ArgumentTypeError(f"{name} must be from {lowest} to {highest}, not {given!r}")
    return int(given)
