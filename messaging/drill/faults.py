"""Bad lines: a socket whose frames are lost, doubled, delayed and overtaken in both directions, above TCP.

So "it was delivered but the program lost it" is covered, which no proxy could do. Each frame has its own luck, also those that
came in one array.
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

OVERTAKEN = 0.1  # share of frames that later ones overtake
LATE_S = (0.005, 0.3)
ARRAY_MOST = 100  # frames, by the contract

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


@dataclasses.dataclass(slots=True)
class Faults:
    """Decides each frame's fate and counts it."""

    plan: Plan
    dice: random.Random
    done: Counter[str] = dataclasses.field(default_factory=Counter)

    def carry(self, frame: Frame, onward: Callable[[Frame], None]) -> None:
        """Pass a frame on: never, once or twice, now or later."""
        self.done["frames"] += 1
        if self.dice.random() < self.plan.loss:
            self.done["lost"] += 1
            return
        self._pass(frame, onward)
        if self.dice.random() < self.plan.duplicate:
            self.done["doubled"] += 1
            self._pass(frame, onward)

    def _pass(self, frame: Frame, onward: Callable[[Frame], None]) -> None:
        if not self.plan.reorder or self.dice.random() >= OVERTAKEN:
            onward(frame)
            return
        self.done["overtaken"] += 1
        asyncio.get_running_loop().call_later(self.dice.uniform(*LATE_S), onward, frame)


class Line:
    """One socket behind faults. What is still late when it ends never arrives. `gone`: told of each frame that got through."""

    def __init__(
        self,
        socket: ClientConnection,
        faults: Faults,
        take: Callable[[Frame], None],
        gone: Callable[[Frame], None],
    ) -> None:
        self._socket = socket
        self._faults = faults
        self._take = take
        self._gone = gone
        self._open = True
        self._waiting: list[Frame] = []
        self._news = asyncio.Event()

    def send(self, frame: Frame) -> None:
        """Send a frame, if it gets through."""
        if self._open:
            self._faults.carry(frame, self._queue)

    def cut(self) -> None:
        """Lose the connection without a word."""
        self._open = False
        self._socket.transport.abort()

    async def run(self) -> int:
        """Hand on what arrives until the connection ends; return its close code."""
        writer = asyncio.create_task(self._write())
        try:
            async for text in self._socket:
                for frame in frames_of(text):
                    self._faults.done["pushed"] += _messages_in(frame)
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
                    frames, self._waiting = self._waiting[:ARRAY_MOST], self._waiting[ARRAY_MOST:]
                    await self._socket.send(text_of(frames))
                    for frame in frames:
                        self._gone(frame)


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
