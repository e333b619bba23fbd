"""People who talk at a steady rate while something else is measured, and the report on their messages (bench/load/steady.mjs)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.load.generator import generate
from bench.processes import CannotMeasure


@contextlib.contextmanager
def talking(plan: dict[str, Any], *, patience_s: float) -> Iterator[dict[str, Any]]:
    """Let the rooms talk during the block. The yielded dictionary holds their report after it."""
    report: dict[str, Any] = {}
    failed: list[CannotMeasure] = []

    def run() -> None:
        try:
            report.update(generate("steady.mjs", plan, patience_s=patience_s))
        except CannotMeasure as fault:
            failed.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield report
    finally:
        Path(plan["stop"]).touch()
        thread.join()
    if failed:
        raise failed[0]


def latencies(rows: Sequence[list[Any]]) -> dict[str, Any]:
    """Return {kind: {p50, p99, most}} of rows of the report, ms."""
    found: dict[str, Any] = {"messages": len(rows)}
    for place, kind in ((1, "answer_ms"), (2, "delivery_ms")):
        values = sorted(row[place] for row in rows if row[place] is not None)
        found[kind] = {
            name: values[int(share * (len(values) - 1))] if values else 0.0
            for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
        }
    return found


def talk_faults(talk: dict[str, Any]) -> list[str]:
    """Say what did not come as it must."""
    names = ("missing", "unanswered", "twice", "unordered", "errors", "closed")
    return [f"chat, {name}: {talk[name]}" for name in names if talk[name]]
