"""The frames of one open WebSocket: text, arrays, sending and receiving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]
Deliver = Callable[[Frame], None]

MAX_ARRAY_FRAMES = 100  # by the contract

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class Line:
    """An open socket. `take` gets each frame that arrives, `handed_over` each frame that the socket took.

    `carry` delivers a frame of either direction, or loses it. A frame that it delays until the line has ended never arrives.
    """

    def __init__(
        self,
        socket: ClientConnection,
        *,
        take: Deliver,
        handed_over: Deliver,
        carry: Callable[[Frame, Deliver], None],
    ) -> None:
        self._socket = socket
        self._take = take
        self._handed_over = handed_over
        self._carry = carry
        self._open = True
        self._waiting: list[Frame] = []
        self._news = asyncio.Event()

    def send(self, frame: Frame) -> None:
        if self._open:
            self._carry(frame, self._queue)

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        self._open = False
        self._socket.transport.abort()

    async def run(self) -> int:
        """Take the arriving frames until the connection ends; return its close code."""
        writer = asyncio.create_task(self._write())
        try:
            async for text in self._socket:
                for frame in frames_of(text):
                    self._carry(frame, self._arrive)
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
                        self._handed_over(frame)


def frames_of(text: str | bytes) -> list[Frame]:
    """Return the frames of one WebSocket message."""
    data = _decoder.decode(text)
    return data if isinstance(data, list) else [data]


def text_of(frames: list[Frame]) -> str:
    """Return frames as one WebSocket message."""
    return _encoder.encode(frames[0] if len(frames) == 1 else frames).decode()
