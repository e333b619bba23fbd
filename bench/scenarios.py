"""The loads: what is sent, by how many to how many, and which systems it is put on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.load.generator import generate
from bench.processes import GENERATOR_CORE, SERVER_CORE
from bench.starting import Running

WARM_S = 0.7
GENERATOR_PATIENCE_S = 90.0
PEAK = "fan-32"  # the scenario whose figure is a system's peak


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load: the first `senders` of each room of `crowd` keep `window` messages unanswered, or send `rate` a second.

    `share` of (system, part): the rate is that part of the system's peak in the same run, `seconds` long at least.
    """

    name: str
    title: str
    crowd: str
    senders: int = 1
    figure: str = "deliveries_s"  # what is compared
    window: int = 0
    rate: float = 0
    share: tuple[str, float] | None = None
    seconds: float = 0
    stalled: int = 0  # members of each room that stop reading
    systems: tuple[str, ...] = ()  # only these; none named: all

    @property
    def unit(self) -> str:
        return "deliveries/s" if self.figure == "deliveries_s" else "accepted/s"


def _pairs(window: int, title: str) -> Scenario:
    return Scenario(
        name=f"pairs-{window}", title=title, crowd="50x2", figure="accepted_s", senders=2, window=window
    )


def _rated(system: str, part: int, whose: str, systems: tuple[str, ...]) -> Scenario:
    return Scenario(
        name=f"{system}-{part}",
        title=f"latency: fan-out 1x200 at {part} % of {whose} peak",
        crowd="1x200",
        share=(system, part / 100),
        seconds=3.0,
        systems=systems,
    )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="fan-4", title="fan-out 1x200, window 4", crowd="1x200", window=4),
        Scenario(name=PEAK, title="fan-out 1x200, saturated (window 32)", crowd="1x200", window=32),
        Scenario(
            name="fan-1000",
            title="fan-out 1x1000, window 4",
            crowd="1x1000",
            window=4,
            systems=("chat", "spike", "tutorial", "socketio", "socketio-storing"),
        ),
        _pairs(1, "pairs 50x2, window 1"),
        _pairs(4, "pairs 50x2, saturated (window 4)"),
        _rated("chat", 10, "this server's", ("chat",)),
        _rated("chat", 50, "this server's", ("chat",)),
        _rated("tutorial", 10, "the tutorial's", ("chat", "tutorial")),
        _rated("tutorial", 50, "the tutorial's", ("chat", "tutorial")),
        Scenario(name="check-fan", title="check: fan-out 1x8", crowd="1x8", senders=2, window=4),
        Scenario(
            name="check-pairs",
            title="check: pairs 2x2",
            crowd="2x2",
            figure="accepted_s",
            senders=2,
            window=4,
        ),
    )
}
CHECKS = [name for name in SCENARIOS if name.startswith("check")]
RATED = [name for name, scenario in SCENARIOS.items() if scenario.share]
CLOSED = [name for name in SCENARIOS if name not in (*CHECKS, *RATED)]
BOTH_STORES = ["fan-4", PEAK, "pairs-1", "pairs-4"]  # measured with `everysec` as well


def load(
    system: Running,
    scenario: Scenario,
    rooms: Sequence[dict[str, Any]],
    *,
    seconds: float,
    rate: float = 0,
    cores: Sequence[int] = (GENERATOR_CORE,),
) -> dict[str, Any]:
    """Run the generator once; return its report (bench/load/main.mjs). Raises CannotMeasure."""
    plan = {
        "system": system.system.client,
        "port": system.port,
        "rooms": rooms,
        "senders": scenario.senders,
        "window": scenario.window,
        "rate": rate or scenario.rate,
        "stalled": scenario.stalled,
        "warm_s": WARM_S,
        "seconds": seconds,
        "pids": system.pids(),
        "core": SERVER_CORE,
    }
    return generate("main.mjs", plan, patience_s=GENERATOR_PATIENCE_S + seconds, cores=cores)


def rate_of(scenario: Scenario, peaks: dict[str, float]) -> float:
    """Return messages a second; `peaks` are deliveries a second. 0 where the peak is not known."""
    if scenario.share is None:
        return scenario.rate
    system, part = scenario.share
    members = int(scenario.crowd.partition("x")[2])
    return peaks.get(system, 0) * part / members
