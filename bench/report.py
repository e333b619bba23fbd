"""Write docs/performance.md and its plots from the results of a run: figures, machine, versions, how to repeat."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import limits
from bench.systems import ROOT, SYSTEMS

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "throughput-latency.svg"
MARK = "<!-- measured: everything below is written by `make bench` -->"


def write(results: dict[str, Any], tables: str) -> None:
    """Replace what follows the mark in docs/performance.md by this run; what stands above is written by hand."""
    words, mark, _ = PAGE.read_text().partition(MARK)
    PLOT.write_text(plot(results["summary"]))
    PAGE.write_text(f"{words}{mark}\n{_measured(results, tables)}")


def _measured(results: dict[str, Any], tables: str) -> str:
    lines = [
        "",
        f"## Measured {results['at'][:10]}",
        "",
        f"{machine()} Store: `appendfsync {results['fsync']}` for all that store. {versions()}",
        f"Medians of {results['repeats']} repetitions of {results['seconds']:g} s, the systems taking turns; ratios are"
        " of the same repetition.",
        "",
        "![Deliveries a second against latency](images/throughput-latency.svg)",
        tables,
        "",
        "### Many, late and idle clients (this server alone)",
        "",
        *(f"- {limits.say(name, found)}" for name, found in results["limits"].items()),
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine without names of hosts or paths."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return (
        f"{os.cpu_count()} cores of {model.group(1) if model else platform.machine()},"
        f" {round(int(memory.group(1)) / 2**20) if memory else '?'} GB, Linux {platform.release().split('-')[0]};"
        " server and store share one core, the load generator has another."
    )


def versions() -> str:
    names = ("Django", "channels", "channels-redis", "redis", "uvicorn", "uvloop", "websockets")
    python = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    return (
        ", ".join(
            [*python, f"Node {_first_line(['node', '--version'])}", *_node_versions(), _store_version()]
        )
        + "."
    )


def _node_versions() -> list[str]:
    lock = ROOT / "bench" / "node_modules" / "socket.io" / "package.json"
    found = re.search(r'"version": "([^"]+)"', lock.read_text()) if lock.exists() else None
    return [f"Socket.IO {found.group(1)}"] if found else []


def _store_version() -> str:
    from chatsite import embedded

    binary = embedded.find_server()
    said = _first_line([str(binary), "--version"]) if binary else ""
    found = re.search(r"(Valkey|Redis) server v=([\d.]+)", said)
    return f"{found.group(1)} {found.group(2)}" if found else "an unknown store"


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip()


# ── The plot: a point for each system and window of fan-out, both axes logarithmic ──

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 70, 60, 20, 200
SCENARIOS = ("fan-4", "fan-32")
X_DECADES, Y_DECADES = (3, 6), (0, 3.5)  # 1,000 to 1,000,000 deliveries a second; 1 to 3,000 ms
COLOURS = ("#0b63ce", "#b3541e", "#8a6d1d", "#1e7d4f", "#6a3fa0", "#555555")


def plot(summary: dict[str, Any]) -> str:
    """Return an SVG: to the right and low is better."""
    shapes = [*_axes(), *_points(summary)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    return "\n".join(
        [head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *shapes, "</svg>", ""]
    )


def _x(decade: float) -> float:
    return LEFT + (decade - X_DECADES[0]) / (X_DECADES[1] - X_DECADES[0]) * (WIDTH - LEFT - RIGHT)


def _y(decade: float) -> float:
    return HEIGHT - BOTTOM - (decade - Y_DECADES[0]) / (Y_DECADES[1] - Y_DECADES[0]) * (HEIGHT - BOTTOM - TOP)


def _axes() -> list[str]:
    lines = []
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        lines.append(f'<path d="M{_x(decade):.0f} {TOP}V{HEIGHT - BOTTOM}" stroke="#dddddd"/>')
        lines.append(
            f'<text x="{_x(decade):.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10**decade:,}</text>'
        )
    for decade in range(4):
        lines.append(f'<path d="M{LEFT} {_y(decade):.0f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{_y(decade) + 4:.0f}" text-anchor="end">{10**decade:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 18}" text-anchor="middle">deliveries a second (1 room of 200)</text>'
    )
    lines.append(
        f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "median latency, ms</text>"
    )
    return lines


def _points(summary: dict[str, Any]) -> list[str]:
    from math import log10

    lines = []
    for index, name in enumerate(SYSTEMS):
        colour, known = COLOURS[index % len(COLOURS)], []
        for scenario in SCENARIOS:
            row = summary.get(scenario, {}).get(name, {})
            if row.get("deliveries_s") and row.get("p50_ms"):
                known.append((_x(log10(row["deliveries_s"])), _y(log10(row["p50_ms"]))))
        if not known:
            continue
        path = "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in known)
        lines.append(f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        lines += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="{colour}"/>' for x, y in known]
        title = SYSTEMS[name].title.strip("*").removesuffix(", nothing stored")
        y = TOP + 20 + index * 22
        lines.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{y - 4}" r="5" fill="{colour}"/>')
        lines.append(f'<text x="{WIDTH - RIGHT + 26}" y="{y}" font-size="11">{title}</text>')
    return lines
