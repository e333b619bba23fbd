"""Measure: start each system in turn on the same core, load it, repeat interleaved, compare the figures with the targets.

`bench/run [--systems a,b] [--scenarios x,y] [--parts p,q] [--repeats N] [--seconds S] [--stores always,everysec]`; QUICK=1 for a
first look; `--check` only shows that this server, one process and two, and its bare hot path deliver: small, and no figure decides.
Absolute figures differ by a factor of two between machines and hours: only ratios within one run count.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.parts.all_parts import PARTS, SHAPES, Bench, measure, say
from bench.processes import CORES, CannotMeasure
from bench.report import markdown, targets
from bench.report.results import line, loads, sound, summarise, table
from bench.scenarios import BOTH_STORES, CHECKS, CLOSED, PEAK, RATED, SCENARIOS, load, rate_of
from bench.starting import running, store_on
from bench.systems import PEERED, ROOT, SYSTEMS, site_env

RESULTS = ROOT / "bench" / "results"
STORES = ("always", "everysec")
CHECKED = ["chat", "chat-2", "spike"]
QUICK_SYSTEMS = [name for name in PEERED if name != "tutorial-core"]
QUICK_PARTS = ["acks"]


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    if len(CORES) < 2:
        print("The server and the load generator need a core each; here is one.")
        return 1
    RESULTS.mkdir(exist_ok=True)
    run: dict[str, Any] = {
        "at": _now(),
        "repeats": options.repeats,
        "seconds": options.seconds,
        "results": [],
        "parts": {},
        "summary": {},
        "took_s": 0,
    }
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-site-") as folder:
        bench = _seeded(Path(folder), options)
        for _ in _phases(options, bench, run):
            run["took_s"] = round(time.monotonic() - started_s)
            run["summary"] = _summary(options, run["results"])
            run["verdicts"] = [dataclasses.asdict(verdict) for verdict in targets.verdicts(run)]
            options.out.write_text(json.dumps(run, indent=1) + "\n")
    for fsync, summary in run["summary"].items():
        print(f"\n## appendfsync {fsync}\n{table(summary)}")
    if not options.check:
        print(f"\n{targets.table(targets.verdicts(run))}\n\nIt took {run['took_s']} s.")
    if options.write:
        markdown.write(run, [say(name, found) for name, found in run["parts"].items()])
    own = [result for result in run["results"] if SYSTEMS[result["system"]].site or options.check]
    return 0 if all(map(sound, own)) else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    quick = bool(os.environ.get("QUICK"))
    parser = argparse.ArgumentParser(prog="bench/run", description="Measure this server and its peers.")
    parser.add_argument("--systems", type=_names(SYSTEMS), default=QUICK_SYSTEMS if quick else PEERED)
    parser.add_argument(
        "--scenarios", type=_names(SCENARIOS), default=BOTH_STORES if quick else [*CLOSED, *RATED]
    )
    parser.add_argument("--parts", type=_names(PARTS), default=QUICK_PARTS if quick else list(PARTS))
    parser.add_argument("--repeats", type=int, default=1 if quick else 3)
    parser.add_argument("--seconds", type=float, default=1.0 if quick else 1.5)
    parser.add_argument(
        "--stores", type=_names(dict.fromkeys(STORES)), default=["always"] if quick else STORES
    )
    parser.add_argument("--out", type=Path, default=RESULTS / ("quick.json.tmp" if quick else "latest.json"))
    parser.add_argument(
        "--write",
        action="store_true",
        default=not (quick or arguments),
        help="renew docs/explanation/performance.md and measurements-results.md",
    )
    parser.add_argument(
        "--check", action="store_true", help="small and short: does every message arrive once and in order?"
    )
    options = parser.parse_args(arguments)
    options.quick = quick
    if options.check:
        options.systems, options.scenarios, options.repeats, options.seconds = CHECKED, CHECKS, 1, 1.0
        options.parts, options.stores = [], ["always"]
    return options


def _names(known: dict[str, Any]) -> Any:
    def parse(given: str) -> list[str]:
        names = given.split(",") if given else []
        unknown = set(names) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return parse


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _seeded(folder: Path, options: argparse.Namespace) -> Bench:
    """Make the site's database with the people of all scenarios and parts."""
    shapes = {SCENARIOS[name].crowd for name in options.scenarios}
    shapes.update(shape for part in options.parts for shape in SHAPES[part])
    site = folder / "site"
    site.mkdir()
    (site / "secret-key").write_text("only-for-measuring-" + "x" * 32)  # sessions are bound to it
    with store_on(folder / "store") as (_, path):
        command = [sys.executable, "-m", "bench.fill.people", *sorted(shapes)]
        env = site_env(site, f"unix://{path}")
        seeded = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True)
    crowds = json.loads(seeded.stdout)
    return Bench(site=site, crowds=crowds, repeats=options.repeats, quick=options.quick)


