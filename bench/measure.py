"""Measure: start each system in turn on the same core, load it, repeat interleaved, print one table.

`bench/run [--systems a,b] [--scenarios x,y] [--repeats N] [--seconds S] [--fsync always|everysec]`; QUICK=1 for a first look;
`--check` only shows that this server delivers: small, and no figure decides.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import limits, report
from bench.generator import generate
from bench.systems import (
    ROOT,
    SERVER_CORE,
    SYSTEMS,
    CannotMeasure,
    Running,
    plain_env,
    running,
    store_on,
)

RESULTS = ROOT / "bench" / "results"
WARM_S = 1.0
GENERATOR_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load: the first `senders` of each room of `crowd` keep `window` messages unanswered, or send `rate` a second."""

    name: str
    title: str
    crowd: str
    figure: str  # what is compared
    senders: int
    window: int = 0
    rate: float = 0
    stalled: int = 0  # members of each room that stop reading
    systems: tuple[str, ...] = ()  # only these; none named: all


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="fan-4",
            title="fan-out 1x200, window 4",
            crowd="1x200",
            figure="deliveries_s",
            senders=1,
            window=4,
        ),
        Scenario(
            name="fan-32",
            title="fan-out 1x200, saturated (window 32)",
            crowd="1x200",
            figure="deliveries_s",
            senders=1,
            window=32,
        ),
        Scenario(
            name="pairs-1",
            title="pairs 50x2, window 1",
            crowd="50x2",
            figure="accepted_s",
            senders=2,
            window=1,
        ),
        Scenario(
            name="pairs-4",
            title="pairs 50x2, saturated (window 4)",
            crowd="50x2",
            figure="accepted_s",
            senders=2,
            window=4,
        ),
        *(
            Scenario(
                name=f"rate-{rate}",
                title=f"latency: fan-out 1x200, {rate} messages a second",
                crowd="1x200",
                figure="deliveries_s",
                senders=1,
                rate=rate,
                systems=("chat", "tutorial") if rate < 100 else ("chat",),
            )
            for rate in (5, 25, 250)
        ),
        Scenario(
            name="stalled",
            title="10 of 200 stop reading, 250 messages a second",
            crowd="1x200",
            figure="deliveries_s",
            senders=1,
            rate=250,
            stalled=10,
            systems=("chat",),
        ),
        Scenario(
            name="check-fan",
            title="check: fan-out 1x8",
            crowd="1x8",
            figure="deliveries_s",
            senders=2,
            window=4,
        ),
        Scenario(
            name="check-pairs",
            title="check: pairs 2x2",
            crowd="2x2",
            figure="accepted_s",
            senders=2,
            window=4,
        ),
    )
}
CHECKS = ["check-fan", "check-pairs"]
MEASURED = [name for name in SCENARIOS if name not in CHECKS]


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    if len(os.sched_getaffinity(0)) < 2:
        print("The server and the load generator need a core each; here is one.")
        return 1
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-site-") as folder:
        wanted = [limit for limit in limits.LIMITS if limit.name in options.limits]
        shapes = {SCENARIOS[name].crowd for name in options.scenarios} | {limit.crowd for limit in wanted}
        site, crowds = _seed(Path(folder), shapes)
        results = _measure_all(options, site, crowds)
        found = {}
        for limit in wanted:
            found[limit.name] = limits.measure(
                limit, fsync=options.fsync, site=site, rooms=crowds[limit.crowd]
            )
            print(limits.say(limit.name, found[limit.name]), flush=True)
    summary = summarise(results, options.systems, options.scenarios)
    written = {
        "at": _now(),
        "fsync": options.fsync,
        "repeats": options.repeats,
        "seconds": options.seconds,
        "results": results,
        "summary": summary,
        "limits": found,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")
    print(table(summary))
    if options.write:
        report.write(written, table(summary))
    return 0 if all(sound(result) for result in results if result["system"] == "chat") else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    quick = bool(os.environ.get("QUICK"))
    parser = argparse.ArgumentParser(prog="bench/run", description="Measure this server beside others.")
    parser.add_argument("--systems", type=_names(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--scenarios", type=_names(SCENARIOS), default=MEASURED)
    parser.add_argument("--repeats", type=int, default=1 if quick else 3)
    parser.add_argument("--seconds", type=float, default=2.0 if quick else 5.0)
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always")
    known_limits = {limit.name: limit for limit in limits.LIMITS}
    parser.add_argument("--limits", type=_names(known_limits), default=[] if quick else list(known_limits))
    parser.add_argument("--out", type=Path, default=RESULTS / "latest.json")
    parser.add_argument(
        "--write", action="store_true", default=not (quick or arguments), help="renew docs/performance.md"
    )
    parser.add_argument(
        "--check", action="store_true", help="small and short: does every message arrive once and in order?"
    )
    options = parser.parse_args(arguments)
    if options.check:
        options.systems, options.scenarios, options.repeats, options.seconds = ["chat"], CHECKS, 1, 1.0
        options.limits = []
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


def _seed(folder: Path, shapes: set[str]) -> tuple[Path, dict[str, Any]]:
    """Make the site's database with the people of all scenarios; return its folder and {shape: rooms}."""
    site = folder / "site"
    site.mkdir()
    with store_on(folder / "store") as (_, path):
        env = {
            **plain_env(),
            "DATA_DIR": str(site),
            "REDIS_URL": f"unix://{path}",
            "DJANGO_SECRET_KEY": _key(site),
        }
        command = [sys.executable, "-m", "bench.seeding", *sorted(shapes)]
        seeded = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True)
    return site, json.loads(seeded.stdout)


def _key(site: Path) -> str:
    """Keep a key in the site's folder, where `serve` finds it: sessions are bound to it."""
    key = "only-for-measuring-" + "x" * 32
    (site / "secret-key").write_text(key)
    return key


def _measure_all(options: argparse.Namespace, site: Path, crowds: dict[str, Any]) -> list[dict[str, Any]]:
    results = []
    for repeat in range(options.repeats):
        for name in options.systems:
            for result in _measure(name, options, site, crowds):
                result["repeat"] = repeat
                results.append(result)
                print(f"{repeat + 1}/{options.repeats} {line(result)}", flush=True)
    return results


def _measure(
    name: str, options: argparse.Namespace, site: Path, crowds: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Load one start of one system with every scenario. One that cannot start is reported, never left out silently."""
    try:
        with running(SYSTEMS[name], fsync=options.fsync, site=site) as system:
            for scenario_name in options.scenarios:
                scenario = SCENARIOS[scenario_name]
                if scenario.systems and name not in scenario.systems:
                    continue
                measured = load(system, scenario, crowds[scenario.crowd], seconds=options.seconds)
                yield {"system": name, "scenario": scenario_name, **measured}
    except CannotMeasure as fault:
        yield {"system": name, "missing_system": str(fault)}


def load(system: Running, scenario: Scenario, rooms: Any, *, seconds: float) -> dict[str, Any]:
    """Run the generator once; return its report."""
    plan = {
        "system": system.system.client,
        "port": system.port,
        "rooms": rooms,
        "senders": scenario.senders,
        "window": scenario.window,
        "rate": scenario.rate,
        "stalled": scenario.stalled,
        "warm_s": WARM_S,
        "seconds": seconds,
        "pids": system.pids(),
        "core": SERVER_CORE,
    }
    return generate("main.mjs", plan, patience_s=GENERATOR_PATIENCE_S + seconds)


def sound(result: dict[str, Any]) -> bool:
    """Say whether every message came once and in order: speed without delivery is an error."""
    if "missing_system" in result:
        return False
    faults = ("missing", "twice", "unordered", "unanswered", "closed")
    return not any(result[fault] for fault in faults) and not result["errors"]


def line(result: dict[str, Any]) -> str:
    if "missing_system" in result:
        return f"{result['system']:17} MISSING: {result['missing_system']}"
    text = (
        f"{result['system']:17} {result['scenario']:8} {result['accepted_s']:7,} accepted/s {result['deliveries_s']:9,}"
        f" deliveries/s  p50 {result['delivery_ms']['p50']} p99 {result['delivery_ms']['p99']} ms  cpu {result['cpu']}"
    )
    if not sound(result):
        faults = {
            name: result[name] for name in ("missing", "twice", "unordered", "unanswered", "closed", "errors")
        }
        text += f"  FAULTS {faults}"
    return text + ("  the generator is the limit" if result["generator_is_the_limit"] else "")


def summarise(results: list[dict[str, Any]], systems: list[str], scenarios: list[str]) -> dict[str, Any]:
    """Return {scenario: {system: medians, spread and the ratio of this server to it}}; ratios are of the same repeat."""
    summary: dict[str, Any] = {}
    for name in scenarios:
        figure = SCENARIOS[name].figure
        named = SCENARIOS[name].systems
        by_system = {
            system: [r for r in results if r["system"] == system and r.get("scenario") == name]
            for system in systems
            if not named or system in named
        }
        own = {r["repeat"]: r[figure] for r in by_system.get("chat", [])}
        summary[name] = {
            system: _row(found, figure, own) if found else {"missing": True}
            for system, found in by_system.items()
        }
    return summary


def _row(found: list[dict[str, Any]], figure: str, own: dict[int, float]) -> dict[str, Any]:
    ratios = [own[r["repeat"]] / r[figure] for r in found if r["repeat"] in own and r[figure]]
    figures = [r[figure] for r in found]
    return {
        figure: statistics.median(figures),
        "least": min(figures),
        "most": max(figures),
        "p50_ms": _median(r["delivery_ms"]["p50"] for r in found),
        "p99_ms": _median(r["delivery_ms"]["p99"] for r in found),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
        "ratio_least": round(min(ratios), 2) if ratios else None,
        "ratio_most": round(max(ratios), 2) if ratios else None,
        "sound": all(sound(r) for r in found),
        "generator_is_the_limit": any(r["generator_is_the_limit"] for r in found),
    }


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 1) if known else None


def table(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown: one table a scenario."""
    lines = []
    for name, rows in summary.items():
        scenario = SCENARIOS[name]
        unit = "deliveries/s" if scenario.figure == "deliveries_s" else "accepted/s"
        lines += ["", f"### {scenario.title}", ""]
        lines += [
            f"| system | {unit} (least-most) | p50, p99 ms | this server is (spread) | notes |",
            "|---|---|---|---|---|",
        ]
        lines += [_table_row(system, row, scenario.figure) for system, row in rows.items()]
    return "\n".join(lines)


def _table_row(system: str, row: dict[str, Any], figure: str) -> str:
    title = SYSTEMS[system].title
    if row.get("missing"):
        return f"| {title} | missing: it did not start here | | | |"
    ratio = (
        ""
        if system == "chat" or row["ratio"] is None
        else f"{row['ratio']}x ({row['ratio_least']}-{row['ratio_most']})"
    )
    notes = [] if row["sound"] else ["lost, repeated or refused messages"]
    notes += ["the generator was the limit"] if row["generator_is_the_limit"] else []
    spread = f"{row['least']:,.0f}-{row['most']:,.0f}"
    return f"| {title} | {row[figure]:,.0f} ({spread}) | {row['p50_ms']}, {row['p99_ms']} | {ratio} | {'; '.join(notes)} |"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
