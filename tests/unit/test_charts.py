"""The parts of a chart stay in their places for all numbers."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.admin.charts import BASE, BELOW, DEPTH, LEFT, RIGHT, TOP, Point, ceiling, chart, compact, stack

NUMBERS = st.integers(0, 10**9)
POINTS = st.lists(st.builds(Point, st.just("13:24"), NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=24)


def boxes(path: str) -> list[tuple[float, float, float]]:
    """Return (x, width, signed height) of each box of a path."""
    found = re.findall(r"M([\d.]+) [\d.]+v([-\d.]+)h([\d.]+)v[-\d.]+z", path)
    assert re.sub(r"M[\d.]+ [\d.]+v[-\d.]+h[\d.]+v[-\d.]+z", "", path) == ""
    return [(float(x), float(width), float(height)) for x, height, width in found]


@given(POINTS)
def test_everything_is_drawn_inside_the_plot_and_nothing_is_left_out(points: list[Point]) -> None:
    drawn = chart(points)
    line = [tuple(map(float, pair.split(","))) for pair in drawn.line.split()]
    assert len(line) == len(points)
    assert all(LEFT <= x <= RIGHT and TOP - 0.1 <= y <= BASE for x, y in line)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    bars, below = boxes(drawn.bars), boxes(drawn.below)
    assert len(bars) == sum(point.bars > 0 for point in points)
    assert len(below) == sum(point.below > 0 for point in points)
    assert all(
        x >= LEFT and x + width <= RIGHT + 0.2 and TOP - BASE - 0.1 <= height <= 0
        for x, width, height in bars
    )
    assert all(0 < height <= DEPTH + 0.1 for _, _, height in below)
    assert BELOW > BASE


@given(st.lists(st.builds(Point, st.just(""), NUMBERS, st.just(0), st.just(0)), min_size=2, max_size=24))
def test_the_higher_number_is_never_drawn_lower(points: list[Point]) -> None:
    heights = [BASE - float(pair.split(",")[1]) for pair in chart(points).line.split()]
    by_number = sorted(range(len(points)), key=lambda at: points[at].line)
    drawn = [heights[at] for at in by_number]
    assert drawn == sorted(drawn)


@pytest.mark.parametrize(
    ("most", "top"),
    [(0, 2), (1, 2), (2, 2), (3, 4), (9, 10), (10, 10), (11, 20), (41, 60), (1_000, 1_000), (1_001, 2_000)],
)
def test_a_scale_ends_at_a_round_number(most: int, top: int) -> None:
    assert ceiling(most) == top


@given(NUMBERS)
def test_a_scale_holds_the_number_has_a_whole_middle_and_wastes_at_most_half(most: int) -> None:
    top = ceiling(most)
    assert top >= most
    assert top % 2 == 0
    assert top <= max(2, 2 * most)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (1_250, "1.25k"), (48_000, "48k"), (999_999, "1M"), (3_000_000, "3M")],
)
def test_a_long_number_is_written_short(number: int, text: str) -> None:
    assert compact(number) == text


@given(st.integers(0, 10**11))
def test_no_number_needs_more_than_five_signs(number: int) -> None:
    assert len(compact(number)) <= 5


def test_labels_stand_under_first_and_last_and_between() -> None:
    points = [Point(str(at), at, at, 0) for at in range(60)]
    labels = chart(points).labels
    assert [label.text for label in labels] == ["0", "15", "30", "44", "59"]
    assert (labels[0].anchor, labels[2].anchor, labels[-1].anchor) == ("start", "middle", "end")
    assert len(chart(points[:1]).labels) == 1
    assert len(chart(points[:3]).labels) == 3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_every_part_of_a_bar_is_visible_and_its_whole_width_is_used(numbers: list[int]) -> None:
    places = stack(numbers, width=1_000, gap=3, min_width=6)
    assert [width > 0 for _, width in places] == [number > 0 for number in numbers]
    assert all(width == 0 or width >= 6 for _, width in places)
    ends = [(x, x + width) for x, width in places if width]
    assert all(later[0] - earlier[1] == 3 for earlier, later in itertools.pairwise(ends))
    assert not ends or (ends[0][0], ends[-1][1]) == (0, 1_000)
