"""Numbers as the parts of an SVG: a line, bars behind it, and bars below the axis. Pure: no words, no colours, no I/O.

Line and bars have a scale each, left and right: one message is one acceptance and as many deliveries as it has recipients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

WIDTH, HEIGHT = 560, 170
LEFT, RIGHT = 44, 516  # of the plot
TOP, BASE = 10, 130
BELOW, DEPTH = 132, 14
BAR = 0.72  # of the room that each has
LEAST = 2.0  # of a bar below the axis, so that a single one is seen


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One minute or day. `label` stands in the table and, for some, under the axis."""

    label: str
    line: int
    bars: int
    below: int


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A horizontal line with what it means on the left and on the right."""

    y: float
    left: str
    right: str


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    x: float
    anchor: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`bars` and `below` are path data, `line` a polyline's points."""

    points: Sequence[Point]
    marks: list[Mark]
    labels: list[Label]
    line: str
    bars: str
    below: str
    deepest: str


def chart(points: Sequence[Point], *, labels: int = 5) -> Chart:
    """Draw at least one point, oldest first."""
    line_top = ceiling(max(point.line for point in points))
    bars_top = ceiling(max(point.bars for point in points))
    deepest = max(point.below for point in points)
    step = (RIGHT - LEFT) / len(points)
    width = step * BAR
    height = BASE - TOP
    middles, bars, below = [], [], []
    for at, point in enumerate(points):
        left = LEFT + at * step + (step - width) / 2
        middles.append((left + width / 2, BASE - height * point.line / line_top))
        if point.bars:
            bars.append(_box(left, BASE, width, -height * point.bars / bars_top))
        if point.below:
            below.append(_box(left, BELOW, width, max(LEAST, DEPTH * point.below / deepest)))
    marks = [
        Mark(TOP + height * (1 - share), compact(line_top * share), compact(bars_top * share))
        for share in (1, 0.5)
    ]
    return Chart(
        points=points,
        marks=marks,
        labels=_labels(points, [x for x, _ in middles], labels),
        line=" ".join(f"{x:.1f},{y:.1f}" for x, y in middles),
        bars="".join(bars),
        below="".join(below),
        deepest=compact(deepest) if deepest else "",
    )


def ceiling(most: int) -> int:
    """Return an even round number that is not below `most`, at least 2: its half is whole too."""
    power = 1
    while most > 10 * power:
        power *= 10
    return next(step * power for step in (2, 4, 6, 8, 10) if step * power >= most)


def compact(number: float) -> str:
    """Write a number in at most five signs: 950, 1.2k, 48k, 3M."""
    for unit, sign in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= 0.9995 * unit:  # or it would be written 1e+03
            return f"{number / unit:.3g}{sign}"
    return f"{number:.0f}"


def stack(numbers: Sequence[int], *, width: int, gap: int, least: int) -> list[tuple[int, int]]:
    """Lay numbers side by side in a bar, each with its place and width: what is there is seen, however small, and the largest gives way."""
    there = [number for number in numbers if number > 0]
    room = width - gap * (len(there) - 1)
    whole = sum(there)
    widths = [max(least, room * number // whole) if number > 0 else 0 for number in numbers]
    if there:
        widths[numbers.index(max(there))] += room - sum(widths)
    found, x = [], 0
    for one in widths:
        found.append((x, one))
        x += one + (gap if one else 0)
    return found


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y}v{height:.1f}h{width:.1f}v{-height:.1f}z"


def _labels(points: Sequence[Point], middles: list[float], most: int) -> list[Label]:
    last = len(points) - 1
    chosen = sorted({round(last * at / (most - 1)) for at in range(most)}) if last else [0]
    anchors = {0: "start", last: "end"} if last else {0: "middle"}
    return [Label(round(middles[at], 1), anchors.get(at, "middle"), points[at].label) for at in chosen]
