"""The client of the drill: it follows the contract over unreliable connections, and records everything that happens to it.

- Any frame can be lost, so `hello` and `sync` are repeated too.
- Each event is written to the ledger, and counted in the tally.
- Accepted messages are kept until all recipients have them, and sent again if the store may have lost them.
- An expired message is acknowledged as late, and not shown. A notice is written to the ledger, then dismissed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from .faults import Faults
from .ledger import Ledger, digest, now_ms
from .line import Deliver, Frame
from .outbox import Item
from .own_log import OwnLog, Version
from .protocol import FINAL_CLOSES, Log, ProtocolClient, Timing
from .tally import Place, Tally

WELCOME_TIMEOUT_S = 6.0
RESYNC_AFTER_S = 3.0
TIMING = Timing(
    open_s=15.0,  # a killed server needs time to restart
    check_s=0.5,
    resend_s=(1.5, 3.0),
)
# The drill delays a frame by up to 0.3 s, and both programs share a busy machine.
IN_FLIGHT_MS = 2_000


class Client(ProtocolClient):
    """A member of every room, who never leaves one."""

    def __init__(
        self,
        url: str,
        *,
        user: int,
        cookie: str,
        origin: str,
        ledger: Ledger,
        faults: Faults,
        tally: Tally,
        timing: Timing = TIMING,
    ) -> None:
        super().__init__(url, user=user, cookie=cookie, origin=origin, timing=timing, rng=faults.rng)
        self._ledger = ledger
        self._faults = faults
        self._tally = tally
        self._own = OwnLog()
        self._name = ""
        self._life = ""  # of the store
        self._may_connect = asyncio.Event()
        self._may_connect.set()
        self._delivered: dict[Place, int] = {}  # the number of recipients in receipts
        self._notices: dict[str, str] = {}  # notice -> digest of its content

    # The actions of the user

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

    async def _connect(self) -> int:
        await self._may_connect.wait()
        return await super()._connect()

    def _carry(self, frame: Frame, deliver: Deliver) -> None:
        self._faults.carry(frame, deliver)

    def _forget_connection(self) -> None:
        self._ledger.write("closed", now_ms())
        super()._forget_connection()

    def _check_answers(self) -> None:
        super()._check_answers()
        now_s = time.monotonic()
        if not self.welcomed:
            if now_s - self._opened_s > WELCOME_TIMEOUT_S:
                self.cut()
            return
        for log in self.logs.values():
            late = log.asked_s is not None and now_s - log.asked_s > RESYNC_AFTER_S
            if late:
                log.asked_s = None
            if late or log.ahead:  # the messages before an own message were not pushed
                self._sync(log)

    # Frames

    def _on_welcome(self, frame: Frame) -> None:
        if not self._name:
            self._name = frame["user"]["name"]
            self._ledger.write("me", self.user, self._name)
        self._life = frame["store"]
        super()._on_welcome(frame)

    def _on_message(self, frame: Frame) -> None:
        self._check_expiry(frame["room"], frame)
        super()._on_message(frame)

    def _on_resumed(self, frame: Frame) -> None:
        for message in frame["messages"]:
            self._check_expiry(frame["room"], message)
        super()._on_resumed(frame)
        log = self.logs.get(frame["room"])
        if log and frame["ok"] and not frame["more"] and frame["epoch"] == log.epoch and "changed" in frame:
            self._repeat_lost(log)

    def _on_sent(self, frame: Frame) -> None:
        """Take the answer as the own message. Its sender is no recipient of it, so that no recovery would deliver it."""
        item = self._outbox.first(frame["room"], frame["id"])
        log = self.logs[frame["room"]]
        if item and frame["epoch"] == log.epoch and frame["seq"] > log.last:
            own = {"from": {"id": self.user}, "body": item.body}
            log.ahead.setdefault(frame["seq"], frame | own)
        super()._on_sent(frame)
        if frame["seq"] == log.last + 1:
            self._take_ahead(log)

    def _on_receipt(self, frame: Frame) -> None:
        for seq, delivered, _read, total in frame["receipts"]:
            place = frame["room"], frame["epoch"], seq
            self._delivered[place] = max(delivered, self._delivered.get(place, 0))
            held = self._tally.holders[place]
            if delivered == total:
                self._own.has_ended(frame["room"], frame["epoch"], [seq])
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
        self._own.has_ended(place[0], place[1], [place[2]])
        content = digest(repr((frame["kind"], data)))
        if self._notices.get(frame["notice"]) != content:
            self._notices[frame["notice"]] = content
            delivered = self._delivered.get(place, 0)
            self._ledger.write("notice", frame["notice"], frame["kind"], now_ms(), delivered, data)
            self._ledger.flush()
            self._tally.missed(place, [missing["user"] for missing in data.get("missing", ())])
        self._send({"type": "dismiss", "notice": frame["notice"]})

    def _version(self, log: Log) -> Version:
        return log.epoch, self._life

    def _repeat_lost(self, log: Log) -> None:
        """Send the accepted messages again that this log, which was just read, may lack."""
        items = self._own.take_doubtful(log.room, self._version(log))
        for item in items:
            self._ledger.write("repeated", log.room, item.id)
        self._ledger.flush()
        self._outbox.put_back(log.room, items)
        self._send_next(log.room)

    def _check_expiry(self, room: str, message: Frame) -> None:
        """Record a text that arrived after it had expired."""
        after_ms = now_ms() - message["expires_at"]
        if after_ms > IN_FLIGHT_MS:
            self._ledger.write("after_expiry", room, message["seq"], after_ms)

    def _leave(self, room: str) -> None:
        self._record_violation(f"no member of {room}")

    def _acknowledge(self) -> None:
        self._ledger.flush()
        super()._acknowledge()

    # What happens

    def _record_offered(self, room: str, item: Item, old: Item | None) -> None:
        if old is not None:
            self._ledger.write("renewed", room, old.id, item.id)
        self._own.offered(item)
        self._ledger.write("offered", room, item.id, item.number, digest(item.body), now_ms())
        self._ledger.flush()

    def _record_accepted(self, room: str, epoch: str, own: Frame) -> None:
        message_id, seq, expires_at = own["id"], own["seq"], own["expires_at"]
        self._ledger.write("accepted", room, message_id, epoch, seq, expires_at)
        self._tally.heard((room, epoch, seq), self.user, expires_at)
        self._own.accepted(room, message_id, seq, expires_at, (epoch, self._life))
        if message_id not in self.accepted:
            self._tally.accepted += 1

    def _record_refused(self, room: str, message_id: str, code: str) -> None:
        self._ledger.write("refused", room, message_id, code)
        self._tally.refused += 1

    def _record_held(self, log: Log, message: Frame) -> None:
        """Record a message as shown, unless it expired in flight, or while it waited in `ahead`."""
        at_ms, expires_at, is_late = now_ms(), message["expires_at"], message["seq"] in log.late[-1:]
        entry = log.room, log.epoch, message["seq"], message["id"]
        if not is_late:
            late_ms = at_ms - message["sent_at"]
            self._ledger.write("held", *entry, digest(message["body"]), late_ms, expires_at)
            self._tally.held += 1
        else:
            self._ledger.write("late", *entry, expires_at)
        sender, place = message["from"]["id"], (log.room, log.epoch, message["seq"])
        if sender == self.user:
            self._own.confirmed(message["id"], self._version(log))
        self._tally.heard(place, sender, expires_at)
        if sender != self.user:
            self._tally.reached(place, self.user)

    def _record_dropped(self, log: Log, epoch: str) -> None:
        self._ledger.write("dropped", log.room, epoch)

    def _record_violation(self, text: str) -> None:
        self._ledger.write("disagreed", text)

    def _record_handed_over(self, frame: Frame) -> None:
        """Record an acknowledgement: an `ack`, or the `hello` of a new connection."""
        name = {"ack": "delivered", "hello": "since"}.get(frame["type"])
        if name is None:
            return
        for room in frame["rooms"]:
            self._ledger.write("acknowledged", room["room"], room["epoch"], room[name], now_ms())

    def _record_close(self, code: int) -> None:
        self._tally.closes[code] += 1
        if code in FINAL_CLOSES:
            self._record_violation(f"final close with {code}")
