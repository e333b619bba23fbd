"""Numbers as the parts of an SVG: a line, bars, and bars below the axis. Pure: no texts, no colours, no I/O.

The line has its scale on the left, the bars on the right: one message is one acceptance and one delivery for each recipient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

WIDTH, HEIGHT = 560, 170
LEFT, RIGHT = 44, 516  # of the plot
TOP, BASE = 10, 130
BELOW, DEPTH = 132, 14
BAR_SHARE = 0.72  # of the width that each point has
MIN_DEPTH = 2.0  # of a bar below the axis: a single message must be visible


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One minute or day. Every `label` is in the table, some are under the axis."""

    label: str
    line: int
    bars: int
    below: int


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A horizontal line and its values on the left and right scales."""

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
    width = step * BAR_SHARE
    height = BASE - TOP
    middles, bars, below = [], [], []
    for index, point in enumerate(points):
        left = LEFT + index * step + (step - width) / 2
        middles.append((left + width / 2, BASE - height * point.line / line_top))
        if point.bars:
            bars.append(_box(left, BASE, width, -height * point.bars / bars_top))
        if point.below:
            below.append(_box(left, BELOW, width, max(MIN_DEPTH, DEPTH * point.below / deepest)))
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


def ceiling(largest: int) -> int:
    """Return an even round number of at least `largest` and 2, so that its half is a whole number."""
    power = 1
    while largest > 10 * power:
        power *= 10
    return next(step * power for step in (2, 4, 6, 8, 10) if step * power >= largest)


def compact(number: float) -> str:
    """Write a number in at most five characters: 950, 1.2k, 48k, 3M."""
    for unit, suffix in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= 0.9995 * unit:  # below it would be written as 1e+03
            return f"{number / unit:.3g}{suffix}"
    return f"{number:.0f}"


def stack(numbers: Sequence[int], *, width: int, gap: int, min_width: int) -> list[tuple[int, int]]:
    """Return the place and width of each number in a bar. Every number above 0 is visible; the largest gives up width for it."""
    shown = [number for number in numbers if number > 0]
    free = width - gap * (len(shown) - 1)
    total = sum(shown)
    widths = [max(min_width, free * number // total) if number > 0 else 0 for number in numbers]
    if shown:
        widths[numbers.index(max(shown))] += free - sum(widths)
    places, x = [], 0
    for part in widths:
        places.append((x, part))
        x += part + (gap if part else 0)
    return places


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{x:.1f} {y}v{height:.1f}h{width:.1f}v{-height:.1f}z"


def _labels(points: Sequence[Point], middles: list[float], max_labels: int) -> list[Label]:
    last = len(points) - 1
    chosen = sorted({round(last * step / (max_labels - 1)) for step in range(max_labels)}) if last else [0]
    anchors = {0: "start", last: "end"} if last else {0: "middle"}
    return [
        Label(round(middles[index], 1), anchors.get(index, "middle"), points[index].label) for index in chosen
    ]
