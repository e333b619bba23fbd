"""One person's page, as docs/protocol.md asks for it: an outbox, a log for each room, cumulative acks, backoff.

A message out: `offer` -> outbox -> `send` with its id until `sent`, its own `message` or a final error, one unanswered in a room
-> the next. A message in: follows the log's last seq -> held, written down, acknowledged within 250 ms; leaves a gap -> kept
aside, `sync`; known -> acknowledged again. What is asked and not answered is asked again: over these lines anything may be lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidMessage
from websockets.typing import Origin

from .faults import Faults, Frame, Line
from .ledger import Ledger, digest

OPEN_WITHIN_S = 15.0  # a server that was killed takes its time to come back
WELCOME_WITHIN_S = 6.0
ACK_AFTER_S = 0.25
LOOK_EVERY_S = 0.5
SEND_AGAIN_AFTER_S = 3.0
SYNC_AGAIN_AFTER_S = 3.0
RETRY_AFTER_MS = 1_000
HEALTHY_S = 10.0
BACKOFF_MOST_S = 30.0
BACKOFF_FIRST_S = 0.5
UNHEALTHY = (4400, 4429)
FINAL = (4501, 4503, 4504)


@dataclasses.dataclass(slots=True)
class Log:
    """A room as this client holds it: everything up to `last`. `ahead` waits for what is missing before it."""

    room: str
    epoch: str
    last: int = 0
    rev: int = 0
    ahead: dict[int, Frame] = dataclasses.field(default_factory=dict)
    asked_s: float | None = None  # when the unanswered `sync` was sent


@dataclasses.dataclass(slots=True)
class Item:
    """A message in the outbox; `due_s` None: not said over this connection yet."""

    id: str
    body: str
    due_s: float | None = None


@dataclasses.dataclass(slots=True)
class Tally:
    """What all clients of a drill count together. `holders`: (room, epoch, seq) -> recipients who hold it, the sender not."""

    holders: Counter[tuple[str, str, int]] = dataclasses.field(default_factory=Counter)
    accepted: int = 0
    refused: int = 0
    held: int = 0
    closes: Counter[int] = dataclasses.field(default_factory=Counter)  # connections, by how they ended


class Client:
    """One person with one connection at a time."""

    def __init__(
        self, url: str, *, user: int, cookie: str, origin: str, ledger: Ledger, faults: Faults, tally: Tally
    ) -> None:
        self.user = user
        self.logs: dict[str, Log] = {}
        self.welcomed = False
        self.ended: int | None = None  # the close code after which nobody may come back
        self._url = url
        self._cookie = cookie
        self._origin = Origin(origin)
        self._ledger = ledger
        self._faults = faults
        self._tally = tally
        self._dice: random.Random = faults.dice
        self._outbox: dict[str, deque[Item]] = {}
        self._numbers: Counter[str] = Counter()
        self._mine: dict[str, tuple[str, int]] = {}  # id -> where it was accepted
        self._line: Line | None = None
        self._owed: set[str] = set()
        self._ack_timer: asyncio.TimerHandle | None = None

    @property
    def unsettled(self) -> int:
        """Messages offered and neither accepted nor refused."""
        return sum(map(len, self._outbox.values()))

    # What its person does

    def offer(self, room: str, body: str) -> None:
        """Put a message into the outbox."""
        item = Item(str(uuid.UUID(int=self._dice.getrandbits(128), version=4)), body)
        self._numbers[room] += 1
        self._ledger.write("offered", room, item.id, self._numbers[room], digest(body), _now_ms())
        self._ledger.flush()
        self._outbox.setdefault(room, deque()).append(item)
        self._say_next(room)

    def cut(self) -> None:
        """Lose the connection without a word."""
        if self._line is not None:
            self._line.cut()

    # The connection

    async def live(self) -> None:
        """Connect and come back for as long as the server lets it; ends when cancelled."""
        failures = 0
        while self.ended is None:
            began_s = time.monotonic()
            code = await self._connect()
            self._tally.closes[code] += 1
            if code in FINAL:
                self.ended = code
                self._ledger.write("disagreed", f"closed for good with {code}")
                return
            if time.monotonic() - began_s > HEALTHY_S and code not in UNHEALTHY:
                failures = 0
            await asyncio.sleep(self._dice.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2.0**failures)))
            failures += 1

    async def _connect(self) -> int:
        """Talk until the connection ends; return its close code."""
        try:
            async with asyncio.timeout(OPEN_WITHIN_S):
                socket = await connect(
                    self._url,
                    additional_headers={"Cookie": self._cookie},
                    origin=self._origin,
                    compression=None,
                    max_size=None,
                    close_timeout=1,
                )
        except (OSError, InvalidHandshake, InvalidMessage, TimeoutError, EOFError):
            return 1006
        looking = asyncio.create_task(self._look_for_ever())
        try:
            self._line = Line(socket, self._faults, self._take)
            held = [
                {"room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev}
                for log in self.logs.values()
            ]
            self._say({"type": "hello", "v": 1, "rooms": held})
            return await self._line.run()
        finally:
            looking.cancel()
            socket.transport.abort()
            self._forget_connection()

    def _forget_connection(self) -> None:
        self._line = None
        self.welcomed = False
        for log in self.logs.values():
            log.asked_s = None
        for items in self._outbox.values():
            for item in items:
                item.due_s = None

    async def _look_for_ever(self) -> None:
        """Ask again for what was not answered in time."""
        opened_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = time.monotonic()
            if not self.welcomed:
                if now_s - opened_s > WELCOME_WITHIN_S:
                    self.cut()
                continue
            for room in self._outbox:
                self._say_next(room)
            for log in self.logs.values():
                if log.asked_s is not None and now_s - log.asked_s > SYNC_AGAIN_AFTER_S:
                    log.asked_s = None
                    self._sync(log)
                elif log.ahead:
                    self._sync(log)  # what lies before one's own message has not come by itself

    def _say(self, frame: Frame) -> None:
        if self._line is not None:
            self._line.send(frame)

    # Frames

    def _take(self, frame: Frame) -> None:
        if frame["type"] == "welcome":
            self._on_welcome(frame)
            return
        handler: Callable[[Frame], None] | None = getattr(self, f"_on_{frame['type']}", None)
        if handler is not None and self.welcomed:
            handler(frame)

    def _on_welcome(self, frame: Frame) -> None:
        if self.welcomed:
            return  # came twice
        self.welcomed = True
        for room in frame["rooms"]:
            if room["room"] not in self.logs:
                log = Log(room["room"], room["epoch"], room["delivered"], room["rev"])
                self.logs[room["room"]] = log
        for name in self._outbox:
            self._say_next(name)

    def _on_message(self, frame: Frame) -> None:
        log = self.logs[frame["room"]]
        if frame["epoch"] != log.epoch:
            self._begin_anew(log, frame["epoch"])
        elif frame["seq"] <= log.last:
            self._owe(log)
        elif _follows(log, frame):
            self._hold(log, frame)
            self._take_ahead(log)
        else:
            log.ahead[frame["seq"]] = frame
            self._sync(log)

    def _on_resumed(self, frame: Frame) -> None:
        log = self.logs[frame["room"]]
        if "changed" in frame:
            log.asked_s = None
        if not frame["ok"]:
            if frame["why"] != "epoch":
                self._ledger.write("disagreed", f"{frame['why']} in {log.room}")
            elif frame["epoch"] != log.epoch or frame["from"] == log.last:
                self._begin_anew(log, frame["epoch"])
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
        else:
            self._take_ahead(log)

    def _on_position(self, frame: Frame) -> None:
        log = self.logs[frame["room"]]
        if frame["epoch"] != log.epoch:
            self._begin_anew(log, frame["epoch"])
        elif frame["top"] > log.last or frame["rev"] > log.rev:
            self._sync(log)

    def _on_sent(self, frame: Frame) -> None:
        """Take the answer for the message itself, which its writer has: nobody owes it to him, so no net would bring it."""
        items = self._outbox.get(frame["room"])
        log = self.logs[frame["room"]]
        if items and items[0].id == frame["id"] and frame["epoch"] == log.epoch and frame["seq"] > log.last:
            own = {"from": {"id": self.user}, "body": items[0].body}
            log.ahead.setdefault(frame["seq"], frame | own)
        self._settle(frame["room"], frame["id"], frame["epoch"], frame["seq"])
        if frame["seq"] == log.last + 1:
            self._take_ahead(log)

    def _on_error(self, frame: Frame) -> None:
        if frame["of"] != "send":
            return
        items = self._outbox.get(frame.get("room", ""))
        if not items or items[0].id != frame.get("id"):
            return
        if frame["retryable"]:
            items[0].due_s = time.monotonic() + frame.get("retry_after_ms", RETRY_AFTER_MS) / 1000
            return
        self._ledger.write("refused", frame["room"], frame["id"], frame["code"])
        self._tally.refused += 1
        items.popleft()
        self._say_next(frame["room"])

    def _on_receipt(self, frame: Frame) -> None:
        for seq, delivered, _read, _total in frame["receipts"]:
            held = self._tally.holders[frame["room"], frame["epoch"], seq]
            if delivered > held:
                self._ledger.write("overclaimed", frame["room"], seq, delivered, held)

    # The log of a room

    def _hold(self, log: Log, message: Frame) -> None:
        log.last = message["seq"]
        late_ms = _now_ms() - message["sent_at"]
        self._ledger.write(
            "held", log.room, log.epoch, message["seq"], message["id"], digest(message["body"]), late_ms
        )
        self._tally.held += 1
        if message["from"]["id"] == self.user:
            self._settle(log.room, message["id"], log.epoch, message["seq"])
        else:
            self._tally.holders[log.room, log.epoch, message["seq"]] += 1
        self._owe(log)

    def _take_ahead(self, log: Log) -> None:
        """Hold what waited for the messages before it."""
        for seq in sorted(log.ahead):
            if seq > log.last and not _follows(log, log.ahead[seq]):
                self._sync(log)
                return
            message = log.ahead.pop(seq)
            if seq > log.last:
                self._hold(log, message)

    def _begin_anew(self, log: Log, epoch: str) -> None:
        self._ledger.write("dropped", log.room, epoch)
        log.epoch, log.last, log.rev, log.asked_s = epoch, 0, 0, None
        log.ahead.clear()
        self._sync(log)

    def _sync(self, log: Log) -> None:
        if log.asked_s is None:
            log.asked_s = time.monotonic()
            self._say(
                {"type": "sync", "room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev}
            )

    # Acknowledging

    def _owe(self, log: Log) -> None:
        self._owed.add(log.room)
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_AFTER_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if not self.welcomed:
            return  # the next `hello` says it
        rooms: list[dict[str, Any]] = []
        for room in self._owed:
            log = self.logs[room]
            self._ledger.write("acknowledged", room, log.epoch, log.last)
            rooms.append({"room": room, "epoch": log.epoch, "delivered": log.last})
        self._owed.clear()
        self._ledger.flush()
        self._say({"type": "ack", "rooms": rooms})

    # The outbox

    def _say_next(self, room: str) -> None:
        items = self._outbox.get(room)
        now_s = time.monotonic()
        if not items or not self.welcomed or (items[0].due_s is not None and items[0].due_s > now_s):
            return
        items[0].due_s = now_s + SEND_AGAIN_AFTER_S * self._dice.uniform(0.5, 1)
        self._say({"type": "send", "id": items[0].id, "room": room, "body": items[0].body})

    def _settle(self, room: str, message_id: str, epoch: str, seq: int) -> None:
        """Take the word that a message of one's own is accepted; it may come twice, and must agree."""
        if self._mine.get(message_id) == (epoch, seq):
            return
        self._ledger.write("accepted", room, message_id, epoch, seq)
        if message_id not in self._mine:
            self._tally.accepted += 1
        self._mine[message_id] = epoch, seq
        items = self._outbox.get(room)
        if items and items[0].id == message_id:
            items.popleft()
            self._say_next(room)


def _follows(log: Log, message: Frame) -> bool:
    after = message.get("after", message["seq"] - 1)
    return bool(after <= log.last < message["seq"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
