"""`manage.py drill`: injure a site of its own and look whether anything that was accepted is lost."""

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
from messaging.drill.plan import KINDS, TTL_HIGHEST_S, TTL_LOWEST_S, DrillError, Plan
from messaging.drill.run import Progress, drill
from messaging.management.arguments import duration_s

LINE_EVERY_S = 5.0


class Command(BaseCommand):
    help = (
        "Start a site of its own, let clients talk over bad lines while its processes are killed, and say whether anything"
        " that was accepted was lost. It touches no other site. Exit code 1 when a promise was broken."
    )
    requires_system_checks: list[str] = []  # the site that runs it is not the one that it tries

    def add_arguments(self, parser: CommandParser) -> None:
        usual = Plan()
        whole, share = _whole, _share
        parser.add_argument(
            "--clients", type=whole(2, 200), default=usual.clients, metavar="N", help="default: %(default)s"
        )
        parser.add_argument(
            "--messages",
            type=whole(1, 1_000_000),
            default=usual.messages,
            metavar="N",
            help="default: %(default)s",
        )
        parser.add_argument(
            "--rooms",
            type=whole(1, 100),
            default=usual.rooms,
            metavar="N",
            help="everybody is in each (default: %(default)s)",
        )
        parser.add_argument(
            "--loss", type=share, default=0.0, metavar="P%", help="frames lost in each direction, like 10%%"
        )
        parser.add_argument(
            "--duplicate", type=share, default=0.0, metavar="P%", help="frames that come twice, like 5%%"
        )
        parser.add_argument(
            "--reorder", action="store_true", help="delay a tenth of the frames, so that later ones overtake"
        )
        parser.add_argument(
            "--cut", type=whole(0, 1_000), default=0, metavar="N", help="cut each client's connection N times"
        )
        parser.add_argument(
            "--kill",
            choices=KINDS,
            action="append",
            default=[],
            help="kill -9 one at a random time; may be given again",
        )
        parser.add_argument(
            "--seconds",
            type=whole(1, 86_400),
            default=usual.seconds,
            metavar="N",
            help="time to send in (default: %(default)g)",
        )
        parser.add_argument(
            "--seed", type=whole(0, 2**53), metavar="N", help="of the dice (default: another each time)"
        )
        parser.add_argument(
            "--processes", type=whole(1, 64), default=1, metavar="N", help="server processes (default: 1)"
        )
        parser.add_argument(
            "--ttl",
            type=_ttl,
            metavar="T",
            help="let messages live so long only, like 10s or 10s-40s, and keep some people away for longer: whoever missed one"
            " must be named to its sender",
        )
        parser.add_argument(
            "--without-worker", action="store_true", help="run no jobs: with --ttl this must fail"
        )
        parser.add_argument(
            "--without-recovery", action="store_true", help="switch the server's recovery off: this must fail"
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
                found, site = drill(plan, display.show)
        except DrillError as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            self.stderr.write(f"Broken off; nothing is left behind. Seed {plan.seed}.")
            sys.exit(1)
        if options["json"]:
            self.stdout.write(json.dumps(report.as_data(found), ensure_ascii=False, indent=2))
        else:
            for line in report.sentences(found):
                self.stdout.write(line)
        if not found.ok:
            self.stderr.write(f"The ledgers and the site's log are kept in {site.ledgers}.")
            sys.exit(1)


def _as_ctrl_c(*_: object) -> None:
    """End as at Ctrl-C, at which asyncio cancels: an exception out of nothing would tear whatever task is at work."""
    signal.raise_signal(signal.SIGINT)


class Display:
    """Progress on standard error: a live table on a terminal, a line each 5 s otherwise."""

    def __init__(self, plan: Plan, terminal: bool, write: Callable[[str], object]) -> None:
        self._plan = plan
        self._write = write
        self._live = Live(console=Console(stderr=True), transient=True) if terminal else None
        self._told = ("", 0.0)

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the drill is."""
        if self._live is not None:
            self._live.update(self._table(progress))
            return
        phase, at_s = self._told
        now_s = time.monotonic()
        if progress.phase != phase or now_s - at_s >= LINE_EVERY_S:
            self._told = progress.phase, now_s
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
    def parse(given: str) -> int:
        if not given.isascii() or not given.isdigit() or not lowest <= int(given) <= highest:
            raise argparse.ArgumentTypeError(f"a whole number from {lowest} to {highest}, not {given!r}")
        return int(given)

    return parse


def _ttl(given: str) -> tuple[int, int]:
    """Return `10s` as (10, 10) and `10s-2m` as (10, 120)."""
    first, _, last = given.partition("-")
    shortest_s = duration_s(first)
    longest_s = duration_s(last) if "-" in given else shortest_s
    if not TTL_LOWEST_S <= shortest_s <= longest_s <= TTL_HIGHEST_S:
        raise argparse.ArgumentTypeError(
            f"lives from {TTL_LOWEST_S}s to {TTL_HIGHEST_S}s, like 10s-40s, not {given!r}"
        )
    return shortest_s, longest_s


def _share(given: str) -> float:
    """Return `10%` or `10` as 0.1; over half nothing would get through in a lifetime."""
    text = given.removesuffix("%")
    try:
        share = float(text) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.5:
        raise argparse.ArgumentTypeError(f"a share from 0% to 50%, like 10%, not {given!r}")
    return share
