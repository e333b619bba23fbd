"""`manage.py drill`: start a separate site, cause failures, and check that no accepted message is lost."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.live import Live
from rich.table import Table

from messaging.drill import report
from messaging.drill.plan import KINDS, MAX_TTL_S, MIN_TTL_S, DrillError, Plan
from messaging.drill.run import Progress, drill
from messaging.management.arguments import duration_s

LINE_INTERVAL_S = 5.0


class Command(BaseCommand):
    help = (
        "Start a separate site, let clients chat over unreliable connections while its processes are killed, and report"
        " whether an accepted message was lost. No other site is changed. The exit code is 1 if a guarantee was broken."
    )
    requires_system_checks: list[str] = []  # the drill tests another site than the one that runs it

    def add_arguments(self, parser: CommandParser) -> None:
        default = Plan()
        whole, share = _whole, _share
        parser.add_argument(
            "--clients",
            type=whole(2, 200),
            default=default.clients,
            metavar="N",
            help="number of clients (default: %(default)s)",
        )
        parser.add_argument(
            "--messages",
            type=whole(1, 1_000_000),
            default=default.messages,
            metavar="N",
            help="number of messages (default: %(default)s)",
        )
        parser.add_argument(
            "--rooms",
            type=whole(1, 100),
            default=default.rooms,
            metavar="N",
            help="number of rooms; every client is in all of them (default: %(default)s)",
        )
        parser.add_argument(
            "--loss", type=share, default=0.0, metavar="P%", help="frames lost in each direction, like 10%%"
        )
        parser.add_argument(
            "--duplicate", type=share, default=0.0, metavar="P%", help="frames delivered twice, like 5%%"
        )
        parser.add_argument(
            "--reorder",
            action="store_true",
            help="delay a tenth of the frames, so that later ones arrive first",
        )
        parser.add_argument(
            "--cut",
            type=whole(0, 1_000),
            default=0,
            metavar="N",
            help="close each client's connection N times",
        )
        parser.add_argument(
            "--kill",
            choices=KINDS,
            action="append",
            default=[],
            help="kill such a process at a random time (SIGKILL); can be repeated",
        )
        parser.add_argument(
            "--seconds",
            type=whole(1, 86_400),
            default=default.seconds,
            metavar="N",
            help="time in which messages are sent (default: %(default)g)",
        )
        parser.add_argument(
            "--seed",
            type=whole(0, 2**53),
            metavar="N",
            help="seed of the random choices (default: a new one for every run)",
        )
        parser.add_argument(
            "--processes", type=whole(1, 64), default=1, metavar="N", help="server processes (default: 1)"
        )
        parser.add_argument(
            "--ttl",
            type=_ttl,
            metavar="T",
            help="lifetime of messages, like 10s or 10s-40s; some clients stay offline for longer, and the sender must be told"
            " who missed a message",
        )
        parser.add_argument(
            "--without-worker", action="store_true", help="run no jobs: with --ttl the drill must fail"
        )
        parser.add_argument(
            "--without-recovery",
            action="store_true",
            help="disable the recovery of the server: the drill must fail",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            plan = _plan(options)
        except DrillError as error:
            raise CommandError(str(error), returncode=2) from None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _as_ctrl_c)
        try:
            with Display(plan, self.stderr.isatty(), self.stderr.write) as display:
                result, site = drill(plan, display.show)
        except DrillError as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            self.stderr.write(f"Interrupted; nothing is left behind. Seed {plan.seed}.")
            sys.exit(1)
        if options["json"]:
            self.stdout.write(json.dumps(report.as_data(result), ensure_ascii=False, indent=2))
        else:
            for line in report.sentences(result):
                self.stdout.write(line)
        if not result.ok:
            self.stderr.write(f"The ledgers and the log of the site are kept in {site.ledgers}.")
            sys.exit(1)


def _as_ctrl_c(*_: object) -> None:
    """End as at Ctrl-C, where asyncio cancels its tasks: an exception from a signal handler could interrupt any of them."""
    signal.raise_signal(signal.SIGINT)


class Display:
    """Progress on standard error: a live table on a terminal, a line every 5 s otherwise."""

    def __init__(self, plan: Plan, terminal: bool, write: Callable[[str], object]) -> None:
        self._plan = plan
        self._write = write
        self._live = Live(console=Console(stderr=True), transient=True) if terminal else None
        self._last_line = ("", 0.0)

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show the progress of the drill."""
        if self._live is not None:
            self._live.update(self._table(progress))
            return
        phase, at_s = self._last_line
        now_s = time.monotonic()
        if progress.phase != phase or now_s - at_s >= LINE_INTERVAL_S:
            self._last_line = progress.phase, now_s
            self._write(", ".join(f"{name} {value}" for name, value in self._rows(progress)))

    def _rows(self, progress: Progress) -> list[tuple[str, str]]:
        plan = self._plan
        deliveries = plan.messages * plan.clients
        return [
            (progress.phase, f"{progress.seconds:.0f} s"),
            ("accepted", f"{progress.accepted}/{plan.messages}"),
            ("held", f"{progress.held}/{deliveries}"),
            *([("missed", str(progress.missed))] if plan.ttl else []),
            ("connected", f"{progress.connected}/{plan.clients}"),
            ("killed", f"{progress.killed}/{len(plan.kill)}"),
            ("frames lost", str(progress.frames_lost)),
        ]

    def _table(self, progress: Progress) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self._rows(progress):
            table.add_row(*row)
        return table


def _plan(options: dict[str, Any]) -> Plan:
    seed = secrets.randbelow(10**9) if options["seed"] is None else options["seed"]
    return Plan(
        clients=options["clients"],
        messages=options["messages"],
        rooms=options["rooms"],
        loss=options["loss"],
        duplicate=options["duplicate"],
        reorder=options["reorder"],
        cut=options["cut"],
        kill=tuple(options["kill"]),
        seconds=float(options["seconds"]),
        seed=seed,
        recovery=not options["without_recovery"],
        processes=options["processes"],
        ttl=options["ttl"],
        worker=not options["without_worker"],
    )


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {highest}, not {text!r}"
            )
        return int(text)

    return parse


def _ttl(text: str) -> tuple[int, int]:
    """Return `10s` as (10, 10) and `10s-2m` as (10, 120)."""
    first, _, last = text.partition("-")
    shortest_s = duration_s(first)
    longest_s = duration_s(last) if "-" in text else shortest_s
    if not MIN_TTL_S <= shortest_s <= longest_s <= MAX_TTL_S:
        raise argparse.ArgumentTypeError(
            f"must be lifetimes from {MIN_TTL_S}s to {MAX_TTL_S}s, like 10s-40s, not {text!r}"
        )
    return shortest_s, longest_s


def _share(text: str) -> float:
    """Return `10%` or `10` as 0.1. Above a half, messages would expire before they get through."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.5:
        raise argparse.ArgumentTypeError(f"must be a share from 0% to 50%, like 10%, not {text!r}")
    return share
