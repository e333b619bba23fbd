"""The plots of docs/explanation/performance.md as plain SVG, readable on light and on dark pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import log10
from typing import Any

from bench.systems import PEERED, SYSTEMS

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 70, 60, 20, 220
COLOURS = ("#2f81f7", "#d9622b", "#b08800", "#8a8f98", "#2da44e", "#1b9e9e", "#a371f7", "#e0529c")
STYLE = """<style>
.page { fill: #ffffff } text { fill: #24292f } .grid { stroke: #d8dee4 }
@media (prefers-color-scheme: dark) { .page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } }
</style>"""

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its words, its ends and its ticks, in decades where `log`."""

    title: str
    least: float
    most: float
    ticks: Sequence[float]
    log: bool = True

    def part(self, value: float) -> float:
        """Return where a value lies between the ends."""
        place = log10(value) if self.log else value
        return (place - self.least) / (self.most - self.least)

    def label(self, tick: float) -> str:
        return f"{10**tick if self.log else tick:,.0f}"

    def tick_part(self, tick: float) -> float:
        return (tick - self.least) / (self.most - self.least)


def throughput_latency(summary: dict[str, Any]) -> str:
    """Plot deliveries a second against latency, a point for each system and window of fan-out: to the right and low is better."""
    lines = {}
    for name in PEERED:
        points = []
        for scenario in ("fan-4", "fan-32"):
            row = summary.get(scenario, {}).get(name, {})
            if row.get("deliveries_s") and row.get("p50_ms"):
                points.append((row["deliveries_s"], row["p50_ms"]))
        if points:
            lines[SYSTEMS[name].title.strip("*").removesuffix(", nothing stored")] = points
    return _plot(
        Axis("deliveries per second (1 room of 200)", 3, 6.5, range(3, 7)),
        Axis("median latency, ms", 0, 3.5, range(4)),
        lines,
    )


def cost_stored(stored: dict[str, Any]) -> str:
    """Plot what an accepted message costs server and store against how many are stored."""
    rows = stored.get("rows", [])
    lines = {
        "with stored messages": [(row["stored"], row["cost_us"]) for row in rows],
        "a server that began empty": [(row["stored"], row["empty_cost_us"]) for row in rows],
    }
    highest = max((cost for points in lines.values() for _, cost in points), default=100)
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1_000, 10_000) if highest / step <= 6)
    ticks = [step * n for n in range(int(highest // step) + 2)]
    return _plot(
        Axis("stored messages", 3, 6, range(3, 7)),
        Axis("us of processor time per accepted message", 0, ticks[-1], ticks, log=False),
        lines,
    )


def _plot(across: Axis, up: Axis, lines: dict[str, Points]) -> str:
    shapes = [*_grid(across, up)]
    for index, (title, points) in enumerate(lines.items()):
        shapes += _line(across, up, title, points, index)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    page = f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>'
    return "\n".join([head, STYLE, page, *shapes, "</svg>", ""])


def _x(part: float) -> float:
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def _y(part: float) -> float:
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def _grid(across: Axis, up: Axis) -> list[str]:
    lines = []
    for tick in across.ticks:
        x = _x(across.tick_part(tick))
        lines.append(f'<path class="grid" d="M{x:.0f} {TOP}V{HEIGHT - BOTTOM}"/>')
        lines.append(
            f'<text x="{x:.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{across.label(tick)}</text>'
        )
    for tick in up.ticks:
        y = _y(up.tick_part(tick))
        lines.append(f'<path class="grid" d="M{LEFT} {y:.0f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{up.label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle:.0f}" y="{HEIGHT - 18}" text-anchor="middle">{across.title}</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    lines.append(
        f'<text transform="translate(18 {centre:.0f}) rotate(-90)" text-anchor="middle">{up.title}</text>'
    )
    return lines


def _line(across: Axis, up: Axis, title: str, points: Points, index: int) -> list[str]:
    colour = COLOURS[index % len(COLOURS)]
    places = [(_x(across.part(x)), _y(up.part(y))) for x, y in points]
    path = "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in places)
    lines = [f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>'] if places else []
    lines += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" fill="{colour}"/>' for x, y in places]
    y = TOP + 20 + index * 22
    lines.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{y - 4}" r="5" fill="{colour}"/>')
    lines.append(f'<text x="{WIDTH - RIGHT + 26}" y="{y}" font-size="11">{title}</text>')
    return lines
