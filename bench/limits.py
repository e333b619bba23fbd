"""What many, late and idle clients cost this server: a start of its own for each, one figure or two each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bench.generator import generate
from bench.systems import SYSTEMS, CannotMeasure, descendants, running

PATIENCE_S = 90.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A mode of bench/load/crowd.mjs over one room of `crowd`."""

    name: str
    crowd: str
    messages: int = 0
    connections: int = 0


LIMITS = (
    Limit(name="storm", crowd="1x1000", messages=100),
    Limit(name="backlog", crowd="1x2", messages=50_000),
    Limit(name="idle", crowd="1x100", connections=2_000),
)


def measure(limit: Limit, *, fsync: str, site: Path, rooms: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the generator reports, or why there is nothing."""
    try:
        with running(SYSTEMS["chat"], fsync=fsync, site=site) as system:
            plan = {
                "mode": limit.name,
                "port": system.port,
                "room": rooms[0],
                "messages": limit.messages,
                "connections": limit.connections,
                "pids": descendants(system.server.pid),
            }
            return generate("crowd.mjs", plan, patience_s=PATIENCE_S)
    except CannotMeasure as fault:
        return {"missing": str(fault)}


def say(name: str, found: dict[str, Any]) -> str:
    """Return a limit's figures as a sentence."""
    if "missing" in found:
        return f"{name}: no figure ({found['missing']})"
    if name == "storm":
        return (
            f"{found['clients']:,} clients came back at once, each with 100 messages missed: p50 {found['p50_ms']:,} ms,"
            f" p99 {found['p99_ms']:,} ms, all within {found['all_ms']:,} ms."
        )
    if name == "backlog":
        return (
            f"One client read a backlog of {found['messages']:,} messages at {found['messages_s']:,} messages a second;"
            f" the server's memory grew by {found['memory_growth_kb'] / 1024:.1f} MB meanwhile."
        )
    return (
        f"{found['connections']:,} idle connections took {found['kb_each']} KB each in the server"
        f" and {found['cpu'] * 100:.0f} % of a core."
    )
