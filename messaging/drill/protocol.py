"""A client that follows docs/protocol.md: an outbox, a log for each room, cumulative acknowledgements, backoff.

- Sending: `offer` adds a message to the outbox. `send` is repeated with its id until `sent`, the own `message` or a final error.
  Only one `send` in a room is unanswered.
- Receiving: a message that follows the last seq is held, and acknowledged within 250 ms. A message after a gap waits for `sync`. A
  known message is acknowledged again.

Subclasses override the `_record_` methods, add handlers (`_on_` and the type of a frame), and repeat more where frames are lost.
The clients of the drill and of the tests are such subclasses, so both read the contract in the same way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidMessage
from websockets.typing import Origin

from .line import Deliver, Frame, Line
from .outbox import Item, Outbox

# By the contract
ACK_AFTER_S = 0.25
RETRY_AFTER_MS = 1_000
HEALTHY_S = 10.0
FIRST_BACKOFF_S = 0.5
MAX_LATE = 500
UNHEALTHY_CLOSES = (4400, 4429)
FINAL_CLOSES = (4501, 4503, 4504)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The waits that the contract leaves open, in seconds; `max_backoff_s` is 30 by the contract.

    `check_s`: between two checks for unanswered requests; `resend_s`: the shortest and longest wait for the answer to a `send`.
    """

    open_s: float
    check_s: float
    resend_s: tuple[float, float]
    max_backoff_s: float = 30.0


@dataclasses.dataclass(slots=True)
class Log:
    """The log of a room, complete up to `last`. The messages in `ahead` wait for the ones before them; those in `late` arrived after
    their end.
    """

    room: str
    epoch: str
    last: int = 0
    rev: int = 0
    ahead: dict[int, Frame] = dataclasses.field(default_factory=dict)
    late: list[int] = dataclasses.field(default_factory=list)
    asked_s: float | None = None  # when the unanswered `sync` was sent

    def held_room(self) -> Frame:
        """Return the fields of a held room, in `hello` and `sync`."""
        late = self.late[-MAX_LATE:]
        return {"room": self.room, "epoch": self.epoch, "since": self.last, "rev": self.rev, "late": late}

    def ack(self) -> Frame:
        """Return the fields of an acked room. Late messages are repeated, because an earlier acknowledgement may have been lost."""
        late = self.late[-MAX_LATE:]
        return {"room": self.room, "epoch": self.epoch, "delivered": self.last, "late": late}

    def follows(self, message: Frame) -> bool:
        after = message.get("after", message["seq"] - 1)
        return bool(after <= self.last < message["seq"])


