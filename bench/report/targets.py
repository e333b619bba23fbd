"""The targets, compared with the figures of one run. No figure here is written by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from bench.parts.stress import STALLED_MOST_KB

SATURATED = "saturated (window 32)"
RAW_PAIRS = (
    53_000  # accepted/s of raw ASGI, pairs 50x2 saturated, on the machine of the targets, in the same hour
)
FLAT_MB = 10.0  # memory that counts as flat while 50,000 messages are read


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target and its figure. `met` is None where the run did not measure it; `note` contains the reason, or a remark. `everysec`: the figure with it."""

    what: str
    target: str
    found: str
    met: bool | None
    note: str = ""
    everysec: str = ""


# Scenario, what is compared, peers (the best of them counts), how many times as much as they.
RATIOS = (
    ("fan-4", "fan-out 1x200, window 4", ("tutorial", "tutorial-core"), "the tutorial (better layer)", 12.0),
    ("fan-4", "fan-out 1x200, window 4", ("socketio",), "Socket.IO + streams", 1.2),
    (
        "fan-32",
        f"fan-out 1x200, {SATURATED}",
        ("tutorial", "tutorial-core"),
        "the tutorial (better layer)",
        40.0,
    ),
    ("fan-32", f"fan-out 1x200, {SATURATED}", ("socketio",), "Socket.IO + streams", 3.0),
    ("fan-32", f"fan-out 1x200, {SATURATED}", ("raw",), "raw ASGI", 3.0),
    *(
        (scenario, title, peers, whom, times)
        for scenario, title in (
            ("pairs-1", "pairs 50x2, window 1"),
            ("pairs-4", "pairs 50x2, saturated (window 4)"),
        )
        for peers, whom, times in (
            (("tutorial", "tutorial-core"), "the tutorial (better layer)", 5.0),
            (("socketio",), "Socket.IO + streams", 1.0),
            (("socketio-storing",), "the one that stores", 1.3),
            (("mosquitto",), "Mosquitto QoS 1", 1.0),
        )
    ),
    *(
        (scenario, title, ("spike",), "the spike", 0.8)
        for scenario, title in (
            ("fan-4", "fan-out 1x200, window 4"),
            ("fan-32", f"fan-out 1x200, {SATURATED}"),
            ("pairs-1", "pairs 50x2, window 1"),
            ("pairs-4", "pairs 50x2, saturated (window 4)"),
        )
    ),
)


def verdicts(run: dict[str, Any]) -> list[Verdict]:
    """Compare a run (bench/results/latest.json: summary {fsync: ...}, parts) with every target."""
    always = run["summary"].get("always", {})
    pace = pace_of(always)
    return [*_ratios(run["summary"]), *_latencies(always, pace), *_parts(run["parts"], pace)]


def pace_of(summary: dict[str, Any]) -> float | None:
    """Return the speed of this machine relative to the machine of the targets, measured by raw ASGI on both."""
    raw = summary.get("pairs-4", {}).get("raw", {}).get("accepted_s")
    return raw / RAW_PAIRS if raw else None


def _ratios(summary: dict[str, Any]) -> Iterator[Verdict]:
    for scenario, title, peers, whom, times in RATIOS:
        ratio, note = _least_ratio(summary.get("always", {}).get(scenario, {}), peers)
        other, _ = _least_ratio(summary.get("everysec", {}).get(scenario, {}), peers)
        yield Verdict(
            what=title,
            target=f">= {times:g}x {whom}",
            found=_times(ratio),
            met=None if ratio is None else ratio >= times,
            note=note,
            everysec="" if other is None else _times(other),
        )


def _least_ratio(rows: dict[str, Any], peers: tuple[str, ...]) -> tuple[float | None, str]:
    """Return this server's ratio to the best of some peers, and what is to be said of it. A peer that lost messages is none."""
    own = rows.get("chat")
    if not own:
        return None, "not measured"
    if own.get("missing"):
        return None, own["why"]
    if not own["sound"]:
        return None, "this server lost, repeated or refused messages"
    known = {peer: rows[peer] for peer in peers if peer in rows}
    sound = {
        peer: row
        for peer, row in known.items()
        if not row.get("missing") and row["sound"] and row["ratio"] is not None
    }
    if not sound:
        missing = [row["why"] for row in known.values() if row.get("missing")]
        return None, missing[0] if missing else "not measured" if not known else "it lost messages"
    best = min(sound.values(), key=lambda row: row["ratio"])
    limited = own["generator_is_the_limit"] or best["generator_is_the_limit"]
    return best["ratio"], "the generator was the limit" if limited else ""


def _latencies(summary: dict[str, Any], pace: float | None) -> Iterator[Verdict]:
    own = summary.get("chat-10", {}).get("chat", {})
    p99 = own.get("p99_ms")
    yield _at_most("p99 at 10 % of the peak", 15.0, p99, "ms", pace=pace)
    rows = summary.get("tutorial-10", {})
    ours, theirs = (rows.get(name, {}).get("p99_ms") for name in ("chat", "tutorial"))
    known = ours is not None and theirs is not None
    yield Verdict(
        what="p99 at 10 % of the tutorial's peak",
        target="<= the tutorial's at the same load",
        found=f"{ours} against {theirs} ms" if known else "",
        met=ours <= theirs if known else None,
        note="" if known else "not measured",
    )


