"""Unreliable connections: frames of a socket are lost, duplicated, delayed and reordered in both directions, above TCP.

A proxy could not cover "delivered, but lost by the program". Each frame is treated alone, even when several came in one array.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .plan import Plan

Frame = dict[str, Any]

OVERTAKEN_SHARE = 0.1  # of the frames
DELAY_S = (0.005, 0.3)
MAX_ARRAY_FRAMES = 100  # by the contract

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


@dataclasses.dataclass(slots=True)
class Faults:
    """Decides for each frame whether and when it arrives, and counts the faults."""

    plan: Plan
    rng: random.Random
    counts: Counter[str] = dataclasses.field(default_factory=Counter)

    def carry(self, frame: Frame, deliver: Callable[[Frame], None]) -> None:
        """Deliver a frame never, once or twice, now or later."""
        self.counts["frames"] += 1
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


class Line:
    """One socket with faults. Frames that are still delayed when it ends never arrive. `sent` gets each frame that was handed over."""

    def __init__(
        self,
        socket: ClientConnection,
        faults: Faults,
        take: Callable[[Frame], None],
        sent: Callable[[Frame], None],
    ) -> None:
        self._socket = socket
        self._faults = faults
        self._take = take
        self._sent = sent
        self._open = True
        self._waiting: list[Frame] = []
        self._news = asyncio.Event()

    def send(self, frame: Frame) -> None:
        """Send a frame, unless it is lost."""
        if self._open:
            self._faults.carry(frame, self._queue)

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        self._open = False
        self._socket.transport.abort()

    async def run(self) -> int:
        """Deliver the arriving frames until the connection ends; return its close code."""
        writer = asyncio.create_task(self._write())
        try:
            async for text in self._socket:
                for frame in frames_of(text):
                    self._faults.counts["pushed"] += _messages_in(frame)
                    self._faults.carry(frame, self._arrive)
        except ConnectionClosed:
            pass
        finally:
            self._open = False
            writer.cancel()
        return self._socket.close_code or 1006

    def _arrive(self, frame: Frame) -> None:
        if self._open:
            self._take(frame)

    def _queue(self, frame: Frame) -> None:
        self._waiting.append(frame)
        self._news.set()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    frames, self._waiting = self._waiting[:MAX_ARRAY_FRAMES], self._waiting[MAX_ARRAY_FRAMES:]
                    await self._socket.send(text_of(frames))
                    for frame in frames:
                        self._sent(frame)


def _messages_in(frame: Frame) -> int:
    if frame["type"] == "message":
        return 1
    return len(frame["messages"]) if frame["type"] == "resumed" else 0


def frames_of(text: str | bytes) -> list[Frame]:
    """Return the frames of one WebSocket message."""
    data = _decoder.decode(text)
    return data if isinstance(data, list) else [data]


def text_of(frames: list[Frame]) -> str:
    """Return frames as one WebSocket message."""
    return _encoder.encode(frames[0] if len(frames) == 1 else frames).decode()
