"""The cost of many, late, idle and stalled clients for this server and for other clients: separate starts, medians of the repeats."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.fill.rooms import fill_rooms
from bench.load.conversation import latencies, talk_faults, talking
from bench.load.generator import generate
from bench.processes import CannotMeasure, descendants
from bench.report.results import FAULTS, median, sound
from bench.scenarios import Scenario, load
from bench.starting import Running

PATIENCE_S = 90.0
STORM = "1x1001"  # who come back at once, and one who wrote
OTHERS = "10x2"  # people who talk during a measurement, in other rooms
MISSED = 100
OTHERS_RATE = 100  # messages a second, all of them together
CALM_S = 3.0
BACKLOG, BACKLOG_MESSAGES = "1x2", 50_000
IDLE, IDLE_CONNECTIONS, QUICK_CONNECTIONS = "1x250", 5_000, 1_000
STALLED = Scenario(name="stalled", title="10 of 200 stop reading", crowd="1x200", rate=500, stalled=10)
CALM = Scenario(name="calm", title="the same load, everybody reads", crowd="1x200", rate=500)
STALLED_S = 5.0
# Data that may wait for one socket: `unsent_max` messages of about 400 B as text, an array in flight (256 KiB), the transport (64 KiB).
STALLED_MOST_KB = 1_000 * 0.4 + 256 + 64

Start = Callable[[], Any]  # a context manager of a fresh Running of this server


def storm(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """1,000 come back at once, each with 100 messages missed, while others talk: p50 and p99 of both, before and during."""
    found = [_storm(start, crowds) for _ in range(repeats)]
    return {
        "clients": found[0]["clients"],
        **{name: median([one[name] for one in found], 1) for name in ("p50_ms", "p99_ms", "all_ms", "cpu_s")},
        **{
            name: median([one[name] for one in found], 1) for name in ("others_before_ms", "others_during_ms")
        },
        "others_ratio": median([one["others_during_ms"] / one["others_before_ms"] for one in found], 2),
        "all": found,
    }


def _storm(start: Start, crowds: dict[str, Any]) -> dict[str, Any]:
    [room] = crowds[STORM]
    with start() as system, tempfile.TemporaryDirectory() as folder:
        fill_rooms(system, {"room": room["id"], "messages": MISSED})
        plan = {
            "port": system.port,
            "rooms": crowds[OTHERS],
            "senders": 2,
            "rate": OTHERS_RATE,
            "stop": str(Path(folder) / "stop"),
        }
        with talking(plan, patience_s=2 * PATIENCE_S) as talk:
            time.sleep(1)  # they have connected
            came = _crowd("storm", system, room, messages=MISSED, calm_ms=CALM_S * 1_000)
    if talk_faults(talk):
        raise CannotMeasure(f"other clients lost messages during a storm: {talk_faults(talk)}")
    began, ended = came["began_ms"], came["began_ms"] + came["all_ms"]
    before = latencies([row for row in talk["rows"] if began - (CALM_S - 1) * 1_000 <= row[0] < began])
    during = latencies([row for row in talk["rows"] if began <= row[0] < ended])
    return {
        **came,
        "others_before_ms": before["delivery_ms"]["p99"],
        "others_during_ms": during["delivery_ms"]["p99"],
    }


def backlog(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Let one client read what it missed: messages a second, and by how much the server's memory grew."""
    [room] = crowds[BACKLOG]
    found = []
    for _ in range(repeats):
        with start() as system:
            fill_rooms(system, {"room": room["id"], "messages": BACKLOG_MESSAGES})
            found.append(_crowd("backlog", system, room, messages=BACKLOG_MESSAGES))
    return {
        "messages": BACKLOG_MESSAGES,
        **{name: median([one[name] for one in found], 0) for name in ("messages_s", "memory_growth_kb")},
        "all": found,
    }


