"""One run of a scenario: start a cluster, let clients chat while the fault happens, wait until all is explained, judge."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from messaging.drill.ledger import now_ms
from messaging.drill.misses import Outage
from messaging.drill.plan import Plan
from messaging.drill.report import STORE_RESTART_TIMEOUT_MS

from .cluster import Cluster, Rows
from .judge import Verdict, judge
from .load import ABSENT, Load

RUN_WITHIN_S = 420.0
STAYED_OPEN = "some messages stayed open"
TOO_SLOW = "the repair took too long"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A fault and the load under which it happens.

    `seconds`: of the load; the fault may take longer. `share`: of the messages, with a life within `lives` (s). `calm`: no client but
    those of the fault is cut or away, so that senders hear of notices by their open connections alone. `patience_s`: from the end of all
    until everything must be explained. `repair_s`: the longest repair after the end of the fault. `loses`: the store loses data, so that its account must report messages as lost. `quick`: part of
    the quick set.
    """

    name: str
    injected: str
    inject: Callable[[Run], Awaitable[None]]
    seconds: float = 16.0
    servers: int = 1
    lives: tuple[int, int] = (10, 14)
    share: float = 0.4
    absent: int = ABSENT
    calm: bool = False
    patience_s: float = 60.0
    repair_s: float = 60.0
    loses: bool = False
    quick: bool = False
    frames: Plan = dataclasses.field(
        default_factory=Plan
    )  # `loss`, `duplicate` and `reorder` of single frames
    policy: dict[str, Any] = dataclasses.field(default_factory=dict)


class Run:
    """A scenario at work: what its `inject` function uses."""

    def __init__(self, scenario: Scenario, cluster: Cluster, seed: str) -> None:
        self.scenario = scenario
        self.cluster = cluster
        self.rng = random.Random(f"{seed} faults")
        self.load = Load(
            cluster,
            seed,
            lives=scenario.lives,
            share=scenario.share,
            absent=scenario.absent,
            calm=scenario.calm,
            frames=scenario.frames,
        )
        self.outages: list[Outage] = []
        self.verdict = Verdict()  # to which the scenario adds what it checks with its own users

    @contextlib.asynccontextmanager
    async def fault(self) -> AsyncIterator[None]:
        """Mark a period in which the site may fail to read acknowledgements."""
        begins_at = now_ms()
        try:
            yield
        finally:
            self.outages.append(Outage(begins_at, now_ms() + STORE_RESTART_TIMEOUT_MS))

    async def pause(self, shortest_s: float, longest_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(shortest_s, longest_s))

    async def play(self) -> Verdict:
        """Run the scenario to its end and judge it."""
        async with self.load.connected():
            await asyncio.gather(self.load.run(self.scenario.seconds), self.scenario.inject(self))
            ends_ms = max((outage.ends_at for outage in self.outages), default=0) - STORE_RESTART_TIMEOUT_MS
            settled = await self.load.settle(self.scenario.patience_s)
            unaccounted = await self._unaccounted()
        verdict = judge(self.cluster.ledgers, self.outages, now_ms())
        for column, count in self.verdict.counts.items():
            verdict.counts[column] += count
        verdict.examples += self.verdict.examples
        verdict.failure = self.verdict.failure
        verdict.unaccounted, verdict.loses = unaccounted, self.scenario.loses
        verdict.repair_s = self.load.board.repair_ms(ends_ms, now_ms()) / 1000
        if not settled and verdict.ok:
            verdict.failure = STAYED_OPEN
        elif verdict.repair_s > self.scenario.repair_s:
            verdict.failure = TOO_SLOW
        elif not verdict.accepted or (self.scenario.share and not verdict.missed):
            verdict.failure = verdict.failure or "nobody missed a message: this proves nothing"
        return verdict

    async def _unaccounted(self) -> int:
        """Return what the account does not know, once it is at rest: it is read while jobs run."""
        for _ in range(3):
            if not (count := await self.cluster.unaccounted()):
                break
            await asyncio.sleep(2.0)
        return count


async def run(
    scenario: Scenario, rows: Rows, *, seed: int, mutation: str = "", keep: bool = False
) -> Verdict:
    """Run one scenario on a new cluster. The ledgers and logs of a run that is not whole are kept, and named in its examples."""
    words = f"{seed} {scenario.name}"
    cluster = Cluster(
        rows, servers=scenario.servers, rng=random.Random(words), mutation=mutation, **scenario.policy
    )
    verdict = Verdict(failure="it did not end")
    try:
        async with asyncio.timeout(RUN_WITHIN_S), cluster:
            try:
                verdict = await Run(scenario, cluster, words).play()
            finally:
                cluster.keep_ledgers = keep or not (verdict.ok or mutation)
    except TimeoutError:
        verdict.failure = f"it did not end within {RUN_WITHIN_S:.0f} s"
    except Exception as error:  # noqa: BLE001  (the other scenarios run)
        verdict.failure = f"it failed with {type(error).__name__}"
        verdict.examples += traceback.format_exc().splitlines()[-12:]
    if cluster.keep_ledgers:
        verdict.examples.append(f"ledgers and logs: {cluster.ledgers}")
    return verdict
