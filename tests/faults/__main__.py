"""`make faults`: run scenarios, print a table, exit with 1 on any violation. `python -m tests.faults --help` lists the options."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from .cluster import Rows
    from .judge import Verdict
    from .run import Scenario

HEADS = (
    "scenario",
    "injected",
    "accepted",
    "lost",
    "twice",
    "out of order",
    "untold",
    "falsely told",
    "unaccounted",
    "other",
    "missed and told",
    "longest repair (s)",
    "last told (s)",
    "verdict",
)
QUICK_AT_ONCE = 6


def main() -> int:
    options = _options()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from . import cluster, mutations, scenarios

    if options.list:
        print("\n".join(f"{one.name:26} {one.injected}" for one in scenarios.SCENARIOS.values()))
        return 0
    known = scenarios.SCENARIOS.keys() | mutations.MUTATIONS.keys()
    unknown = {name for names in options.names for name in names.split("+")} - known
    if unknown:
        print(f"Unknown: {', '.join(sorted(unknown))}. --list names all.", file=sys.stderr)
        return 2
    print(f"Seed {options.seed}.", flush=True)
    rows = cluster.Rows()
    try:
        if options.mutate:
            return asyncio.run(mutations.check(options.names, rows, seed=options.seed))
        return asyncio.run(_run(options, rows))
    finally:
        rows.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; A+B: both at once; default: all")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--quick", action="store_true", help="the quick set only, several scenarios at once")
    parser.add_argument("--pairs", type=float, metavar="S", help="random pairs of faults for S seconds")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.add_argument(
        "--mutate", action="store_true", help="take rules of the code away: scenarios must fail"
    )
    parser.add_argument("--keep", action="store_true", help="keep the ledgers and logs of all runs")
    return parser.parse_args()


async def _run(options: argparse.Namespace, rows: Rows) -> int:
    from . import scenarios
    from .run import run

    results: list[tuple[Scenario, Verdict]] = []
    at_once = asyncio.Semaphore(QUICK_AT_ONCE if options.quick else 1)

    async def one(scenario: Scenario, seed: int) -> None:
        async with at_once:
            started_s = time.monotonic()
            verdict = await run(scenario, rows, seed=seed, keep=options.keep)
        results.append((scenario, verdict))
        if options.table:
            options.table.write_text("\n".join(_markdown(results)) + "\n")
        took = f"({time.monotonic() - started_s:.0f} s, seed {seed})"
        print(_line(_cells(scenario, verdict)), took, flush=True)
        for example in verdict.examples:
            print(f"    {example}", flush=True)

    print(_line(HEADS), flush=True)
    if options.pairs:
        rng, ends_s = random.Random(options.seed), time.monotonic() + options.pairs
        while time.monotonic() < ends_s:
            await one(scenarios.pair(*rng.sample(scenarios.FAULTS, 2)), rng.randrange(10**6))
    else:
        chosen = [scenarios.named(name) for name in options.names or scenarios.SCENARIOS]
        if options.quick:
            chosen = [scenario for scenario in chosen if scenario.quick]
        await asyncio.gather(*(one(scenario, options.seed) for scenario in chosen))
    broken = [scenario.name for scenario, verdict in results if not verdict.ok]
    print(f"Broken: {', '.join(broken)}." if broken else f"All {len(results)} hold.", f"Seed {options.seed}.")
    return 1 if broken else 0


def _cells(scenario: Scenario, verdict: Verdict) -> tuple[str, ...]:
    counts = verdict.counts
    return (
        scenario.name,
        scenario.injected,
        str(verdict.accepted),
        *(str(counts[name]) for name in ("lost", "twice", "out of order", "untold", "falsely told")),
        str(verdict.unaccounted),
        str(counts["other"]),
        str(verdict.missed),
        f"{verdict.repair_s:.1f}",
        f"{verdict.told_s:.0f}",
        "ok" if verdict.ok else verdict.failure or "BROKEN",
    )


def _line(cells: tuple[str, ...]) -> str:
    """Return a line of the terminal's table, without the sentence about the fault."""
    name, _, *rest = cells
    return f"{name:26}" + "".join(
        f"{cell:>{max(8, len(head) + 2)}}" for head, cell in zip(HEADS[2:], rest, strict=True)
    )


def _markdown(results: list[tuple[Scenario, Verdict]]) -> Iterator[str]:
    yield f"| {' | '.join(HEADS)} |"
    yield "|---" * len(HEADS) + "|"
    for scenario, verdict in results:
        yield f"| {' | '.join(_cells(scenario, verdict))} |"


if __name__ == "__main__":
    sys.exit(main())
