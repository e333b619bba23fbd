"""One room, three users of two devices each, two server processes in one, on a real store and database: any order of events.

Cuts, silence, restarts, lost fan-out, lost sweeps, in any order, with time as an argument. After each step every accepted message is
acknowledged by each member who owes it, or they are offline, or a check is due, or they were pushed to eight times. At the end all
clients fall silent, and the server must make its eight attempts and no more; then all answer, and everything must be held.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from django.contrib.auth.models import User
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from messaging import models, protocol
from messaging.bridge import in_db_thread
from messaging.consumers import ChatConsumer
from messaging.live.connection import Connection, Visitor
from messaging.policy import Policy
from messaging.protocol import Close
from messaging.rooms import actions as rooms
from messaging.rooms.memberships import key_of
from messaging.store import Store
from messaging.store.presence import PRESENCE_CHANNEL
from messaging.store.records import RoomKey
from messaging.store.retries import Retries
from tests.support.devices import Device, Loop, Process
from tests.support.fake_clock import let_pass
from tests.support.messages import ADA, MEMBERS, NAMES, cursors, new_id

T = TypeVar("T")
POLICY = Policy(ack_flush_s=0.0001, rate_limit_scale=100.0)
DEVICES = st.sampled_from(range(2 * len(MEMBERS)))  # two neighbours are one user's
PROCESSES = st.sampled_from([0, 1])
REST_TIMEOUT_S = 30.0
MAX_ROUNDS = 200  # until a device has all that it asks for


class World(RuleBasedStateMachine):
    """The base of both machines: the events of devices and processes, and the rules that hold after each step."""

    runner: asyncio.Runner
    store: Store
    visitors: ClassVar[dict[int, Visitor]]
    news: ClassVar[list[dict[str, Any]]]  # control events on their way
    policy = POLICY
    ttl_s = POLICY.ttl_max_s

    @initialize()
    def begin(self) -> None:
        self.ahead_s = 0
        self.counted: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # user, cursor -> attempts
        self.closed: defaultdict[tuple[int, int], int] = defaultdict(int)  # user, cursor -> 4408
        self.run(self._begin())

    async def _begin(self) -> None:
        names = [NAMES[user] for user in MEMBERS if user != ADA]
        row = await rooms.create_room(ADA, "Atlas", kind="private", ttl_s=self.ttl_s, members=names)
        self.room: RoomKey = key_of(row)
        await self.store.members.create_log(self.room)
        self.news.clear()
        self.store.retries.record_attempt = self._record_attempt  # type: ignore[method-assign]
        self.devices = [
            Device(user, self.room.id, self.policy, self.now_ms) for user in MEMBERS for _ in range(2)
        ]
        self.processes = [await self._start(), await self._start()]
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: self.faults.append(fault))
        for at, device in enumerate(self.devices):
            await self._connect(device, self.processes[at % 2])
            await self._receive(device)

    async def _start(self) -> Process:
        process = Process(self.store, self.policy)
        await process.server.hub._subscription.add(PRESENCE_CHANNEL)
        return process

    async def _record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        """Keep what was counted, by the cursor: it names the stretch."""
        assert self._connected(user), "an attempt for an offline member"
        before = (await cursors(self.store, user, room=room))[0]
        counted = await Retries.record_attempt(self.store.retries, room, user, expected, next_s)
        after = (await cursors(self.store, user, room=room))[0]
        if counted and before is not None and before == after:
            self.counted[user, before].append(expected + 1)
        return counted

    def now_ms(self) -> int:
        """Return the store's time, which is this machine's and what was let pass."""
        return round((time.time() + self.ahead_s) * 1000)

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(verb)

    # How

    async def _connect(self, device: Device, process: Process) -> None:
        if device.connection is not None:
            return
        device.process = process
        device.connection = Connection(device.receive, visitor=self.visitors[device.user], policy=self.policy)
        process.server.registry.enter(device.connection)
        await self._tell(device, device.hello(), *device.sends())
        await self._settle()

    async def _tell(self, device: Device, *frames: dict[str, Any]) -> None:
        for frame in frames:
            assert device.process is not None
            assert device.connection is not None
            for parsed in protocol.parse(json.dumps(frame), frames_max=100, body_max=4_000):
                await ChatConsumer()._handle_or_refuse(device.process.server, device.connection, parsed)

    async def _cut(self, device: Device) -> None:
        if device.connection is None or device.process is None:
            return
        device.process.server.leave(device.connection)
        await device.connection.finish()
        device.gone()
        await self._settle()

    async def _send(self, device: Device, count: int, heard: bool, ttl_s: int | None = None) -> None:
        if device.connection is None:
            return
        for _ in range(count):
            id_ = new_id()
            device.outbox[id_] = "hello", ttl_s, self.now_ms() + (ttl_s or self.ttl_s) * 1000
            await self._tell(device, device.send_of(id_))
        await self._settle()
        if not heard:
            await self._cut(device)

    async def _receive(self, device: Device, most: int = 1_000) -> None:
        for _ in range(MAX_ROUNDS):
            if device.connection is None:
                return
            taken, device.inbox = device.inbox[:most], device.inbox[most:]
            for frame in taken:
                device.take(frame)
            asks = device.syncs()
            if taken and device.epoch and not device.silent:
                asks.insert(0, device.ack())
            await self._tell(device, *asks)
            await self._settle()
            if most < 1_000 or not device.inbox:
                return
        raise AssertionError("a device asks for ever")

    async def _restart(self, process: int) -> None:
        old = self.processes[process]
        await old.end()
        for device in self.devices:
            if device.process is old:
                device.gone()
        self.processes[process] = await self._start()
        await self._settle()

    async def _positions(self, process: Process) -> None:
        await process.server.positions.check()
        await self._settle()

    async def _sweep(self, heard: list[Process]) -> None:
        for claim in await self.store.retries.claim(new_id(), room=None):
            for process in heard:
                await process.server.retry.sweep(claim.room.id, claim.epoch, claim.mark)
            await self.store.retries.release([claim])
        await self._settle()

    async def _let_pass(self, seconds: int) -> None:
        """Move the store's clock and the loop's forward."""
        self.ahead_s = await let_pass(self.store, seconds)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.ahead_s += seconds
        await self._settle()

    async def _settle(self) -> None:
        """Let everything that is under way come to rest, take away what was closed, then check."""
        late_s = asyncio.get_running_loop().time() + REST_TIMEOUT_S
        while True:
            assert asyncio.get_running_loop().time() < late_s, "it does not come to rest"
            await self._spread_news()
            for process in self.processes:
                process.probed.clear()
            await self.store.client.publish(PRESENCE_CHANNEL, "probe")  # behind all that was published before
            for process in self.processes:
                await process.probed.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            if not self.news and not any(process.busy for process in self.processes):
                break
            await asyncio.sleep(0.0005)
        for device in self.devices:
            if device.connection is not None and device.connection.closed is not None:
                await self._see_close(device, device.connection)
        await self._check()

    async def _spread_news(self) -> None:
        while self.news:
            event = self.news.pop(0)
            for process in self.processes:
                await process.hear_news(event)

    async def _see_close(self, device: Device, connection: Connection) -> None:
        assert connection.closed is Close.ACKS_MISSING
        cursor, _ = await cursors(self.store, device.user, room=self.room)
        self.closed[device.user, cursor or 0] += 1
        assert device.process is not None
        device.process.server.leave(connection)
        await connection.finish()
        device.gone()

    # What must hold

    async def _check(self) -> None:
        assert self.faults == []
        for counted in self.counted.values():
            assert counted == list(range(1, len(counted) + 1)), "each attempt is counted once"
            assert len(counted) <= self.policy.attempts_max
        assert all(count <= 1 for count in self.closed.values()), "4408 once a stretch"
        await self._check_log()

    async def _check_log(self) -> None:
        """Compare the store with what has happened."""
        raise NotImplementedError

    def _check_held(self, user: int, passed: set[int]) -> None:
        """Check that a user's devices hold everything that the user's cursor passed."""
        late = {seq for device in self.devices if device.user == user for seq in device.late}
        lost = passed - self._held_by(user) - late
        assert not lost, f"{NAMES[user]}'s cursor passed {lost}, which no device holds"
        for device in self.devices:
            assert device.held == sorted(set(device.held)), "in order, each once"

    def _held_by(self, user: int) -> set[int]:
        return {seq for device in self.devices if device.user == user for seq in device.held}

    async def _check_due(self, user: int) -> None:
        """Check that a user who owes is offline, or has a check due, or was pushed to eight times."""
        if not self._connected(user) or await self._attempts(user) == self.policy.attempts_max:
            return
        for process in self.processes:
            for connection in process.server.registry.connections_of(user):
                feed = connection.feeds.get(self.room.id)
                due_s = feed.silence.due_s if feed and feed.silence else None
                if due_s and connection in process.server.retry._timers:
                    return
        raise AssertionError(f"{NAMES[user]} owes, is connected, and nothing is due")

    def _connected(self, user: int) -> bool:
        return any(process.server.registry.by_user.get(user) for process in self.processes)

    async def _attempts(self, user: int) -> int:
        value = await self.store.client.hget(f"{self.room.key}:attempts", str(user))
        return int(value.split(b"|")[0]) if value else 0

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "processes"):
            return
        try:
            self.end()
        finally:
            self.run(self._leave())

    def end(self) -> None:
        """Let what was begun come to its end, and see that it is the right one."""
        raise NotImplementedError

    async def _come_together(self, devices: list[Device]) -> None:
        """Let these be connected, nothing lost, and everything asked for be answered."""
        for process in self.processes:
            process.deaf = False
            await process.server.rechecks.check_all()
        for device in devices:
            device.silent = False
            await self._connect(device, self.processes[0])
        for _ in range(3):
            for device in devices:
                await self._receive(device)
            for process in self.processes:
                await self._positions(process)

    async def _leave(self) -> None:
        for process in self.processes:
            await process.end()
        await self.store.client.flushdb()
        await in_db_thread(_forget)


class DeliveryMachine(World):
    """Any order of what happens between servers and devices, while no message expires."""

    # What can happen

    @rule(device=DEVICES, process=PROCESSES)
    def connect(self, device: int, process: int) -> None:
        self.run(self._connect(self.devices[device], self.processes[process]))

    @rule(device=DEVICES)
    def cut(self, device: int) -> None:
        """Frames on the way in either direction are lost."""
        self.run(self._cut(self.devices[device]))

    @rule(device=DEVICES, count=st.sampled_from([1, 3]), heard=st.booleans())
    def send(self, device: int, count: int, heard: bool) -> None:
        """Without `heard` the connection is cut before any answer arrives."""
        self.run(self._send(self.devices[device], count, heard))

    @rule(device=DEVICES, most=st.sampled_from([1, 2, 1_000]))
    def receive(self, device: int, most: int) -> None:
        self.run(self._receive(self.devices[device], most))

    @rule(device=DEVICES, silent=st.booleans())
    def fall_silent(self, device: int, silent: bool) -> None:
        self.devices[device].silent = silent

    @rule(process=PROCESSES, deaf=st.booleans())
    def lose_fan_out(self, process: int, deaf: bool) -> None:
        self.processes[process].deaf = deaf

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        self.run(self._restart(process))

    @rule(process=PROCESSES)
    def check_positions(self, process: int) -> None:
        self.run(self._positions(self.processes[process]))

    @rule(heard=st.sets(PROCESSES))
    def sweep(self, heard: set[int]) -> None:
        """Only some processes hear the event."""
        self.run(self._sweep([self.processes[process] for process in heard]))

    @rule(seconds=st.sampled_from([5, 20, 60]))
    def let_pass(self, seconds: int) -> None:
        self.run(self._let_pass(seconds))

    @rule()
    def let_ten_minutes_pass(self) -> None:
        """Long enough for the last attempt."""
        for _ in range(10):
            self.run(self._let_pass(60))

    # What must hold

    async def _check_log(self) -> None:
        key = self.room.key
        entries, rows, attempts, look = await self.store.scripts.pipeline(
            [
                ("ZRANGE", f"{key}:live", 0, -1),
                ("ZRANGE", f"{key}:delivered", 0, -1, "WITHSCORES"),
                ("HKEYS", f"{key}:attempts"),
                ("ZSCORE", f"{self.room.prefix}unacked", self.room.id),
            ]
        )
        senders = {int(seq): int(sender) for seq, sender, _ in (entry.split(b"|") for entry in entries)}
        assert len({entry.split(b"|")[2] for entry in entries}) == len(entries), "accepted twice"
        for user, cursor in ((int(rows[at]), int(rows[at + 1])) for at in range(0, len(rows), 2)):
            passed = {seq for seq, sender in senders.items() if seq <= cursor and sender != user}
            self._check_held(user, passed)
            owes = any(seq > cursor and sender != user for seq, sender in senders.items())
            assert owes or str(user).encode() not in attempts, "attempts without a debt"
            if owes and look is None:
                await self._check_due(user)

    # The end

    def end(self) -> None:
        self.run(self._end_in_silence())
        self.run(self._end_in_peace())

    async def _end_in_silence(self) -> None:
        """Check that connected users who owe get eight attempts from any state, and not one more."""
        for device in self.devices:
            device.silent = True
        for process in self.processes:
            process.deaf = False
        connected = [device for device in self.devices if device.connection is not None]
        for _ in range(2 * self.policy.attempts_max + 2):
            await self._let_pass(60)
            for process in self.processes:
                await self._positions(process)
            await self._sweep(self.processes)
            for device in connected:
                await self._connect(device, self.processes[0])
        [place] = await self.store.log.positions([self.room])
        assert place is not None
        for user in {device.user for device in connected}:
            if await self.store.retries.owing(self.room, place.epoch, [user]):
                attempts = await self._attempts(user)
                assert attempts == self.policy.attempts_max, f"{NAMES[user]}: {attempts} attempts"

    async def _end_in_peace(self) -> None:
        await self._come_together(self.devices)
        [place] = await self.store.log.positions([self.room])
        assert place is not None
        for device in self.devices:
            assert (device.last, device.outbox) == (place.top, {})
            assert (await cursors(self.store, device.user, room=self.room))[0] == place.top


def _forget() -> None:
    """Leave nothing of an example in the database but the people."""
    for model in (
        models.MissedRecipient,
        models.Notice,
        models.DeadLetter,
        models.AuditEntry,
        models.Allowance,
    ):
        model.objects.all().delete()  # type: ignore[attr-defined]
    models.Room.objects.all().delete()


def make_people() -> None:
    """Write the accounts of the users."""
    User.objects.bulk_create(User(pk=user, username=NAMES[user]) for user in MEMBERS)
