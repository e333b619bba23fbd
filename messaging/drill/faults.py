"""Unreliable connections: frames of a socket are lost, duplicated, delayed and reordered in both directions, above TCP.

A proxy could not cover "delivered, but lost by the program". Each frame is treated alone, even when several came in one array.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Callable

from .line import Frame
from .plan import Plan

OVERTAKEN_SHARE = 0.1  # of the frames
DELAY_S = (0.005, 0.3)


@dataclasses.dataclass(slots=True)
class Faults:
    """Decides for each frame whether and when it arrives, and counts the faults."""

    plan: Plan
    rng: random.Random
    counts: Counter[str] = dataclasses.field(default_factory=Counter)

    def carry(self, frame: Frame, deliver: Callable[[Frame], None]) -> None:
        """Deliver a frame never, once or twice, now or later."""
        self.counts["frames"] += 1
        self.counts["pushed"] += _messages_in(frame)
        if self.rng.random() < self.plan.loss:
            self.counts["lost"] += 1
            return
        self._pass(frame, deliver)
        if self.rng.random() < self.plan.duplicate:
            self.counts["doubled"] += 1
            self._pass(frame, deliver)

    def _pass(self, frame: Frame, deliver: Callable[[Frame], None]) -> None:
        if not self.plan.reorder or self.rng.random() >= OVERTAKEN_SHARE:
            deliver(frame)
            return
        self.counts["overtaken"] += 1
        asyncio.get_running_loop().call_later(self.rng.uniform(*DELAY_S), deliver, frame)


def _messages_in(frame: Frame) -> int:
    if frame["type"] == "message":
        return 1
    return len(frame["messages"]) if frame["type"] == "resumed" else 0
