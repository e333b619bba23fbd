"""Two server processes compared with one. On two cores the load generator uses part of both; its share is reported."""

from __future__ import annotations

from typing import Any

from bench.parts.stress import Start, reliable
from bench.processes import CORES, GENERATOR_CORE, MANY
from bench.report.results import median
from bench.scenarios import SCENARIOS, load

NAMES = ("pairs-4", "fan-32")
SECONDS = 2.0
SHARED = MANY == CORES
SHAPES = {"processes": tuple({SCENARIOS[name].crowd for name in NAMES})}


def processes(starts: dict[int, Start], crowds: dict[str, Any], *, repeats: int) -> dict[str, Any]:
    """Load one and two processes in turn, all of them free to use the same cores; CPU is in cores."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {name: {1: [], 2: []} for name in NAMES}
    cores = CORES if SHARED else (GENERATOR_CORE,)
    for _ in range(repeats):
        for count, start in starts.items():
            with start() as system:
                for name in NAMES:
                    rooms = crowds[SCENARIOS[name].crowd]
                    result = load(system, SCENARIOS[name], rooms, seconds=SECONDS, cores=cores)
                    found[name][count].append(reliable(result))
    return {
        "cores": len(MANY),
        "shared": SHARED,
        "rows": [{"scenario": name, **_row(SCENARIOS[name].figure, found[name])} for name in NAMES],
    }


def _row(figure: str, by_count: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    ones, twos = by_count[1], by_count[2]
    used = ("server", "store", "generator")
    return {
        "one": median([one[figure] for one in ones], 0),
        "two": median([two[figure] for two in twos], 0),
        "ratio": median([two[figure] / one[figure] for one, two in zip(ones, twos, strict=True)], 2),
        "one_cpu": {name: median([one["cpu"][name] for one in ones], 2) for name in used},
        "two_cpu": {name: median([two["cpu"][name] for two in twos], 2) for name in used},
    }


def say(name: str, found: dict[str, Any]) -> str:
    """Return what was found as a sentence."""
    rows = "; ".join(
        f"{SCENARIOS[row['scenario']].title}: {row['one']:,.0f} and {row['two']:,.0f} {SCENARIOS[row['scenario']].unit}"
        f" ({row['ratio']} times; with two the server used {row['two_cpu']['server']} cores, the store"
        f" {row['two_cpu']['store']}, the generator {row['two_cpu']['generator']})"
        for row in found["rows"]
    )
    where = (
        "on all cores, which the generator shares"
        if found["shared"]
        else f"on {found['cores']} cores of the server's"
    )
    return f"One process and two, {where}. {rows}."
