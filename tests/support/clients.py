"""Clients as somebody else would write them from docs/protocol.md: nothing here is imported from the server.

`Wire` is a socket that says what it is told to and keeps what it hears. `Client` keeps the contract: a log for each room with the
rules for gaps, cumulative acknowledgements, an outbox, backoff; its ledger is what a person would have on the screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

Frame = dict[str, Any]

WITHIN_S = 8.0
ACK_AFTER_S = 0.25
DOUBT_AFTER_S = 6.0  # without an answer a `send` is said again, with its id
HEALTHY_S = 10.0
FINAL_CLOSES = {4501, 4503, 4504}
AGAIN_AFTER_MS = 1_000


def new_id() -> str:
    return str(uuid.uuid4())


def frames_of(text: str | bytes) -> list[Frame]:
    data = json.loads(text)
    return data if isinstance(data, list) else [data]


class Wire:
    """An open socket. `frames` is all that came, in order; `closed` is the close code, once it is."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        self.texts: list[str] = []
        self.heard_s: list[float] = []  # when each of `frames` came
        self.closed: int | None = None
        self.seen = 0  # frames that `next` has passed
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
        """Take nothing more from the kernel: its buffers fill, then the server's."""
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
        """Return the next frame of a type with these fields; what comes before it is passed over."""
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
            raise AssertionError(f"not closed within {within_s} s, heard {self.tail()}") from None
        assert self.closed is not None
        return self.closed

    async def fence(self) -> None:
        """Wait until everything said so far is answered: frames are taken in order."""
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
        """Say hello and return the `welcome`."""
        await self.send({"type": "hello", "v": 1, "rooms": list(rooms)})
        return await self.next("welcome")

    async def post(self, room: str, body: str, **more: Any) -> Frame:
        """Send a message and return its `sent`."""
        message_id = more.pop("id", None) or new_id()
        at, self.seen = self.seen, len(self.frames)
        await self.send({"type": "send", "id": message_id, "room": room, "body": body, **more})
        sent = await self.next("sent", id=message_id)
        self.seen = at  # what came meanwhile can still be waited for
        return sent

    async def ack(self, room: str, epoch: str, **cursors: int) -> None:
        await self.send({"type": "ack", "rooms": [{"room": room, "epoch": epoch, **cursors}]})

    async def aclose(self) -> None:
        self._paused.set()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self.socket.transport.abort()
        await self.socket.wait_closed()


@dataclasses.dataclass(slots=True)
class Log:
    """What a client holds of a room. `held`: the messages in the order in which they were taken."""

    room: str
    epoch: str
    last: int
    rev: int = 0
    first: int = 0  # where the log began for this client
    held: list[Frame] = dataclasses.field(default_factory=list)
    ahead: dict[int, Frame] = dataclasses.field(default_factory=dict)
    asked: bool = False

    def begin_anew(self, epoch: str) -> None:
        self.epoch, self.last, self.rev, self.first = epoch, 0, 0, 0
        self.held.clear()
        self.ahead.clear()


@dataclasses.dataclass(slots=True)
class Item:
    """A message in the outbox."""

    id: str
    room: str
    body: str
    ttl: int | None
    said_s: float | None = None  # when it was last sent over the present connection


