"""A line to a store that can become half-open: connections stay, and what one side sends never arrives."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Literal

Direction = Literal["requests", "replies"]


class Line:
    """A TCP proxy before a store's Unix socket. `dropped`: the bytes of these directions are thrown away."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.dropped: set[Direction] = set()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> Line:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            answers, requests = await asyncio.open_unix_connection(self.socket)
            self._writers.add(requests)
            for source, target, direction in ((reader, requests, "requests"), (answers, writer, "replies")):
                task = asyncio.create_task(self._pass(source, target, direction))  # type: ignore[arg-type]
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if direction not in self.dropped:
                    target.write(data)
                    await target.drain()
        target.close()