def _phases(options: argparse.Namespace, bench: Bench, run: dict[str, Any]) -> Iterator[None]:
    """Add to the run what is found, in this order: the peers, their latencies at parts of their peaks, this server's parts."""
    results: list[dict[str, Any]] = run["results"]
    closed = [name for name in options.scenarios if not SCENARIOS[name].share]
    rated = [name for name in options.scenarios if SCENARIOS[name].share]
    if "always" in options.stores:
        _take_turns(options, bench, results, closed, "always", options.repeats)
        yield
        peaks = _peaks(results)
        known = [name for name in rated if rate_of(SCENARIOS[name], peaks)]
        for name in set(rated) - set(known):
            print(f"{name}: left out, the peak that it is a part of is not in this run ({PEAK})")
        _take_turns(options, bench, results, known, "always", options.repeats, peaks)
        yield
    for part in options.parts:
        run["parts"][part] = measure(part, bench)
        print(say(part, run["parts"][part]), flush=True)
        yield
    if "everysec" in options.stores:
        both = [name for name in closed if name in BOTH_STORES]
        _take_turns(options, bench, results, both, "everysec", 1)
        yield


def _peaks(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return {system: deliveries a second, saturated}."""
    found: dict[str, list[float]] = {}
    for result in results:
        if result.get("scenario") == PEAK:
            found.setdefault(result["system"], []).append(result["deliveries_s"])
    return {name: statistics.median(figures) for name, figures in found.items()}


def _take_turns(
    options: argparse.Namespace,
    bench: Bench,
    results: list[dict[str, Any]],
    scenarios: Sequence[str],
    fsync: str,
    repeats: int,
    peaks: dict[str, float] | None = None,
) -> None:
    for repeat in range(repeats):
        for name in options.systems:
            mine = [scenario for scenario in scenarios if loads(SCENARIOS[scenario], name)]
            if not mine or (fsync != STORES[0] and not SYSTEMS[name].stores):
                continue
            for result in _measure(name, mine, fsync, options, bench, peaks or {}):
                results.append({**result, "repeat": repeat, "fsync": fsync})
                print(f"{repeat + 1}/{repeats} {fsync:8} {line(results[-1])}", flush=True)


def _measure(
    name: str,
    scenarios: Sequence[str],
    fsync: str,
    options: argparse.Namespace,
    bench: Bench,
    peaks: dict[str, float],
) -> Iterator[dict[str, Any]]:
    """Load one start of one system with every scenario. One that cannot start is reported, never left out silently."""
    try:
        with running(SYSTEMS[name], fsync=fsync, site=bench.site) as system:
            for scenario_name in scenarios:
                scenario = SCENARIOS[scenario_name]
                seconds = max(options.seconds, scenario.seconds)
                rate = rate_of(scenario, peaks)
                found = load(system, scenario, bench.crowds[scenario.crowd], seconds=seconds, rate=rate)
                yield {"system": name, "scenario": scenario_name, "rate": round(rate, 1), **found}
    except CannotMeasure as fault:
        yield {"system": name, "missing_system": str(fault)}


def _summary(options: argparse.Namespace, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return {store setting: {scenario: {system: ...}}} of what was loaded."""
    summary = {}
    for fsync in options.stores:
        of = [result for result in results if result["fsync"] == fsync]
        there = {result.get("scenario") for result in of}
        scenarios = [name for name in options.scenarios if name in there]
        systems = [name for name in options.systems if fsync == STORES[0] or SYSTEMS[name].stores]
        summary[fsync] = summarise(of, systems, scenarios)
    return summary


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
