"""The delivery machine with everything that may end a message: expiry, two workers stepped and killed, changes, leaving, resending.

The machine records the recipients of every message when it is accepted, from its own actions. At the end all messages expire and
the job runs without faults. Then every recipient holds the message, or is named once in the one notice of its one dead letter, or
the message was deleted before. Nobody else is named. A member whose acknowledgement was in flight at expiry may be named although
they hold the message.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from messaging.bridge import in_db_thread
from messaging.errors import MessagingError
from messaging.expiry import letters
from messaging.expiry.resend import resend
from messaging.models import AuditEntry, DeadLetter, LastDeparture, Notice
from messaging.policy import Policy
from messaging.rooms import actions as rooms
from messaging.store.log import Log
from messaging.store.records import Accepted, Append, Missed
from tests.support import step_control
from tests.support.delivery_machine import DEVICES, PROCESSES, World
from tests.support.devices import Device, Process
from tests.support.messages import ADA, MEMBERS, NAMES, cursors, new_id
from tests.support.step_control import Killed, Worker

# A life is over 2 or 3 s before a clock that leaps by 5, 20 or 60 s gets there: what the machine itself takes decides nothing.
SHORT_S, LONG_S = 12, 47
NEAR_MS = 1_000
WORKERS = st.sampled_from([0, 1])
STEPS = st.sampled_from(["its end", *reversed(step_control.STEPS)])
WHICH = st.integers(0, 3)  # the newest, the one before ...
TTLS = st.sampled_from([SHORT_S, 2 * LONG_S])
BY = st.one_of(st.none(), DEVICES)  # None: a device of the sender's
LEAVERS = st.sampled_from(
    [user for user in MEMBERS if user != ADA]
)  # the owner of the room, who lets them in again
PARTS = ("live", "only", "outcome", "left", "changed")


@dataclasses.dataclass
class Message:
    """An accepted message as the machine knows it: who owes it, and what became of that."""

    seq: int
    id: str
    sender: int
    body: str
    expires_at: int
    resends: int | None
    addressed: frozenset[int] | None
    owed: frozenset[int]
    deleted: bool = False
    settled: set[int] = dataclasses.field(default_factory=set)  # their cursor passed it while it lived
    rejected: set[int] = dataclasses.field(default_factory=set)  # while it lived
    doubted: set[int] = dataclasses.field(default_factory=set)  # rejected it, or left, when it had expired
    left: set[int] = dataclasses.field(default_factory=set)  # without it, while it lived
    departed: set[int] = dataclasses.field(default_factory=set)


class ExpiryMachine(World):
    """Any order of what happens to messages that do not live for ever."""

    policy = Policy(
        ack_flush_s=0.0001,
        rate_limit_scale=100.0,
        lease_s=32,
        grace_s=200,  # the back-stop strikes before a job that is ten minutes late
    )
    ttl_s = LONG_S

    @initialize(peace=st.booleans())
    def begin(self, peace: bool = True) -> None:
        """With `peace` all come together before the end."""
        self.peace = peace
        self.messages: dict[int, Message] = {}
        self.members = set(MEMBERS)
        self.joined = dict.fromkeys(MEMBERS, 0)
        self.workers: dict[int, Worker] = {}
        self.told = 0  # dead letters written so far
        self.dismissed: set[str] = set()
        self.sent_again: dict[int, int] = {}  # seq of the expired one -> of the other
        self.dying = ""
        super().begin()

    async def _begin(self) -> None:
        self.store.log.append = self._append  # type: ignore[method-assign]
        await super()._begin()
        for device in self.devices[::2]:
            await self._send(device, 1, heard=True)

    async def _append(self, messages: Sequence[Append]) -> list[Accepted | MessagingError]:
        """Let a process die before or after the store has accepted something."""
        if self.dying == "before":
            raise Killed
        answers = await Log.append(self.store.log, messages)
        if self.dying == "after":
            raise Killed
        return answers

    # What can happen: few rules of many kinds each, for hypothesis leaves some rules out of every example

    @rule(
        device=DEVICES,
        count=st.sampled_from([1, 3]),
        heard=st.booleans(),
        ttl_s=st.sampled_from([LONG_S, SHORT_S]),
    )
    def send(self, device: int, count: int, heard: bool, ttl_s: int) -> None:
        """Without `heard` the connection is cut before any answer arrives."""
        self.run(self._online(self.devices[device]))
        self.run(self._send(self.devices[device], count, heard, ttl_s))

    @rule(devices=st.sets(DEVICES, min_size=1), most=st.sampled_from([1_000, 2]))
    def receive(self, devices: set[int], most: int) -> None:
        for device in sorted(devices):
            self.run(self._receive(self.devices[device], most))

    @rule(device=DEVICES, process=PROCESSES, silent=st.booleans())
    def come_or_go(self, device: int, process: int, silent: bool) -> None:
        """A cut loses the frames in flight in both directions."""
        one = self.devices[device]
        one.silent = silent
        self.run(self._connect(one, self.processes[process]) if one.connection is None else self._cut(one))

    @rule(process=PROCESSES, what=st.sampled_from(["hears", "deaf", "restarts"]))
    def disturb(self, process: int, what: str) -> None:
        if what == "restarts":
            self.run(self._restart(process))
        else:
            self.processes[process].deaf = what == "deaf"

    @rule(
        process=PROCESSES, device=DEVICES, what=st.sampled_from(["positions", "members", "sweep", "history"])
    )
    def look(self, process: int, device: int, what: str) -> None:
        """A recovery mechanism runs, or a user looks at older messages."""
        one = self.processes[process]
        if what == "positions":
            self.run(self._positions(one))
        elif what == "members":
            self.run(self._recheck(one))
        elif what == "sweep":
            self.run(self._sweep([one]))
        else:
            self.run(self._look_back(self.devices[device]))

    @rule(seconds=st.sampled_from([5, 20, 60, 600]))
    def let_pass(self, seconds: int) -> None:
        self.run(self._let_pass(seconds))

    @rule(worker=WORKERS, seconds=st.sampled_from([60, 20, 0]), step=STEPS, killed=st.booleans())
    def work(self, worker: int, seconds: int, step: str, killed: bool) -> None:
        """After some time let a worker of the expiry job continue to a step, and perhaps die there; a worker that has ended starts again."""
        if seconds:
            self.run(self._let_pass(seconds))
        self._work(worker, step)
        if killed:
            self._kill(worker)

    @precondition(lambda self: self.messages)
    @rule(what=st.sampled_from(["edit", "delete", "extend", "reject"]), by=BY, which=WHICH, ttl_s=TTLS)
    def change(self, what: str, by: int | None, which: int, ttl_s: int) -> None:
        if what == "reject":
            self.run(self._reject(self.devices[by or 0], which))
            return
        message = self._which(which)
        device = self._device(by, message.sender)
        self.run(self._online(device))
        if what == "edit":
            self.run(self._edit(device, message))
        elif what == "delete":
            self.run(self._delete(device, message))
        else:
            self.run(self._extend(device, message, ttl_s))

    @precondition(lambda self: self.told)
    @rule(by=BY, which=WHICH, besides=st.sampled_from(["nobody", "device", "staff"]))
    def resend(self, by: int | None, which: int, besides: str) -> None:
        """At once also from the user's other device, or by the staff."""
        self.run(self._resend(by, which, besides))

    @precondition(lambda self: self.told)
    @rule(which=WHICH, dying=st.sampled_from(["before", "after"]))
    def die_while_resending(self, which: int, dying: str) -> None:
        """The process ends between its note and the answer; the job continues the resend after a minute."""
        self.run(self._die_while_resending(which, dying))

    @precondition(lambda self: self.told)
    @rule(which=WHICH)
    def dismiss(self, which: int) -> None:
        self.run(self._dismiss(which))

    @rule(user=LEAVERS, in_room=st.sampled_from([True, True, False]))
    def leave_or_rejoin(self, user: int, in_room: bool) -> None:
        if in_room != (user in self.members):
            self.run(self._rejoin(user) if in_room else self._leave_room(user))

    # How

    def _work(self, worker: int, step: str) -> None:
        running = self.workers.setdefault(worker, Worker())
        running.reach(step)
        if running.ended:
            del self.workers[worker]
        self.told = DeadLetter.objects.filter(room_key=self.room.id).count()
        self.run(self._settle())

    def _kill(self, worker: int) -> None:
        if worker in self.workers:
            self.workers.pop(worker).kill()

    def _device(self, by: int | None, user: int) -> Device:
        """Return the device asked for, or one of the user's, a connected one if there is any."""
        if by is not None:
            return self.devices[by]
        own = [device for device in self.devices if device.user == user]
        return next((device for device in own if device.connection is not None), own[0])

    async def _online(self, device: Device) -> None:
        """Let a device be connected: somebody is about to use it."""
        await self._connect(device, self.processes[self.devices.index(device) % 2])

    def _which(self, which: int) -> Message:
        seqs = sorted(self.messages)
        return self.messages[seqs[-1 - which % len(seqs)]]

    def _may(self, device: Device, message: Message, *others: int) -> bool:
        """Say whether a change must be taken: by a member on an open feed, the sender or one of `others`, in its life."""
        return (
            self._in_room(device)
            and device.user in self.members
            and device.user in (message.sender, *others)
            and not message.deleted
            and self.now_ms() < message.expires_at
        )

    def _in_room(self, device: Device) -> bool:
        return device.connection is not None and self.room.id in device.connection.feeds

    async def _change(self, device: Device, message: Message, kind: str, **fields: Any) -> None:
        await self._tell(device, {"type": kind, "room": self.room.id, "seq": message.seq} | fields)
        await self._settle()

    async def _stored(self, message: Message, field: str) -> str | None:
        value = await self.store.client.hget(f"{self.room.key}:msg:{message.seq}", field)
        return None if value is None else str(value, "utf-8")

    async def _edit(self, device: Device, message: Message) -> None:
        body, may = f"edited {new_id()}", self._may(device, message)
        await self._change(device, message, "edit", body=body)
        assert (await self._stored(message, "body") == body) == may
        if may:
            message.body = body

    async def _delete(self, device: Device, message: Message) -> None:
        may = self._may(device, message, ADA)
        message.deleted = message.deleted or may
        await self._change(device, message, "delete")
        assert not may or await self._stored(message, "body") is None

    async def _extend(self, device: Device, message: Message, ttl_s: int) -> None:
        before = await self._stored(message, "expires_at")
        may = self._may(device, message, ADA)
        until_ms = max(message.expires_at, self.now_ms() + ttl_s * 1000) if may else message.expires_at
        await self._change(device, message, "extend", ttl=ttl_s)
        after = await self._stored(message, "expires_at")
        if not may:
            assert after == before
            return
        assert after is not None
        assert abs(int(after) - until_ms) < NEAR_MS
        message.expires_at = int(after)

    async def _reject(self, device: Device, which: int) -> None:
        """A client rejects a message: it cannot show it."""
        if not device.held or not self._in_room(device):
            return
        message = self.messages[device.held[-1 - which % len(device.held)]]
        if device.user in message.owed - message.departed and not message.deleted:
            lives = self.now_ms() < message.expires_at
            (message.rejected if lives else message.doubted).add(device.user)
        await self._change(device, message, "reject", epoch=device.epoch, reason="odd")

    async def _letter(self, which: int) -> DeadLetter:
        found = DeadLetter.objects.filter(room_key=self.room.id).order_by("-seq")
        rows: list[DeadLetter] = await in_db_thread(list, found)
        return rows[which % len(rows)]

    async def _resend(self, by: int | None, which: int, besides: str) -> None:
        letter = await self._letter(which)
        asker = self._device(by, letter.sender_key)
        others = [device for device in self.devices if device.user == asker.user and device is not asker]
        askers = [asker, *others] if besides == "device" else [asker]
        for device in askers:
            await self._online(device)
        ids = {new_id(): device for device in askers}
        for id_, device in ids.items():
            await self._tell(device, {"type": "resend", "room": self.room.id, "seq": letter.seq, "id": id_})
        if besides == "staff":
            with contextlib.suppress(MessagingError):
                answer = (await resend(letter.pk, by=None, verb=AuditEntry.Verb.REQUEUE)).answer
                self._note_resend(letter.seq, answer.seq)
        await self._settle()
        for id_, device in ids.items():
            [answered] = [frame for frame in device.inbox if frame.get("id") == id_]
            if answered["type"] == "sent":
                assert device.user == letter.sender_key
                self._note_resend(letter.seq, answered["seq"])

    def _note_resend(self, seq: int, again: int) -> None:
        assert self.sent_again.setdefault(seq, again) == again, "sent again twice"

    async def _die_while_resending(self, which: int, dying: str) -> None:
        letter = await self._letter(which)
        self.dying = dying
        try:
            await resend(letter.pk, by=None)
        except (Killed, MessagingError):
            pass
        finally:
            self.dying = ""
        await self._settle()

    async def _dismiss(self, which: int) -> None:
        letter = await self._letter(which)
        notice: Notice = await in_db_thread(Notice.objects.get, dead_letter=letter)
        device = self._device(None, letter.sender_key)
        await self._online(device)
        await self._tell(device, {"type": "dismiss", "notice": notice.pk})
        self.dismissed.add(notice.pk)
        await self._settle()

    async def _look_back(self, device: Device) -> None:
        if device.connection is not None:
            await self._tell(device, {"type": "history", "room": self.room.id, "before": device.last + 1})
            await self._settle()

    async def _leave_room(self, user: int) -> None:
        cursor, _ = await cursors(self.store, user, room=self.room)
        assert cursor is not None
        for message in self.messages.values():
            if user in message.owed - message.departed:
                message.departed.add(user)
                if cursor < message.seq:
                    (message.left if self.now_ms() < message.expires_at else message.doubted).add(user)
        self.members.remove(user)
        for counts in (self.counted, self.closed):  # their count starts again, perhaps at the same cursor
            for name in [name for name in counts if name[0] == user]:
                del counts[name]  # type: ignore[attr-defined]
        await rooms.leave_room(user, self.room.id)
        await self._settle()

    async def _rejoin(self, user: int) -> None:
        await LastDeparture.objects.all().adelete()  # they may rejoin more than once a day here
        await rooms.add_member(ADA, self.room.id, NAMES[user])
        self.members.add(user)
        [place] = await self.store.log.positions([self.room])
        assert place is not None
        self.joined[user] = place.top
        await self._settle()

    async def _recheck(self, process: Process) -> None:
        await process.server.rechecks.check_all()
        await self._settle()

    # What must hold at any time

    async def _check_log(self) -> None:
        key = self.room.key
        entries, rows, outcome, look, owners = await self.store.scripts.pipeline(
            [
                ("ZRANGE", f"{key}:live", 0, -1),
                ("ZRANGE", f"{key}:delivered", 0, -1, "WITHSCORES"),
                ("ZRANGE", f"{key}:outcome", 0, -1),
                ("ZSCORE", f"{self.room.prefix}unacked", self.room.id),
                ("ZRANGE", f"{key}:joined", 0, -1),
            ]
        )
        live = [
            (int(seq), int(sender), id_.decode()) for seq, sender, id_ in (row.split(b"|") for row in entries)
        ]
        assert len({id_ for _, _, id_ in live}) == len(live), "accepted twice"
        assert {int(user) for user in owners} == self.members
        for seq, sender, id_ in live:
            if seq not in self.messages:
                await self._note_accepted(seq, sender, id_)
        unheld = {(int(seq), int(user)) for seq, user, *_ in (row.split(b"|") for row in outcome)}
        there = [self.messages[seq] for seq, _, _ in live]
        now_ms = self.now_ms()
        lives = {one.seq for one in self.messages.values() if not one.deleted and now_ms < one.expires_at}
        assert lives <= {message.seq for message in there}, "a message ended before its time"
        assert not any(message.deleted for message in there)
        for user, cursor in ((int(rows[at]), int(rows[at + 1])) for at in range(0, len(rows), 2)):
            owed = [message for message in there if user in message.owed - message.departed]
            passed = [message for message in owed if message.seq <= cursor]
            self._check_held(user, {one.seq for one in passed if (one.seq, user) not in unheld})
            alive = {one.seq for one in owed if self.now_ms() < one.expires_at}
            for message in passed:
                if message.seq in alive:
                    message.settled.add(user)
            owes = any(one.seq > cursor and one.seq in alive and user not in one.rejected for one in owed)
            if owes and look is None:
                await self._check_due(user)

    async def _note_accepted(self, seq: int, sender: int, id_: str) -> None:
        key = self.room.key
        body, expires_at, resends = await self.store.client.hmget(
            f"{key}:msg:{seq}", "body", "expires_at", "resends"
        )
        only = await self.store.client.hget(f"{key}:only", str(seq))
        again = None if resends is None else int(resends)
        addressed = None if again is None else await self._addressed(again)
        assert addressed == (None if only is None else frozenset(map(int, only.split(b","))))
        owed = self.members - {sender} if addressed is None else addressed - {sender}
        self.messages[seq] = Message(
            seq, id_, sender, body.decode(), int(expires_at), again, addressed, frozenset(owed)
        )
        if again is not None:
            self._note_resend(again, seq)

    async def _addressed(self, seq: int) -> frozenset[int]:
        """Return who is to get a message again: who is named in its notice, and is here."""
        notice: Notice = await in_db_thread(
            Notice.objects.get,
            room_key=self.room.id,
            data__seq=seq,  # type: ignore[misc]
        )
        return frozenset(one["user"] for one in notice.data["missing"]) & self.members

    # The end

    def end(self) -> None:
        for worker in self.workers.values():
            worker.finish()
        self.workers.clear()
        if self.peace:
            self.run(self._end_in_peace())
        self._let_all_expire()
        self.run(self._see_notices())
        self._check_fates()
        self._check_nothing_is_left()

    async def _end_in_peace(self) -> None:
        here = [device for device in self.devices if device.user in self.members]
        await self._come_together(self.devices)
        [place] = await self.store.log.positions([self.room])
        assert place is not None
        now_ms = self.now_ms()
        for device in here:
            assert (device.last, device.rev, device.outbox) == (place.top, place.rev, {})
            assert (await cursors(self.store, device.user, room=self.room))[0] == place.top
            # A member learns nothing of messages from before they joined; a device that was offline in between may still show them.
            for seq, shown in device.view.items():
                message = self.messages[seq]
                if seq <= self.joined[device.user]:
                    continue
                assert not message.deleted or now_ms >= shown[1], "a deleted message is shown"
                if not message.deleted and now_ms < max(shown[1], message.expires_at):
                    assert shown == (message.body, message.expires_at), (
                        "an old text, or an old time, is shown"
                    )
        for message in self.messages.values():
            if now_ms < message.expires_at and not message.deleted:
                for user in message.owed - message.departed:
                    assert message.seq in self._held_by(user), "all are here, and one lacks it"

    def _let_all_expire(self) -> None:
        for _ in range(3):  # a resend that was cut off is sent by the first, and expires by the next
            self.run(self._let_pass(2 * LONG_S + 6))
            Worker().finish()
            self.run(self._settle())

    async def _see_notices(self) -> None:
        """Every device that connects now gets all notices its user has not dismissed, and no device shows a dismissed one."""
        for device in self.devices:
            await self._cut(device)
            device.notices.clear()
        await self._come_together(self.devices)
        for device in self.devices:
            mine = Notice.objects.filter(user=device.user)
            rows: list[Notice] = await in_db_thread(list, mine)
            assert device.notices == {row.pk: False for row in rows if row.dismissed_at is None}
            assert {row.pk for row in rows if row.dismissed_at} == self.dismissed & {row.pk for row in rows}

    def _check_fates(self) -> None:
        dead = {row.seq: row for row in DeadLetter.objects.filter(room_key=self.room.id)}
        assert len(dead) == DeadLetter.objects.filter(room_key=self.room.id).count(), "one for each message"
        assert Notice.objects.filter(room_key=self.room.id).count() == len(dead), "one notice for each"
        for message in self.messages.values():
            letter = dead.pop(message.seq, None)
            named = _named(message, letter) if letter else {}
            self._check_fate(message, named)
        assert not dead, "a dead letter of no message"

    def _check_fate(self, message: Message, named: dict[int, Missed]) -> None:
        held = {user for user in MEMBERS if message.seq in self._held_by(user)}
        if message.addressed is not None:
            assert held <= message.addressed | {message.sender}, "sent again to one who was not addressed"
        if message.deleted:
            assert not named, "a deleted message is missed by nobody"
            return
        silent = message.owed - held - named.keys()
        assert not silent, f"{silent} lack {message.seq}, and no notice names them"
        assert named.keys() <= message.owed, "one is named who did not owe it"
        reasons = {user: missed.reason for user, missed in named.items()}
        for user in message.rejected:
            assert reasons.get(user) == "client_rejected", f"{NAMES[user]} could not show it"
        for user in message.left - message.rejected:
            assert reasons.get(user) == "left_room", f"{NAMES[user]} left without it"
        for user, missed in named.items():
            known = message.rejected | message.left | message.doubted
            assert user in known or missed.reason in ("offline", "no_ack", "late")
            assert user in message.rejected | message.doubted or user not in message.settled
            assert (missed.reason == "no_ack") <= (missed.attempts > 0)
            assert (missed.reason == "offline") <= (missed.attempts == 0)

    def _check_nothing_is_left(self) -> None:
        key = self.room.key
        counted = self.run(
            self.store.scripts.pipeline(
                [("EXISTS", f"{key}:{part}") for part in PARTS] + [("ZCARD", f"{self.room.prefix}expiring")]
            )
        )
        assert dict(zip((*PARTS, "expiring"), counted, strict=True)) == dict.fromkeys((*PARTS, "expiring"), 0)


def _named(message: Message, letter: DeadLetter) -> dict[int, Missed]:
    """Return who is named for a message; its letter, its notice and its missed recipients say the same."""
    named = {one.user: one for one in letters.missing_of(letter)}
    notice = Notice.objects.get(dead_letter=letter)
    told = [(one["user"], one["reason"], one["attempts"]) for one in notice.data["missing"]]
    rows = list(letter.missed_recipients.values_list("user_key", "reason", "attempts"))
    assert (
        sorted(told) == sorted(rows) == sorted((one.user, one.reason, one.attempts) for one in named.values())
    )
    assert notice.data["missing_total"] == letter.missing_total == len(named) > 0
    assert letter.total == letter.delivered + letter.missing_total <= len(message.owed)
    assert (letter.sender_key, letter.message_id, notice.user_id) == (
        message.sender,
        message.id,
        message.sender,
    )
    assert letter.body in (message.body, None)  # None: the Hash's own time to live was quicker than the job
    return named


__all__ = ["ExpiryMachine"]