class ProtocolClient:
    """A user with one connection at a time."""

    def __init__(
        self, url: str, *, user: int, cookie: str, origin: str, timing: Timing, rng: random.Random
    ) -> None:
        self.user = user
        self.logs: dict[str, Log] = {}
        self.accepted: dict[str, tuple[str, int]] = {}  # message id -> epoch, seq
        self.welcomed = False
        self.ended: int | None = None  # the close code after which a client must not reconnect
        self._url = url
        self._cookie = cookie
        self._origin = Origin(origin)
        self._timing = timing
        self._rng = rng
        self._outbox = Outbox(rng, timing.resend_s, self._record_offered)
        self._failures = 0  # consecutive connections that did not last
        self._line: Line | None = None
        self._opened_s = 0.0  # when the last connection was opened
        self._unacknowledged: set[str] = set()  # rooms
        self._ack_timer: asyncio.TimerHandle | None = None

    @property
    def unsettled(self) -> int:
        """The number of messages that are neither accepted nor refused."""
        return len(self._outbox)

    def offer(self, room: str, body: str, ttl: int | None = None) -> str:
        """Add a message to the outbox; return its id. `ttl` in seconds; None: that of the room."""
        message_id = self._outbox.offer(room, body, ttl)
        self._send_next(room)
        return message_id

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        if self._line is not None:
            self._line.cut()

    # What happens

    def _record_offered(self, room: str, item: Item, old: Item | None) -> None:
        """Record a new message. `old` was too old to be repeated, and is replaced by it."""

    def _record_accepted(self, room: str, epoch: str, own: Frame) -> None:
        """Record the place of an own message. A second one is a violation too."""

    def _record_refused(self, room: str, message_id: str, code: str) -> None:
        """Record a final error."""

    def _record_held(self, log: Log, message: Frame) -> None:
        """Record a message that was added to a log, or that is named there as late."""

    def _record_dropped(self, log: Log, epoch: str) -> None:
        """Record that a log is dropped for a new one with this epoch."""

    def _record_violation(self, text: str) -> None:
        """Record what the contract forbids."""

    def _record_handed_over(self, frame: Frame) -> None:
        """Record a frame that was handed to the socket."""

    def _record_close(self, code: int) -> None:
        """Record the end of a connection, or that none could be opened (1006)."""

    # The connection

    async def live(self) -> None:
        """Connect and reconnect until a final close code or cancellation."""
        while self.ended is None:
            started_s = time.monotonic()
            code = await self._connect()
            self._record_close(code)
            if code in FINAL_CLOSES:
                self.ended = code
                return
            if time.monotonic() - started_s > HEALTHY_S and code not in UNHEALTHY_CLOSES:
                self._failures = 0
            max_backoff_s = min(self._timing.max_backoff_s, FIRST_BACKOFF_S * 2.0**self._failures)
            await asyncio.sleep(self._rng.uniform(0, max_backoff_s))
            self._failures += 1

    async def _connect(self) -> int:
        """Exchange frames until the connection ends; return its close code."""
        try:
            async with asyncio.timeout(self._timing.open_s):
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
        checking = asyncio.create_task(self._check_answers_forever())
        try:
            self._opened_s = time.monotonic()
            self._line = Line(
                socket, take=self._take, handed_over=self._record_handed_over, carry=self._carry
            )
            self._send({"type": "hello", "v": 1, "rooms": [log.held_room() for log in self.logs.values()]})
            return await self._line.run()
        finally:
            checking.cancel()
            socket.transport.abort()
            self._forget_connection()

    def _carry(self, frame: Frame, deliver: Deliver) -> None:
        deliver(frame)

    def _forget_connection(self) -> None:
        self._line = None
        self.welcomed = False
        for log in self.logs.values():
            log.asked_s = None
        self._outbox.forget_connection()

    async def _check_answers_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timing.check_s)
            self._check_answers()

    def _check_answers(self) -> None:
        """Repeat requests that were not answered in time."""
        for room in self._outbox.rooms:
            self._send_next(room)

    def _send(self, frame: Frame) -> None:
        if self._line is not None:
            self._line.send(frame)

    # Frames

    def _take(self, frame: Frame) -> None:
        handler: Deliver | None = getattr(self, f"_on_{frame['type']}", None)
        if handler is not None and (self.welcomed or frame["type"] == "welcome"):
            handler(frame)

    def _on_welcome(self, frame: Frame) -> None:
        if self.welcomed:
            return  # a duplicate
        self.welcomed = True
        for room in frame["rooms"]:
            self._enter(room)
        for name in self.logs.keys() - {room["room"] for room in frame["rooms"]}:
            self._leave(name)
        for name in self._outbox.rooms:
            self._send_next(name)

    def _on_room(self, frame: Frame) -> None:
        if frame.get("removed"):
            self._leave(frame["room"])
        else:
            self._enter(frame)

    def _on_message(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if frame["epoch"] != log.epoch:
            self._restart_log(log, frame["epoch"])
        elif frame["seq"] <= log.last:
            self._acknowledge_later(log)
        elif log.follows(frame):
            self._hold(log, frame)
            self._take_ahead(log)
        else:
            log.ahead[frame["seq"]] = frame
            self._sync(log)

    def _on_resumed(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if "changed" in frame:
            log.asked_s = None
        if not frame["ok"]:
            if frame["why"] != "epoch":
                self._leave(log.room)
            elif frame["epoch"] != log.epoch or frame["from"] == log.last:
                self._restart_log(log, frame["epoch"])
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
        self._acknowledge_later(log)
        if frame["more"]:
            self._sync(log)
            return
        if frame["upto"] != frame["top"]:
            self._record_violation(f"resumed without more ends at {frame['upto']} below {frame['top']}")
        self._take_ahead(log)

    def _on_position(self, frame: Frame) -> None:
        log = self.logs.get(frame["room"])
        if log is None:
            return
        if frame["epoch"] != log.epoch:
            self._restart_log(log, frame["epoch"])
        elif frame["top"] > log.last or frame["rev"] > log.rev:
            self._sync(log)

    def _on_sent(self, frame: Frame) -> None:
        self._settle(frame["room"], frame["epoch"], frame)

    def _on_error(self, frame: Frame) -> None:
        room = frame.get("room", "")
        item = self._outbox.first(room, frame.get("id", ""))
        if frame["of"] != "send" or item is None:
            return
        if frame["retryable"]:
            after_s = frame.get("retry_after_ms", RETRY_AFTER_MS) / 1000
            item.due_s = time.monotonic() + after_s
            asyncio.get_running_loop().call_later(after_s, self._send_next, room)
            return
        self._record_refused(room, item.id, frame["code"])
        self._outbox.settle(room, item.id)
        self._send_next(room)

    # The log of a room

    def _new_log(self, room: str, epoch: str, last: int = 0, rev: int = 0) -> Log:
        return Log(room, epoch, last, rev)

    def _enter(self, room: Frame) -> None:
        name = room["room"]
        if name not in self.logs:
            self.logs[name] = self._new_log(name, room["epoch"], room["delivered"], room["rev"])

    def _leave(self, room: str) -> None:
        """Drop the log of a room in which this user is no longer a member."""
        self.logs.pop(room, None)

    def _hold(self, log: Log, message: Frame) -> None:
        log.last = message["seq"]
        if message["expires_at"] <= time.time() * 1000:
            log.late.append(log.last)
        self._record_held(log, message)
        if message["from"]["id"] == self.user:
            self._settle(log.room, log.epoch, message)
        self._acknowledge_later(log)

    def _take_ahead(self, log: Log) -> None:
        """Hold the messages in `ahead` that follow the log now."""
        for seq in sorted(log.ahead):
            if seq > log.last and not log.follows(log.ahead[seq]):
                self._sync(log)
                return
            message = log.ahead.pop(seq)
            if seq > log.last:
                self._hold(log, message)

    def _restart_log(self, log: Log, epoch: str) -> None:
        self._record_dropped(log, epoch)
        self.logs[log.room] = self._new_log(log.room, epoch)
        self._sync(self.logs[log.room])

    def _sync(self, log: Log) -> None:
        if log.asked_s is None:
            log.asked_s = time.monotonic()
            self._send({"type": "sync", **log.held_room()})

    # Acknowledging

    def _acknowledge_later(self, log: Log) -> None:
        self._unacknowledged.add(log.room)
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_AFTER_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if not self.welcomed:
            return  # the next `hello` acknowledges
        logs = [self.logs[room] for room in self._unacknowledged & self.logs.keys()]
        self._unacknowledged.clear()
        if logs:
            self._send({"type": "ack", "rooms": [log.ack() for log in logs]})

    # The outbox

    def _send_next(self, room: str) -> None:
        if self.welcomed and (frame := self._outbox.due(room, time.monotonic())) is not None:
            self._send(frame)

    def _settle(self, room: str, epoch: str, own: Frame) -> None:
        """Take an own message as accepted. A repeated answer must have the same place, except in a new epoch."""
        message_id, place = own["id"], (epoch, own["seq"])
        before = self.accepted.get(message_id)
        if before != place:
            if before is not None and before[0] == epoch:
                self._record_violation(f"{message_id} accepted as {before} and as {place}")
            self._record_accepted(room, epoch, own)
            self.accepted[message_id] = place
        if self._outbox.settle(room, message_id):
            self._send_next(room)
