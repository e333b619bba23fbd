"""A client that follows docs/protocol.md: an outbox, a log for each room, cumulative acknowledgements, backoff.

- Sending: `offer` adds a message to the outbox. `send` is repeated with its id until `sent`, the own `message` or a final error.
  Only one `send` in a room is unanswered.
- Receiving: a message that follows the last seq is held, written to the ledger and acknowledged within 250 ms. A message after a
  gap waits for `sync`. A known message is acknowledged again. An expired message is acknowledged, but not shown.
- A notice is written to the ledger, then dismissed.

A request without an answer is repeated, because any frame can be lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidMessage
from websockets.typing import Origin

from .faults import Faults, Frame, Line
from .ledger import Ledger, digest, now_ms
from .outbox import Outbox
from .tally import Place, Tally

OPEN_TIMEOUT_S = 15.0  # a killed server needs time to restart
WELCOME_TIMEOUT_S = 6.0
ACK_AFTER_S = 0.25
CHECK_INTERVAL_S = 0.5
RESYNC_AFTER_S = 3.0
RETRY_AFTER_MS = 1_000
HEALTHY_S = 10.0
MAX_BACKOFF_S = 30.0
FIRST_BACKOFF_S = 0.5
UNHEALTHY_CLOSES = (4400, 4429)
FINAL_CLOSES = (4501, 4503, 4504)
# The drill delays a frame by up to 0.3 s, and both programs share a busy machine.
IN_FLIGHT_MS = 2_000


@dataclasses.dataclass(slots=True)
class Log:
    """The log of a room, complete up to `last`. The messages in `ahead` wait for the ones before them."""

    room: str
    epoch: str
    last: int = 0
    rev: int = 0
    ahead: dict[int, Frame] = dataclasses.field(default_factory=dict)
    asked_s: float | None = None  # when the unanswered `sync` was sent


class Client:
    """A user with one connection at a time."""

    def __init__(
        self, url: str, *, user: int, cookie: str, origin: str, ledger: Ledger, faults: Faults, tally: Tally
    ) -> None:
        self.user = user
        self.logs: dict[str, Log] = {}
        self.welcomed = False
        self.ended: int | None = None  # the close code after which a client must not reconnect
        self._url = url
        self._cookie = cookie
        self._origin = Origin(origin)
        self._ledger = ledger
        self._faults = faults
        self._tally = tally
        self._rng: random.Random = faults.rng
        self._outbox = Outbox(ledger, faults.rng)
        self._name = ""
        self._may_connect = asyncio.Event()
        self._may_connect.set()
        self._failures = 0  # consecutive connections that did not last
        self._delivered: dict[Place, int] = {}  # the number of recipients in receipts
        self._notices: dict[str, str] = {}  # notice -> digest of its content
        self._accepted: dict[str, tuple[str, int]] = {}  # message id -> epoch, seq
        self._line: Line | None = None
        self._unacknowledged: set[str] = set()  # rooms
        self._ack_timer: asyncio.TimerHandle | None = None

    @property
    def unsettled(self) -> int:
        """The number of messages that are neither accepted nor refused."""
        return len(self._outbox)

    # The actions of the user

    def offer(self, room: str, body: str, ttl: int | None = None) -> None:
        """Add a message to the outbox. `ttl` in seconds; None: that of the room."""
        self._outbox.offer(room, body, ttl)
        self._send_next(room)

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        if self._line is not None:
            self._line.cut()

    def go_away(self) -> None:
        """Drop the connection and stay offline until `come_back`."""
        self._may_connect.clear()
        self.cut()

    def come_back(self) -> None:
        self._failures = 0
        self._may_connect.set()

    def catch_up(self, tops: Mapping[str, int]) -> bool:
        """Return whether every log has reached its top. Request the rest, because expired messages are not pushed."""
        behind = [log for room, log in self.logs.items() if log.last < tops.get(room, 0)]
        if self.welcomed:
            for log in behind:
                self._sync(log)
        return self.welcomed and not behind

    def reload(self) -> None:
        """Reconnect immediately, as a reloaded page."""
        self._failures = 0
        self.cut()

    # The connection

    async def live(self) -> None:
        """Connect and reconnect until a final close code or cancellation."""
        while self.ended is None:
            await self._may_connect.wait()
            started_s = time.monotonic()
            code = await self._connect()
            self._tally.closes[code] += 1
            if code in FINAL_CLOSES:
                self.ended = code
                self._ledger.write("disagreed", f"final close with {code}")
                return
            if time.monotonic() - started_s > HEALTHY_S and code not in UNHEALTHY_CLOSES:
                self._failures = 0
            max_backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**self._failures)
            await asyncio.sleep(self._rng.uniform(0, max_backoff_s))
            self._failures += 1

    async def _connect(self) -> int:
        """Exchange frames until the connection ends; return its close code."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
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
            self._line = Line(socket, self._faults, self._take, self._on_frame_sent)
            rooms = [
                {"room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev}
                for log in self.logs.values()
            ]
            self._send({"type": "hello", "v": 1, "rooms": rooms})
            return await self._line.run()
        finally:
            checking.cancel()
            socket.transport.abort()
            self._forget_connection()

    def _forget_connection(self) -> None:
        self._ledger.write("closed", now_ms())
        self._line = None
        self.welcomed = False
        for log in self.logs.values():
            log.asked_s = None
        self._outbox.forget_connection()

    async def _check_answers_forever(self) -> None:
        """Repeat requests that were not answered in time."""
        opened_s = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now_s = time.monotonic()
            if not self.welcomed:
                if now_s - opened_s > WELCOME_TIMEOUT_S:
                    self.cut()
                continue
            for room in self._outbox.rooms:
                self._send_next(room)
            for log in self.logs.values():
                if log.asked_s is not None and now_s - log.asked_s > RESYNC_AFTER_S:
                    log.asked_s = None
                    self._sync(log)
                elif log.ahead:
                    self._sync(log)  # the messages before an own message were not pushed

    def _send(self, frame: Frame) -> None:
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
            return  # a duplicate
        self.welcomed = True
        if not self._name:
            self._name = frame["user"]["name"]
            self._ledger.write("me", self.user, self._name)
        for room in frame["rooms"]:
            if room["room"] not in self.logs:
                log = Log(room["room"], room["epoch"], room["delivered"], room["rev"])
                self.logs[room["room"]] = log
        for name in self._outbox.rooms:
            self._send_next(name)

    def _on_message(self, frame: Frame) -> None:
        log = self.logs[frame["room"]]
        self._check_expiry(log.room, frame)
        if frame["epoch"] != log.epoch:
            self._restart_log(log, frame["epoch"])
        elif frame["seq"] <= log.last:
            self._acknowledge_later(log)
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
                self._restart_log(log, frame["epoch"])
            return
        if frame["epoch"] != log.epoch or frame["from"] > log.last:
            self._sync(log)
            return
        for message in frame["messages"]:
            self._check_expiry(log.room, message)
            if message["seq"] > log.last:
                self._hold(log, message)
        log.last = max(log.last, frame["upto"])
        if "changed" in frame:
            log.rev = max(log.rev, frame["rev"])
        self._acknowledge_later(log)
        if frame["more"]:
            self._sync(log)
        else:
            self._take_ahead(log)

    def _on_position(self, frame: Frame) -> None:
        log = self.logs[frame["room"]]
        if frame["epoch"] != log.epoch:
            self._restart_log(log, frame["epoch"])
        elif frame["top"] > log.last or frame["rev"] > log.rev:
            self._sync(log)

    def _on_sent(self, frame: Frame) -> None:
        """Take the answer as the own message. Its sender is no recipient of it, so that no recovery would deliver it."""
        item = self._outbox.first(frame["room"], frame["id"])
        log = self.logs[frame["room"]]
        if item and frame["epoch"] == log.epoch and frame["seq"] > log.last:
            own = {"from": {"id": self.user}, "body": item.body}
            log.ahead.setdefault(frame["seq"], frame | own)
        self._settle(frame["room"], frame["epoch"], frame)
        if frame["seq"] == log.last + 1:
            self._take_ahead(log)

    def _on_error(self, frame: Frame) -> None:
        room = frame.get("room", "")
        item = self._outbox.first(room, frame.get("id", ""))
        if frame["of"] != "send" or item is None:
            return
        if frame["retryable"]:
            item.due_s = time.monotonic() + frame.get("retry_after_ms", RETRY_AFTER_MS) / 1000
            return
        self._ledger.write("refused", room, item.id, frame["code"])
        self._tally.refused += 1
        self._outbox.settle(room, item.id)
        self._send_next(room)

    def _on_receipt(self, frame: Frame) -> None:
        for seq, delivered, _read, _total in frame["receipts"]:
            place = frame["room"], frame["epoch"], seq
            self._delivered[place] = max(delivered, self._delivered.get(place, 0))
            held = self._tally.holders[place]
            if delivered > held:
                self._ledger.write("overclaimed", frame["room"], seq, delivered, held)

    def _on_expired(self, frame: Frame) -> None:
        for seq in frame["seqs"]:
            place = frame["room"], frame["epoch"], seq
            self._tally.ended.add(place)
            life = self._tally.lives.get(place)
            if life and life.expires_at > now_ms():
                self._ledger.write("before_expiry", frame["room"], seq, life.expires_at - now_ms())

    def _on_notice(self, frame: Frame) -> None:
        """Write new content to the ledger, then dismiss the notice: only the newest 100 are repeated."""
        if frame["dismissed"]:
            return
        data = {name: value for name, value in frame["data"].items() if name != "resendable"}
        place = data.get("room", ""), data.get("epoch", ""), data.get("seq", 0)
        content = digest(repr((frame["kind"], data)))
        if self._notices.get(frame["notice"]) != content:
            self._notices[frame["notice"]] = content
            delivered = self._delivered.get(place, 0)
            self._ledger.write("notice", frame["notice"], frame["kind"], now_ms(), delivered, data)
            self._ledger.flush()
            self._tally.missed(place, [missing["user"] for missing in data.get("missing", ())])
        self._send({"type": "dismiss", "notice": frame["notice"]})

    # The log of a room

    def _check_expiry(self, room: str, message: Frame) -> None:
        """Record a text that arrived after it had expired."""
        after_ms = now_ms() - message["expires_at"]
        if after_ms > IN_FLIGHT_MS:
            self._ledger.write("after_expiry", room, message["seq"], after_ms)

    def _hold(self, log: Log, message: Frame) -> None:
        """Add a message to the log. If it expired in flight, or while it waited in `ahead`, it is not shown."""
        log.last = message["seq"]
        at_ms, expires_at = now_ms(), message["expires_at"]
        entry = log.room, log.epoch, message["seq"], message["id"]
        if at_ms < expires_at:
            late_ms = at_ms - message["sent_at"]
            self._ledger.write("held", *entry, digest(message["body"]), late_ms, expires_at)
            self._tally.held += 1
        else:
            self._ledger.write("late", *entry, expires_at)
        sender, place = message["from"]["id"], (log.room, log.epoch, message["seq"])
        self._tally.heard(place, sender, expires_at)
        if sender == self.user:
            self._settle(log.room, log.epoch, message)
        else:
            self._tally.reached(place, self.user)
        self._acknowledge_later(log)

    def _take_ahead(self, log: Log) -> None:
        """Hold the messages in `ahead` that follow the log now."""
        for seq in sorted(log.ahead):
            if seq > log.last and not _follows(log, log.ahead[seq]):
                self._sync(log)
                return
            message = log.ahead.pop(seq)
            if seq > log.last:
                self._hold(log, message)

    def _restart_log(self, log: Log, epoch: str) -> None:
        self._ledger.write("dropped", log.room, epoch)
        log.epoch, log.last, log.rev, log.asked_s = epoch, 0, 0, None
        log.ahead.clear()
        self._sync(log)

    def _sync(self, log: Log) -> None:
        if log.asked_s is None:
            log.asked_s = time.monotonic()
            self._send(
                {"type": "sync", "room": log.room, "epoch": log.epoch, "since": log.last, "rev": log.rev}
            )

    # Acknowledging

    def _acknowledge_later(self, log: Log) -> None:
        self._unacknowledged.add(log.room)
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_AFTER_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if not self.welcomed:
            return  # the next `hello` acknowledges
        rooms: list[dict[str, Any]] = []
        for room in self._unacknowledged:
            log = self.logs[room]
            rooms.append({"room": room, "epoch": log.epoch, "delivered": log.last})
        self._unacknowledged.clear()
        self._ledger.flush()
        self._send({"type": "ack", "rooms": rooms})

    def _on_frame_sent(self, frame: Frame) -> None:
        """Record an acknowledgement: an `ack`, or the `hello` of a new connection."""
        name = {"ack": "delivered", "hello": "since"}.get(frame["type"])
        if name is None:
            return
        for room in frame["rooms"]:
            self._ledger.write("acknowledged", room["room"], room["epoch"], room[name], now_ms())

    # The outbox

    def _send_next(self, room: str) -> None:
        if self.welcomed and (frame := self._outbox.due(room, time.monotonic())) is not None:
            self._send(frame)

    def _settle(self, room: str, epoch: str, own: Frame) -> None:
        """Record that an own message is accepted. A repeated answer must have the same place."""
        message_id, seq, expires_at = own["id"], own["seq"], own["expires_at"]
        if self._accepted.get(message_id) == (epoch, seq):
            return
        self._ledger.write("accepted", room, message_id, epoch, seq, expires_at)
        self._tally.heard((room, epoch, seq), self.user, expires_at)
        if message_id not in self._accepted:
            self._tally.accepted += 1
        self._accepted[message_id] = epoch, seq
        if self._outbox.settle(room, message_id):
            self._send_next(room)


def _follows(log: Log, message: Frame) -> bool:
    after = message.get("after", message["seq"] - 1)
    return bool(after <= log.last < message["seq"])