class Client:
    """One page: connects for ever, holds what it got, says again what was not answered."""

    def __init__(
        self,
        url: str,
        *,
        cookie: str,
        origin: str,
        backoff_most_s: float = 30.0,
        dice: random.Random | None = None,
    ) -> None:
        self.url = url
        self.cookie = cookie
        self.origin = origin
        self.logs: dict[str, Log] = {}
        self.accepted: dict[str, tuple[str, int]] = {}  # message id -> epoch, seq
        self.refused: dict[str, str] = {}  # message id -> code
        self.disagreed: list[str] = []  # what the contract forbids
        self.closes: list[int] = []
        self.connections = 0
        self.welcomed = False
        self.over: int | None = None
        self._outbox: dict[str, deque[Item]] = {}
        self._backoff_most_s = backoff_most_s
        self._dice = dice or random.Random()
        self._socket: ClientConnection | None = None
        self._owed: set[str] = set()  # rooms to acknowledge
        self._ack_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._life = asyncio.create_task(self._live())
        self._spawn(self._say_again_for_ever())

    # What a person does

    def post(self, room: str, body: str, *, ttl: int | None = None) -> str:
        """Put a message into the outbox; return its id."""
        item = Item(new_id(), room, body, ttl)
        self._outbox.setdefault(room, deque()).append(item)
        self._drain(room)
        return item.id

    @property
    def waiting(self) -> int:
        return sum(map(len, self._outbox.values()))

    def cut(self) -> None:
        """Lose the connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def aclose(self) -> None:
        for task in (self._life, *self._tasks):
            task.cancel()
        await asyncio.gather(self._life, *self._tasks, return_exceptions=True)
        if self._ack_timer is not None:
            self._ack_timer.cancel()

    # The connection

    async def _live(self) -> None:
        failures = 0
        while True:
            began_s = time.monotonic()
            code = await self._connect_once()
            self.closes.append(code)
            if code in FINAL_CLOSES:
                self.over = code
                return
            if time.monotonic() - began_s > HEALTHY_S and code not in (4400, 4429):
                failures = 0
            await asyncio.sleep(self._dice.uniform(0, min(self._backoff_most_s, 0.5 * 2**failures)))
            failures += 1

    async def _connect_once(self) -> int:
        """Talk until the connection ends; return the close code."""
        try:
            async with asyncio.timeout(WITHIN_S):
                self._socket = await connect(
                    self.url,
                    additional_headers={"Cookie": self.cookie},
                    origin=self.origin,  # type: ignore[arg-type]
                    compression=None,
                    max_size=None,
                    close_timeout=1,
                )
            rooms = [
                {"room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev}
                for log in self.logs.values()
            ]
            self._say({"type": "hello", "v": 1, "rooms": rooms})
            async for text in self._socket:
                for frame in frames_of(text):
                    self._take(frame)
            return self._socket.close_code or 1006
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006
        except (OSError, InvalidHandshake, InvalidMessage, TimeoutError, EOFError):
            return 1006
        finally:
            await self._forget_connection()

    async def _forget_connection(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.abort()
            await socket.wait_closed()
        self.welcomed = False
        for log in self.logs.values():
            log.asked = False
        for items in self._outbox.values():
            for item in items:
                item.said_s = None

    def _say(self, frame: Frame) -> None:
        socket = self._socket
        if socket is not None:
            self._spawn(self._send(socket, json.dumps(frame)))

    async def _send(self, socket: ClientConnection, text: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(text)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Frames

    def _take(self, frame: Frame) -> None:
        handler: Callable[[Frame], None] | None = getattr(self, f"_on_{frame['type']}", None)
        if not self.welcomed and frame["type"] not in ("welcome", "error", "bye"):
            self.disagreed.append(f"{frame['type']} before welcome")
        if handler is not None:
            handler(frame)

    def _on_welcome(self, frame: Frame) -> None:
        self.welcomed = True
        self.connections += 1
        for room in frame["rooms"]:
            self._know(room)
        for gone in self.logs.keys() - {room["room"] for room in frame["rooms"]}:
            del self.logs[gone]
        for room_id in self._outbox:
            self._drain(room_id)

    def _know(self, room: Frame) -> None:
        if room["room"] not in self.logs:
            at = room["delivered"]
            self.logs[room["room"]] = Log(room["room"], room["epoch"], at, room["rev"], at)

    def _on_room(self, frame: Frame) -> None:
        if frame.get("removed"):
            self.logs.pop(frame["room"], None)
        else:
            self._know(frame)

    def _on_resumed(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if "changed" in frame:
            log.asked = False
        if not frame["ok"]:
            if frame["why"] == "not_member":
                del self.logs[frame["room"]]
                return
            log.begin_anew(frame["epoch"])
            self._sync(log)
            return
        if frame["epoch"] != log.epoch or frame["from"] > log.last:
            self._sync(log)
            return
        for message in frame["messages"]:
            if message["seq"] > log.last:
                self._hold(log, message)
        log.last = max(log.last, frame["upto"])
        if "changed" in frame:
            log.rev = max(log.rev, frame["rev"])
        self._owe(log)
        if frame["more"]:
            self._sync(log)
            return
        if frame["upto"] != frame["top"]:
            self.disagreed.append(f"resumed without more ends at {frame['upto']} below {frame['top']}")
        self._take_ahead(log)

    def _on_message(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if frame["epoch"] != log.epoch:
            log.begin_anew(frame["epoch"])
            self._sync(log)
        elif frame["seq"] <= log.last:
            self._owe(log)
        elif _follows(log, frame):
            self._hold(log, frame)
            self._owe(log)
            self._take_ahead(log)
        else:
            log.ahead[frame["seq"]] = frame
            self._sync(log)

    def _hold(self, log: Log, message: Frame) -> None:
        log.held.append(message)
        log.last = message["seq"]
        self._settled(message["room"], message["id"], message["epoch"], message["seq"])

    def _take_ahead(self, log: Log) -> None:
        for seq in sorted(log.ahead):
            message = log.ahead[seq]
            if seq <= log.last:
                del log.ahead[seq]
            elif _follows(log, message):
                del log.ahead[seq]
                self._hold(log, message)
                self._owe(log)
            else:
                self._sync(log)
                return

    def _on_position(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if frame["epoch"] != log.epoch:
            log.begin_anew(frame["epoch"])
        elif frame["top"] <= log.last and frame["rev"] <= log.rev:
            return
        self._sync(log)

    def _sync(self, log: Log) -> None:
        if log.asked:
            return
        log.asked = True
        self._say({"type": "sync", "room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev})

    # Acknowledging

    def _owe(self, log: Log) -> None:
        self._owed.add(log.room)
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_AFTER_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        logs = [self.logs[room] for room in self._owed if room in self.logs]
        self._owed.clear()
        if logs and self.welcomed:
            rooms = [{"room": log.room, "epoch": log.epoch, "delivered": log.last} for log in logs]
            self._say({"type": "ack", "rooms": rooms})

    # The outbox: one unanswered message a room keeps this person's own order

    def _drain(self, room: str) -> None:
        items = self._outbox.get(room)
        if not items or not self.welcomed or items[0].said_s is not None:
            return
        item = items[0]
        item.said_s = time.monotonic()
        frame: Frame = {"type": "send", "id": item.id, "room": room, "body": item.body}
        if item.ttl is not None:
            frame["ttl"] = item.ttl
        self._say(frame)

    async def _say_again_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            doubted_s = time.monotonic() - DOUBT_AFTER_S
            for room, items in self._outbox.items():
                if items and items[0].said_s is not None and items[0].said_s < doubted_s:
                    items[0].said_s = None
                    self._drain(room)

    def _on_sent(self, frame: Frame) -> None:
        self._settled(frame["room"], frame["id"], frame["epoch"], frame["seq"])

    def _settled(self, room: str, message_id: str, epoch: str, seq: int) -> None:
        before = self.accepted.get(message_id)
        if before is not None and before != (epoch, seq):
            self.disagreed.append(f"{message_id} accepted as {before} and as {(epoch, seq)}")
        items = self._outbox.get(room)
        if items and items[0].id == message_id:
            items.popleft()
            self._drain(room)
        elif before is None and not (items and any(item.id == message_id for item in items)):
            return  # somebody else's
        self.accepted[message_id] = epoch, seq

    def _on_error(self, frame: Frame) -> None:
        items = self._outbox.get(frame.get("room", ""))
        if not items or items[0].id != frame.get("id"):
            return
        if not frame["retryable"]:
            self.refused[frame["id"]] = frame["code"]
            items.popleft()
            self._drain(frame["room"])
            return
        after_s = frame.get("retry_after_ms", AGAIN_AFTER_MS) / 1000
        asyncio.get_running_loop().call_later(after_s, self._again, frame["room"], frame["id"])

    def _again(self, room: str, message_id: str) -> None:
        items = self._outbox.get(room)
        if items and items[0].id == message_id:
            items[0].said_s = None
            self._drain(room)


def _follows(log: Log, frame: Frame) -> bool:
    return frame["seq"] == log.last + 1 or frame.get("after", frame["seq"]) <= log.last < frame["seq"]


def seqs(frames: Sequence[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames]
