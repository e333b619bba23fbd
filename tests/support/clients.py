"""Clients written from docs/protocol.md: they know nothing of the server.

`Wire` is a socket that sends any frame and keeps everything that arrives. `Client` follows the contract and keeps what its user would see.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
import uuid
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from messaging.drill.protocol import Log, ProtocolClient, Timing

Frame = dict[str, Any]

WITHIN_S = 8.0
TIMING = Timing(open_s=WITHIN_S, check_s=1.0, resend_s=(6.0, 7.0))


def new_id() -> str:
    return str(uuid.uuid4())


def frames_of(text: str | bytes) -> list[Frame]:
    data = json.loads(text)
    return data if isinstance(data, list) else [data]


class Wire:
    """An open socket. `frames`: all that arrived, in order; `closed`: the close code, None while it is open."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        self.texts: list[str] = []
        self.heard_s: list[float] = []  # when each of `frames` arrived
        self.closed: int | None = None
        self.seen = 0  # the number of frames that `next` has passed
        self._news = asyncio.Condition()
        self._paused = asyncio.Event()
        self._paused.set()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, *, cookie: str, origin: str) -> Wire:
        headers = {"Cookie": cookie} if cookie else {}
        return cls(
            await connect(
                url,
                additional_headers=headers,
                origin=origin,  # type: ignore[arg-type]
                compression=None,
                max_size=None,
                ping_interval=None,
                open_timeout=WITHIN_S,
                close_timeout=1,
            )
        )

    async def _read(self) -> None:
        try:
            while True:
                await self._paused.wait()
                text = await self.socket.recv(decode=True)
                async with self._news:
                    self.texts.append(text)
                    self.frames += frames_of(text)
                    self.heard_s += [time.monotonic()] * (len(self.frames) - len(self.heard_s))
                    self._news.notify_all()
        except ConnectionClosed as end:
            async with self._news:
                self.closed = end.rcvd.code if end.rcvd else 1006
                self._news.notify_all()

    def stop_reading(self) -> None:
        """Read nothing more from the kernel: its buffers fill, then those of the server."""
        self._paused.clear()
        self.socket.transport.pause_reading()

    def read_on(self) -> None:
        self.socket.transport.resume_reading()
        self._paused.set()

    async def send(self, *frames: Frame) -> None:
        """Send one frame, or several as one array."""
        await self.say(json.dumps(frames[0] if len(frames) == 1 else frames, ensure_ascii=False))

    async def say(self, text: str | bytes) -> None:
        await self.socket.send(text)

    async def next(self, kind: str, *, within_s: float = WITHIN_S, **fields: Any) -> Frame:
        """Return the next frame of a type with these fields. Frames before it are skipped."""
        try:
            async with asyncio.timeout(within_s), self._news:
                while True:
                    while self.seen < len(self.frames):
                        frame = self.frames[self.seen]
                        self.seen += 1
                        if frame["type"] == kind and fields.items() <= frame.items():
                            return frame
                    assert self.closed is None, (
                        f"closed with {self.closed}, no {kind} {fields} in {self.tail()}"
                    )
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind} {fields} within {within_s} s in {self.tail()}") from None

    async def close_code(self, *, within_s: float = WITHIN_S) -> int:
        """Wait for the server's close; return its code."""
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: self.closed is not None)
        except TimeoutError:
            raise AssertionError(f"not closed within {within_s} s, received {self.tail()}") from None
        assert self.closed is not None
        return self.closed

    async def fence(self) -> None:
        """Wait until everything that was sent is answered: the server handles frames in order."""
        n = random.randrange(2**50)
        await self.send({"type": "ping", "n": n})
        await self.next("pong", n=n)

    async def told(self, *row: int) -> None:
        """Wait for a receipt with this row: seq, delivered, read, total."""
        while list(row) not in (await self.next("receipt"))["receipts"]:
            pass

    def heard(self, kind: str, **fields: Any) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind and fields.items() <= frame.items()]

    def tail(self) -> str:
        return json.dumps(self.frames[-12:])[:3_000]

    async def hello(self, *rooms: Frame) -> Frame:
        """Send `hello` and return the `welcome`."""
        await self.send({"type": "hello", "v": 1, "rooms": list(rooms)})
        return await self.next("welcome")

    async def post(self, room: str, body: str, **more: Any) -> Frame:
        """Send a message and return its `sent`."""
        message_id = more.pop("id", None) or new_id()
        at, self.seen = self.seen, len(self.frames)
        await self.send({"type": "send", "id": message_id, "room": room, "body": body, **more})
        sent = await self.next("sent", id=message_id)
        self.seen = at  # frames that arrived since then can still be awaited
        return sent

    async def ack(self, room: str, epoch: str, **fields: int | list[int]) -> None:
        await self.send({"type": "ack", "rooms": [{"room": room, "epoch": epoch, **fields}]})

    async def aclose(self) -> None:
        self._paused.set()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self.socket.transport.abort()
        await self.socket.wait_closed()


@dataclasses.dataclass(slots=True)
class HeldLog(Log):
    """The log of a room with its messages. `held`: in the order in which they were taken; `first`: where the log began."""

    held: list[Frame] = dataclasses.field(default_factory=list)
    first: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.first = self.last


class Client(ProtocolClient):
    """A page that connects until it is closed, and keeps what it holds.

    It repeats only what the contract tells it to repeat, so that an answer that the server forgot fails the test.
    """

    logs: dict[str, HeldLog]

    def __init__(
        self,
        url: str,
        *,
        user: int,
        cookie: str,
        origin: str,
        max_backoff_s: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        timing = dataclasses.replace(TIMING, max_backoff_s=max_backoff_s)
        super().__init__(
            url, user=user, cookie=cookie, origin=origin, timing=timing, rng=rng or random.Random()
        )
        self.refused: dict[str, str] = {}  # message id -> code
        self.disagreed: list[str] = []  # what the contract forbids
        self.closes: list[int] = []
        self.connections = 0
        self._life = asyncio.create_task(self.live())

    async def aclose(self) -> None:
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    def _take(self, frame: Frame) -> None:
        if not self.welcomed and frame["type"] not in ("welcome", "error", "bye"):
            self.disagreed.append(f"{frame['type']} before welcome")
        super()._take(frame)

    def _on_welcome(self, frame: Frame) -> None:
        self.connections += 1
        super()._on_welcome(frame)

    def _new_log(self, room: str, epoch: str, last: int = 0, rev: int = 0) -> HeldLog:
        return HeldLog(room, epoch, last, rev)

    def _record_held(self, log: HeldLog, message: Frame) -> None:
        log.held.append(message)

    def _record_refused(self, room: str, message_id: str, code: str) -> None:
        self.refused[message_id] = code

    def _record_violation(self, text: str) -> None:
        self.disagreed.append(text)

    def _record_close(self, code: int) -> None:
        self.closes.append(code)


def seqs(frames: Sequence[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames]
