"""The cost of many stored messages and many offline members: this server compared with the same server with few, in turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from bench.fill.rooms import A_ROOM, fill_rooms
from bench.parts.stress import Start, reliable
from bench.report.results import median
from bench.scenarios import SCENARIOS, Scenario, load
from bench.starting import Running

STORED, QUICK_STORED = (1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000)
STORED_LOAD = SCENARIOS["pairs-4"]
PRESENT, ABSENT = 100, (0, 1_000, 10_000)
ABSENT_LOAD = Scenario(name="absent", title="fan-out 1x100, window 4", crowd="1x100", window=4)
SECONDS = 2.0
TURNS = 4  # of the size that the target is about: each server is first equally often
REST_S = 0.5


def shape(absent: int) -> str:
    return f"1x{PRESENT}+{absent}" if absent else f"1x{PRESENT}"


def stored(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Fill one store further and further; at each size a fresh server, which begins empty, takes turns with it.

    The cost is CPU time of server and store for an accepted message, us.
    """
    rooms, rows, filled = crowds[STORED_LOAD.crowd], [], 0
    sizes = QUICK_STORED if quick else STORED
    with start() as full:
        _load(full, STORED_LOAD, rooms)
        for size in sizes:
            fill_rooms(full, {"fresh": [filled // A_ROOM, size // A_ROOM]})
            filled = size
            _rest(full)
            with start() as empty:
                _load(empty, STORED_LOAD, rooms)  # what a process does once; the other has it behind it
                turns = TURNS if size == STORED[-1] else 1
                pairs = [_in_turn(turn, empty, full, STORED_LOAD, rooms, rooms) for turn in range(turns)]
            rows.append({"stored": size, **_compared(pairs, "accepted_s", _cost_us)})
    return {"rows": rows}


def members(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Fan out to 100 who are connected, in rooms with more and more members who are not, taking turns."""
    pairs: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {absent: [] for absent in ABSENT[1:]}
    with start() as system:
        for absent in ABSENT:
            _load(system, ABSENT_LOAD, crowds[shape(absent)])  # what a process and a room do once
        for turn in range(1 if quick else TURNS):
            for absent, found in pairs.items():
                found.append(
                    _in_turn(turn, system, system, ABSENT_LOAD, crowds[shape(0)], crowds[shape(absent)])
                )
    rows = [
        {"absent": absent, **_compared(found, "deliveries_s", _cost_us)} for absent, found in pairs.items()
    ]
    none = {"absent": 0, "figure": rows[0]["empty"], "ratio": 1.0}
    return {"present": PRESENT, "rows": [none, *rows]}


def _in_turn(
    turn: int, little: Running, much: Running, scenario: Scenario, few: Any, many: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load what holds little and what holds much; in every second turn the other way round, for machines change their pace."""
    if turn % 2:
        second = _load(much, scenario, many)
        return _load(little, scenario, few), second
    return _load(little, scenario, few), _load(much, scenario, many)


def _load(system: Running, scenario: Scenario, rooms: Any) -> dict[str, Any]:
    return reliable(load(system, scenario, rooms, seconds=SECONDS))


def _cost_us(result: dict[str, Any]) -> float:
    accepted: float = result["accepted_s"]
    return 1e6 * (result["cpu"]["server"] + result["cpu"]["store"]) / accepted if accepted else 0.0


def _compared(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    figure: str,
    cost_us: Callable[[dict[str, Any]], float],
) -> dict[str, Any]:
    """Return medians of what was found with little and with much, and of the second by the first in the same turn."""
    return {
        "figure": median([one[figure] for _, one in pairs], 0),
        "empty": median([one[figure] for one, _ in pairs], 0),
        "ratio": median([much[figure] / little[figure] for little, much in pairs], 2),
        "cost_us": median([cost_us(much) for _, much in pairs], 1),
        "empty_cost_us": median([cost_us(little) for little, _ in pairs], 1),
    }


def _rest(system: Running) -> None:
    """Wait until the store has rewritten its log: its child process takes the core."""
    with contextlib.closing(redis.Redis(unix_socket_path=str(system.store_socket))) as store:
        time.sleep(REST_S)
        while True:
            said: Any = store.info("persistence")
            if not said["aof_rewrite_in_progress"] and not said["aof_rewrite_scheduled"]:
                return
            time.sleep(REST_S)


def say(name: str, found: dict[str, Any]) -> str:
    """Return what was found as a sentence."""
    if name == "stored":
        each = "; ".join(
            f"{row['stored']:,} stored: {row['figure']:,.0f} accepted/s, {row['ratio']} of empty, {row['cost_us']} us each"
            for row in found["rows"]
        )
        return f"Pairs 50x2, saturated, compared with a server that begins empty. {each}."
    each = "; ".join(
        f"{row['absent']:,} absent: {row['figure']:,.0f} deliveries/s, {row['ratio']} of none"
        for row in found["rows"]
    )
    return f"A room with {found['present']} members connected. {each}."


SHAPES = {"stored": (STORED_LOAD.crowd,), "members": tuple(map(shape, ABSENT))}