def _parts(parts: dict[str, Any], pace: float | None) -> Iterator[Verdict]:
    storm, backlog, idle, memory = (parts.get(name, {}) for name in ("storm", "backlog", "idle", "memory"))
    stalled, acks = parts.get("stalled", {}), parts.get("acks", {})
    yield _at_most("storm of 1,000 resumes: p99", 3_000, storm.get("p99_ms"), "ms", storm, pace=pace)
    yield _at_most(
        "the others' p99 in that time, compared with before", 2.0, storm.get("others_ratio"), "x", storm
    )
    rate = backlog.get("messages_s")
    yield _at_least("backlog: messages per second to one client", 50_000, rate, "", backlog, pace=pace)
    grown = backlog.get("memory_growth_kb")
    yield _at_most(
        "growth of the server's memory in that time",
        FLAT_MB,
        None if grown is None else grown / 1024,
        "MB",
        backlog,
    )
    yield _at_most("memory of an idle connection", 25, idle.get("kb_each"), "KB", idle)
    yield _at_most(
        "Redis for a live 100 B message, all its indexes", 900, memory.get("live_bytes"), "B", memory
    )
    yield _at_most("Redis for a remembered message id", 200, memory.get("ids_bytes"), "B", memory)
    yield _at_most(
        "10 of 200 stop reading: the others' p99, compared with none", 1.3, stalled.get("ratio"), "x", stalled
    )
    yield _at_most(
        "memory for each stalled socket",
        STALLED_MOST_KB,
        stalled.get("kb_each"),
        "KB",
        stalled,
    )
    yield _grown(
        parts, "stored", "throughput at 10^6 stored messages, compared with empty", "stored", 1_000_000
    )
    yield _grown(parts, "members", "throughput at 10^4 absent members, compared with none", "absent", 10_000)
    yield from _processes(parts.get("processes", {}))
    yield from _acks(acks, pace)


def _acks(found: dict[str, Any], pace: float | None) -> Iterator[Verdict]:
    for row in found.get("rows") or [{}]:
        at = f", {row['rate']:,} per second" if row else ""
        what = f"acks: store time per message, 50 members{at}"
        verdict = _at_most(what, 200, row.get("scripts_us"), "us", found, pace=pace)
        if verdict.met is False:
            note = f"fixed work takes {row['fixed_work_slower']} times as long at this rate as in a row"
            verdict = dataclasses.replace(verdict, note=note)
        yield verdict


def _grown(parts: dict[str, Any], part: str, what: str, size: str, must: int) -> Verdict:
    found = parts.get(part, {})
    rows = [row for row in found.get("rows", []) if row[size] == must]
    return _at_least(what, 0.9, rows[0]["ratio"] if rows else None, "x", found)


def _processes(found: dict[str, Any]) -> Iterator[Verdict]:
    rows = found.get("rows") or [{}]
    for row in rows:
        what = (
            f"two processes compared with one ({row['scenario']})"
            if row
            else "two processes compared with one"
        )
        verdict = _at_least(what, 1.6, row.get("ratio"), "x", found)
        if verdict.met is False:
            used = row["one_cpu"]
            possible = found["cores"] / sum(used.values())
            if found["shared"] and possible < 1.6:
                note = (
                    f"one process, its store ({used['store']}) and the generator ({used['generator']}) use"
                    f" {sum(used.values()):.2f} of {found['cores']} cores: {possible:.1f}x is the maximum here"
                )
                verdict = dataclasses.replace(verdict, met=None, note=note)
        yield verdict


def _at_most(
    what: str,
    most: float,
    found: float | None,
    unit: str,
    part: dict[str, Any] | None = None,
    *,
    pace: float | None = None,
) -> Verdict:
    """Compare a figure with its maximum. With `pace`, a time is also compared as if measured on the machine of the targets."""
    there = None if found is None or pace is None else found * pace
    return _verdict(
        f"<= {_figure(most, unit)}", what, found, unit, part, lambda figure: figure <= most, there, pace
    )


def _at_least(
    what: str,
    least: float,
    found: float | None,
    unit: str,
    part: dict[str, Any] | None = None,
    *,
    pace: float | None = None,
) -> Verdict:
    there = None if found is None or pace is None else found / pace
    return _verdict(
        f">= {_figure(least, unit)}", what, found, unit, part, lambda figure: figure >= least, there, pace
    )


def _verdict(
    target: str,
    what: str,
    found: float | None,
    unit: str,
    part: dict[str, Any] | None,
    enough: Callable[[float], bool],
    there: float | None,
    pace: float | None,
) -> Verdict:
    if found is None:
        return Verdict(
            what=what, target=target, found="", met=None, note=(part or {}).get("missing", "not measured")
        )
    met = enough(found)
    if not met and there is not None and enough(there):
        note = f"this machine was {pace:.2g} times as fast as when the targets were set, by the figures of raw ASGI"
        return Verdict(what=what, target=target, found=_figure(found, unit), met=None, note=note)
    return Verdict(what=what, target=target, found=_figure(found, unit), met=met)


def _figure(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
    return f"{number}{unit if unit == 'x' else f' {unit}'.rstrip()}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:g}x"


def table(verdicts: list[Verdict]) -> str:
    """Return the verdicts as Markdown."""
    words = {True: "yes", False: "**no**", None: "inconclusive"}
    lines = ["| figure | target | measured | met | with `everysec` | note |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {verdict.what} | {verdict.target} | {verdict.found} | {words[verdict.met]} | {verdict.everysec} | {verdict.note} |"
        for verdict in verdicts
    ]
    return "\n".join(lines)
