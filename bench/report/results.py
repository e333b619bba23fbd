"""The results of the loads: whether every message arrived, medians, spread, ratios, and their tables. No load is run here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.scenarios import SCENARIOS, Scenario
from bench.systems import SYSTEMS

FAULTS = ("missing", "twice", "unordered", "unanswered", "closed", "errors")


def sound(result: dict[str, Any]) -> bool:
    """Say whether every message came once and in order: speed without delivery is an error."""
    return "missing_system" not in result and not any(result[fault] for fault in FAULTS)


def line(result: dict[str, Any]) -> str:
    """Return a result in a line."""
    if "missing_system" in result:
        return f"{result['system']:17} MISSING: {result['missing_system']}"
    text = (
        f"{result['system']:17} {result['scenario']:11} {result['accepted_s']:7,} accepted/s {result['deliveries_s']:9,}"
        f" deliveries/s  p50 {result['delivery_ms']['p50']} p99 {result['delivery_ms']['p99']} ms  cpu {result['cpu']}"
    )
    if not sound(result):
        text += f"  FAULTS { {name: result[name] for name in FAULTS if result[name]} }"
    return text + ("  the generator is the limit" if result["generator_is_the_limit"] else "")


def summarise(
    results: Sequence[dict[str, Any]], systems: Iterable[str], scenarios: Iterable[str]
) -> dict[str, Any]:
    """Return {scenario: {system: medians, spread and the ratio of this server to it}}; ratios are of the same repeat."""
    summary: dict[str, Any] = {}
    systems = list(systems)
    for name in scenarios:
        scenario = SCENARIOS[name]
        by_system = {
            system: [r for r in results if r["system"] == system and r.get("scenario") == name]
            for system in systems
            if loads(scenario, system)
        }
        own = {r["repeat"]: r[scenario.figure] for r in by_system.get("chat", [])}
        summary[name] = {
            system: _row(found, scenario.figure, own)
            if found
            else {"missing": True, "why": _why(results, system)}
            for system, found in by_system.items()
        }
    return summary


def loads(scenario: Scenario, system: str) -> bool:
    """Say whether a scenario is one of the system's."""
    return (not scenario.systems or system in scenario.systems) and scenario.name.startswith(
        SYSTEMS[system].only
    )


def _why(results: Sequence[dict[str, Any]], system: str) -> str:
    said = [r["missing_system"] for r in results if r["system"] == system and "missing_system" in r]
    return said[0] if said else "it was not started"


def _row(found: list[dict[str, Any]], figure: str, own: dict[int, float]) -> dict[str, Any]:
    ratios = [own[r["repeat"]] / r[figure] for r in found if r["repeat"] in own and r[figure]]
    figures = [r[figure] for r in found]
    return {
        figure: statistics.median(figures),
        "least": min(figures),
        "most": max(figures),
        "p50_ms": median((r["delivery_ms"]["p50"] for r in found), 1),
        "p99_ms": median((r["delivery_ms"]["p99"] for r in found), 1),
        "ratio": median(ratios, 2),
        "ratio_least": round(min(ratios), 2) if ratios else None,
        "ratio_most": round(max(ratios), 2) if ratios else None,
        "sound": all(sound(r) for r in found),
        "generator_is_the_limit": any(r["generator_is_the_limit"] for r in found),
    }


def median(values: Iterable[float | None], digits: int) -> float | None:
    """Return the median of what is known."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), digits) if known else None


def table(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown: one table a scenario."""
    lines = []
    for name, rows in summary.items():
        scenario = SCENARIOS[name]
        lines += ["", f"### {scenario.title}", ""]
        lines += [
            f"| system | {scenario.unit} (min-max) | p50, p99 ms | this server: ratio (spread) | notes |",
            "|---|---|---|---|---|",
        ]
        lines += [_table_row(system, row, scenario.figure) for system, row in rows.items()]
    return "\n".join(lines)


def _table_row(system: str, row: dict[str, Any], figure: str) -> str:
    title = SYSTEMS[system].title
    if row.get("missing"):
        return f"| {title} | missing: {row['why']} | | | |"
    ratio = (
        ""
        if system == "chat" or row["ratio"] is None
        else f"{row['ratio']}x ({row['ratio_least']}-{row['ratio_most']})"
    )
    notes = [] if row["sound"] else ["lost, repeated or refused messages"]
    notes += ["the generator was the limit"] if row["generator_is_the_limit"] else []
    spread = f"{row['least']:,.0f}-{row['most']:,.0f}"
    return f"| {title} | {row[figure]:,.0f} ({spread}) | {row['p50_ms']}, {row['p99_ms']} | {ratio} | {'; '.join(notes)} |"
