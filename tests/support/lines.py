"""A line that can fail in the ways of a network: half-open, silent, slow, cut, and without the end of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Literal

Direction = Literal["requests", "replies"]
BOTH: tuple[Direction, Direction] = ("requests", "replies")


class Line:
    """A TCP proxy before a Unix socket or a port of this machine.

    `dropped`: the bytes of these directions are thrown away. `forgotten`: the same, of connections that are open now.
    `held`: nothing is read while it is set. `refused`: new connections are closed. `lost_replies`: the share of replies that are
    thrown away, each with its connection. `slices`: the most bytes of one write, and the longest wait before it.
    """

    def __init__(self, target: Path | int, *, rng: random.Random | None = None) -> None:
        self.socket = target
        self.dropped: set[Direction] = set()
        self.held = False
        self.refused = False
        self.lost_replies = 0.0
        self.slices: tuple[int, float] | None = None
        self.url = ""
        self.port = 0
        self._rng = rng or random.Random()
        self._server: asyncio.Server | None = None
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> Line:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._forgotten.clear()

    def forget(self) -> None:
        """Let all present connections become half-open for ever, as a firewall does. New ones work."""
        self._forgotten |= self._writers

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refused:
            writer.transport.abort()
            return
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            if isinstance(self.socket, Path):
                answers, requests = await asyncio.open_unix_connection(self.socket)
            else:
                answers, requests = await asyncio.open_connection("127.0.0.1", self.socket)
            self._writers.add(requests)
            for source, target, direction in ((reader, requests, "requests"), (answers, writer, "replies")):
                task = asyncio.create_task(self._pass(source, target, direction))  # type: ignore[arg-type]
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            return
        self._writers.discard(writer)
        writer.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                while self.held:
                    await asyncio.sleep(0.05)
                if direction in self.dropped or target in self._forgotten:
                    continue
                if direction == "replies" and self._rng.random() < self.lost_replies:
                    target.transport.abort()
                    break
                await self._write(target, data)
        self._writers.discard(target)
        target.close()

    async def _write(self, target: asyncio.StreamWriter, data: bytes) -> None:
        if self.slices is None:
            target.write(data)
            await target.drain()
            return
        size, wait_s = self.slices
        while data:
            part = self._rng.randint(1, size)
            await asyncio.sleep(self._rng.uniform(0, wait_s))
            target.write(data[:part])
            await target.drain()
            data = data[part:]