def idle(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Open 5,000 connections that do nothing: KB each in the server beyond the process, and CPU."""
    [room] = crowds[IDLE]
    with start() as system:
        return _crowd("idle", system, room, connections=QUICK_CONNECTIONS if quick else IDLE_CONNECTIONS)


def stalled(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Let 10 of 200 stop reading: the others' p99 compared with the same load with nobody stalled, and memory for each stalled socket."""
    calm, held = [], []
    with start() as system:
        load(system, CALM, crowds[CALM.crowd], seconds=1)  # what a process takes once is behind it
        for _ in range(repeats):
            calm.append(reliable(load(system, CALM, crowds[CALM.crowd], seconds=STALLED_S)))
            held.append(reliable(load(system, STALLED, crowds[STALLED.crowd], seconds=STALLED_S)))
    ratios = [
        one["delivery_ms"]["p99"] / other["delivery_ms"]["p99"] for one, other in zip(held, calm, strict=True)
    ]
    grown = [
        (one["memory_growth_kb"] - other["memory_growth_kb"]) / STALLED.stalled
        for one, other in zip(held, calm, strict=True)
    ]
    return {
        "rate": STALLED.rate,
        "calm_p99_ms": median([one["delivery_ms"]["p99"] for one in calm], 1),
        "p99_ms": median([one["delivery_ms"]["p99"] for one in held], 1),
        "ratio": median(ratios, 2),
        "kb_each": max(0.0, round(statistics.median(grown), 1)),
        "limit_kb": STALLED_MOST_KB,
    }


def reliable(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result of which nothing was lost. Raises CannotMeasure."""
    if not sound(result):
        raise CannotMeasure(
            f"messages did not come as they must: { {name: result[name] for name in FAULTS} }"
        )
    return result


def _crowd(mode: str, system: Running, room: dict[str, Any], **numbers: float) -> dict[str, Any]:
    plan = {
        "mode": mode,
        "port": system.port,
        "room": room,
        "pids": descendants(system.server.pid),
        **numbers,
    }
    return generate("crowd.mjs", plan, patience_s=PATIENCE_S)


def say(name: str, found: dict[str, Any]) -> str:
    """Return what was found as a sentence."""
    return _SENTENCES[name](found)


def _say_storm(found: dict[str, Any]) -> str:
    return (
        f"{found['clients']:,} clients reconnected at once, each with {MISSED} missed messages: p50 {found['p50_ms']:,.0f} ms,"
        f" p99 {found['p99_ms']:,.0f} ms, all within {found['all_ms']:,.0f} ms. Clients in other rooms had a p99 of"
        f" {found['others_before_ms']:,} ms before and {found['others_during_ms']:,} ms in that time."
    )


def _say_backlog(found: dict[str, Any]) -> str:
    return (
        f"One client read a backlog of {found['messages']:,} messages at {found['messages_s']:,.0f} messages per second;"
        f" the server's memory grew by {found['memory_growth_kb'] / 1024:.1f} MB."
    )


def _say_idle(found: dict[str, Any]) -> str:
    return (
        f"{found['connections']:,} idle connections took {found['kb_each']} KB each in the server"
        f" and {found['cpu'] * 100:.0f} % of a core."
    )


def _say_stalled(found: dict[str, Any]) -> str:
    return (
        f"10 of 200 stopped reading at {found['rate']} messages per second: the others' p99 was {found['p99_ms']} ms,"
        f" compared with {found['calm_p99_ms']} ms when all read; each took {found['kb_each']} KB in the server"
        f" (limit {found['limit_kb']:.0f})."
    )


_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "storm": _say_storm,
    "backlog": _say_backlog,
    "idle": _say_idle,
    "stalled": _say_stalled,
}
SHAPES: dict[str, Sequence[str]] = {
    "storm": (STORM, OTHERS),
    "backlog": (BACKLOG,),
    "idle": (IDLE,),
    "stalled": (CALM.crowd,),
}
