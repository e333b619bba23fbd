"""The measurements of this server alone: the seeded rooms, the function and the report of each part."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.parts import costs, growth, scaling, stress
from bench.processes import MANY, CannotMeasure
from bench.starting import Running, running
from bench.systems import SYSTEMS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The means of every measurement."""

    site: Path  # seeded
    crowds: dict[str, Any]  # {shape: rooms}
    repeats: int
    quick: bool

    @contextlib.contextmanager
    def start(self) -> Iterator[Running]:
        """Start this server as it is by default."""
        with running(SYSTEMS["chat"], fsync="always", site=self.site) as system:
            yield system

    @contextlib.contextmanager
    def start_many(self, name: str) -> Iterator[Running]:
        """Start it on all cores that more than one process may use."""
        with running(SYSTEMS[name], fsync="always", site=self.site, cores=MANY) as system:
            yield system


def _alone(measure: Callable[..., dict[str, Any]]) -> Callable[[Bench], dict[str, Any]]:
    return lambda bench: measure(bench.start, bench.crowds, repeats=bench.repeats, quick=bench.quick)


def _processes(bench: Bench) -> dict[str, Any]:
    starts = {1: lambda: bench.start_many("chat"), 2: lambda: bench.start_many("chat-2")}
    return scaling.processes(starts, bench.crowds, repeats=bench.repeats)


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "acks": _alone(costs.acks),
    "memory": lambda bench: costs.memory(bench.site),
    "stalled": _alone(stress.stalled),
    "storm": _alone(stress.storm),
    "backlog": _alone(stress.backlog),
    "idle": _alone(stress.idle),
    "members": _alone(growth.members),
    "stored": _alone(growth.stored),
    "processes": _processes,
}
SHAPES: dict[str, Sequence[str]] = {**costs.SHAPES, **stress.SHAPES, **growth.SHAPES, **scaling.SHAPES}
_SAYING = {name: module.say for module in (costs, stress, growth, scaling) for name in module.SHAPES}


def measure(name: str, bench: Bench) -> dict[str, Any]:
    """Return what a part found, or {missing: why there is nothing}."""
    try:
        return PARTS[name](bench)
    except CannotMeasure as fault:
        return {"missing": str(fault)}


def say(name: str, found: dict[str, Any]) -> str:
    """Return what a part found as a sentence."""
    return f"{name}: no figure ({found['missing']})" if "missing" in found else _SAYING[name](name, found)
