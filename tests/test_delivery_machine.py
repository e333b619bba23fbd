"""Delivery in every interleaving: cuts, silence, restarts, two devices of a user, lost fan-out, lost sweeps, time as an argument.

Two server processes in one, on a real store, and clients that keep docs/protocol.md. After each step every accepted message is
acknowledged by each member who owes it, or he is away, or a look is due, or he was pushed to eight times. At the end all go
silent, and the nets must spend their eight attempts and no more; then all speak, and everything must be held.
`DELIVERY_MACHINE_EXAMPLES` asks for a longer run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from messaging import delivery, hub, pools, protocol, subscription
from messaging.connection import Connection, MemberRoom, Visitor
from messaging.consumers import ChatConsumer
from messaging.policy import DAY_S, Policy
from messaging.protocol import Close
from messaging.records import RoomKey
from messaging.server import Server
from messaging.store import PRESENCE_CHANNEL, Store
from tests.messages import MEMBERS, NAMES, cursors, members_of, new_id

T = TypeVar("T")
EXAMPLES = int(os.environ.get("DELIVERY_MACHINE_EXAMPLES", "40"))
POLICY = Policy(ack_flush_s=0.0001, rate_limit_scale=100.0)
NAMES_OF_DEVICES = [f"{NAMES[user]}'s {thing}" for user in MEMBERS for thing in ("phone", "desk")]
DEVICES = st.sampled_from(range(len(NAMES_OF_DEVICES)))
PROCESSES = st.sampled_from([0, 1])
TURNS_MOST = 200  # until everything has come to rest
_serial = itertools.count(1)


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can be moved forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Process:
    """A server process, and a gate on what it hears."""

    def __init__(self, store: Store) -> None:
        self.server = Server(store, POLICY)
        self.deaf = False
        self.probed = asyncio.Event()
        listening = self.server.hub._subscription
        self._hear = listening._on_message
        listening._on_message = self._gate
        listening.want(PRESENCE_CHANNEL)
        self.task = asyncio.ensure_future(listening.run())

    def _gate(self, channel: str, payload: bytes) -> None:
        if payload == b"probe":
            self.probed.set()
        elif not self.deaf or channel == PRESENCE_CHANNEL:
            self._hear(channel, payload)

    @property
    def busy(self) -> bool:
        own = self.server.delivery
        return bool(
            own._committing
            or own._settling
            or self.server._tasks
            or any(connection.tasks or connection._writing for connection in self.server.hub.connections)
        )

    async def end(self) -> None:
        for connection in list(self.server.hub.connections):
            self.server.leave(connection)
            await connection.finish()
        for task in [self.task, *self.server.presence._leaving.values(), *self.server._tasks]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Device:
    """A client that keeps the contract, but for when its silence is asked for."""

    def __init__(self, user: int, room: str) -> None:
        self.user = user
        self.room = room
        self.epoch = ""
        self.last = 0
        self.held: list[int] = []
        self.outbox: dict[str, str] = {}
        self.answers: dict[str, int] = {}
        self.silent = False
        self.process: Process | None = None
        self.connection: Connection | None = None
        self.inbox: list[dict[str, Any]] = []
        self.asks: list[dict[str, Any]] = []  # frames to send next

    async def receive(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            taken = json.loads(event["text"])
            self.inbox += taken if isinstance(taken, list) else [taken]

    def hello(self) -> dict[str, Any]:
        # To name what is held would acknowledge it.
        named = self.epoch and not self.silent
        rooms = [{"room": self.room, "epoch": self.epoch, "since": self.last}] if named else []
        return {"type": "hello", "v": 1, "rooms": rooms}

    def ack(self) -> dict[str, Any]:
        row = {"room": self.room, "epoch": self.epoch, "delivered": self.last}
        return {"type": "ack", "rooms": [row]}

    def gone(self) -> None:
        self.process = self.connection = None
        self.inbox.clear()
        self.asks.clear()

    def take(self, frame: dict[str, Any]) -> None:
        handler: Callable[[dict[str, Any]], None] | None = getattr(self, f"_on_{frame['type']}", None)
        if handler is not None:
            handler(frame)

    def _sync(self) -> None:
        self.asks.append({"type": "sync", "room": self.room, "epoch": self.epoch, "since": self.last})

    def _on_resumed(self, frame: dict[str, Any]) -> None:
        assert frame["ok"], frame
        if not self.epoch:
            self.epoch, self.last = frame["epoch"], frame["from"]
        if frame["from"] > self.last:
            self._sync()
            return
        for message in frame["messages"]:
            self._hold(message)
        self.last = max(self.last, frame["upto"])
        if frame["more"]:
            self._sync()

    def _on_message(self, frame: dict[str, Any]) -> None:
        assert 1 <= frame.get("attempt", 1) <= POLICY.attempts_max
        if frame["seq"] <= self.last or frame.get("after", frame["seq"] - 1) <= self.last:
            self._hold(frame)
        else:
            self._sync()

    def _hold(self, message: dict[str, Any]) -> None:
        if message["seq"] <= self.last:
            return
        self.held.append(message["seq"])
        self.last = message["seq"]
        self._accepted(message)

    def _on_sent(self, frame: dict[str, Any]) -> None:
        self._accepted(frame)

    def _accepted(self, frame: dict[str, Any]) -> None:
        self.outbox.pop(frame["id"], None)
        assert self.answers.setdefault(frame["id"], frame["seq"]) == frame["seq"], "accepted twice"

    def _on_position(self, frame: dict[str, Any]) -> None:
        if frame["top"] > self.last:
            self._sync()

    def _on_error(self, frame: dict[str, Any]) -> None:
        raise AssertionError(frame)


class DeliveryMachine(RuleBasedStateMachine):
    """One room, three users of two devices each, two processes."""

    runner: asyncio.Runner
    store: Store

    @initialize()
    def begin(self) -> None:
        self.room = RoomKey(f"room-{next(_serial)}", 7)
        self.member_room = MemberRoom(
            key=self.room,
            name="Atlas",
            kind="private",
            role="member",
            ttl_s=DAY_S,
            ttl_max_s=DAY_S,
            tracked=True,
        )
        self.devices = [Device(user, self.room.id) for user in MEMBERS for _ in range(2)]
        self.counted: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # user, cursor -> attempts
        self.closed: defaultdict[tuple[int, int], int] = defaultdict(int)  # user, cursor -> 4408
        self.run(self._begin())

    async def _begin(self) -> None:
        delivery.directory.rooms_of = self._rooms_of  # type: ignore[assignment]
        await self.store.init(self.room)
        self.store.record_attempt = self._record_attempt  # type: ignore[method-assign]
        self.processes = [await self._start(), await self._start()]
        self.faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: self.faults.append(fault))
        for at, device in enumerate(self.devices):
            await self._connect(device, self.processes[at % 2])
            await self._receive(device)

    async def _start(self) -> Process:
        process = Process(self.store)
        await process.server.hub._subscription.add(PRESENCE_CHANNEL)
        return process

    async def _rooms_of(self, user: int, room: str | None = None) -> list[MemberRoom]:
        return [self.member_room]

    async def _record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        """Keep what was counted, by the cursor: it names the stretch."""
        assert self._connected(user), "an attempt for one who is away"
        before = (await cursors(self.store, user, room=room))[0]
        counted = await Store.record_attempt(self.store, room, user, expected, next_s)
        after = (await cursors(self.store, user, room=room))[0]
        if counted and before is not None and before == after:
            self.counted[user, before].append(expected + 1)
        return counted

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(verb)

    # What can happen

    @rule(device=DEVICES, process=PROCESSES)
    def connect(self, device: int, process: int) -> None:
        self.run(self._connect(self.devices[device], self.processes[process]))

    @rule(device=DEVICES)
    def cut(self, device: int) -> None:
        """What was on the way in either direction is lost."""
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

    @rule(seconds=st.sampled_from([1, 5, 20, 60]))
    def let_pass(self, seconds: int) -> None:
        self.run(self._let_pass(seconds))

    @rule()
    def let_ten_minutes_pass(self) -> None:
        """Long enough for the last attempt."""
        for _ in range(10):
            self.run(self._let_pass(60))

    # How

    async def _connect(self, device: Device, process: Process) -> None:
        if device.connection is not None:
            return
        visitor = Visitor(user=device.user, name=NAMES[device.user], session="", credential="")
        device.process = process
        device.connection = Connection(device.receive, visitor=visitor, policy=POLICY)
        process.server.hub.enter(device.connection)
        await self._tell(device, device.hello())
        for id_, body in device.outbox.items():
            await self._tell(device, {"type": "send", "id": id_, "room": self.room.id, "body": body})
        await self._settle()

    async def _tell(self, device: Device, frame: dict[str, Any]) -> None:
        assert device.process is not None
        assert device.connection is not None
        for parsed in protocol.parse(json.dumps(frame), frames_max=100, body_max=4_000):
            await ChatConsumer()._take(device.process.server, device.connection, parsed)

    async def _cut(self, device: Device) -> None:
        if device.connection is None or device.process is None:
            return
        device.process.server.leave(device.connection)
        await device.connection.finish()
        device.gone()
        await self._settle()

    async def _send(self, device: Device, count: int, heard: bool) -> None:
        if device.connection is None:
            return
        for _ in range(count):
            id_ = new_id()
            device.outbox[id_] = "hello"
            await self._tell(device, {"type": "send", "id": id_, "room": self.room.id, "body": "hello"})
        await self._settle()
        if not heard:
            await self._cut(device)

    async def _receive(self, device: Device, most: int = 1_000) -> None:
        for _ in range(TURNS_MOST):
            if device.connection is None:
                return
            taken, device.inbox = device.inbox[:most], device.inbox[most:]
            for frame in taken:
                device.take(frame)
            asks, device.asks = device.asks[-1:], []
            if taken and device.epoch and not device.silent:
                asks.insert(0, device.ack())
            for frame in asks:
                await self._tell(device, frame)
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
        await process.server.hub.check_positions()
        await self._settle()

    async def _sweep(self, heard: list[Process]) -> None:
        for claim in await self.store.claim_lagging(new_id(), room=None):
            for process in heard:
                await process.server.retry.sweep(claim.room.id, claim.epoch, claim.mark)
            await self.store.settle_lagging([claim])
        await self._settle()

    async def _let_pass(self, seconds: int) -> None:
        """Move the loop's clock forward and all that the store has dated back."""
        key, ms = self.room.key, seconds * 1000
        attempts, live, looks = await self.store.scripts.pipeline(
            [
                ("HGETALL", f"{key}:attempts"),
                ("ZRANGE", f"{key}:live", 0, -1),
                ("ZRANGE", f"{self.room.prefix}unacked", 0, -1),
            ]
        )
        moves: list[tuple[Any, ...]] = [
            ("ZINCRBY", f"{self.room.prefix}unacked", -ms, look) for look in looks
        ]
        moves += [("HINCRBY", f"{key}:msg:{entry.split(b'|')[0].decode()}", "sent_at", -ms) for entry in live]
        for user, value in zip(attempts[::2], attempts[1::2], strict=True):
            n, first_at, next_at, reason = value.decode().split("|")
            moved = f"{n}|{int(first_at) - ms}|{int(next_at) - ms}|{reason}"
            moves.append(("HSET", f"{key}:attempts", user, moved))
        if moves:
            await self.store.scripts.pipeline(moves)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.ahead_s += seconds
        await self._settle()

    async def _settle(self) -> None:
        """Let everything that is under way come to rest, take away what was closed, then check."""
        for _ in range(TURNS_MOST):
            for process in self.processes:
                process.probed.clear()
            await self.store.client.publish(PRESENCE_CHANNEL, "probe")  # behind all that was published before
            for process in self.processes:
                await process.probed.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            if not any(process.busy for process in self.processes):
                break
        else:
            raise AssertionError("it does not come to rest")
        for device in self.devices:
            if device.connection is not None and device.connection.closed is not None:
                await self._see_close(device, device.connection)
        await self._check()

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
            assert len(counted) <= POLICY.attempts_max
        assert all(count <= 1 for count in self.closed.values()), "4408 once a stretch"
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
            self._check_held(user, cursor, senders)
            owes = any(seq > cursor and sender != user for seq, sender in senders.items())
            assert owes or str(user).encode() not in attempts, "attempts without a debt"
            if owes and look is None:
                await self._check_due(user)

    def _check_held(self, user: int, cursor: int, senders: dict[int, int]) -> None:
        own = [device for device in self.devices if device.user == user]
        held = {seq for device in own for seq in device.held}
        passed = {seq for seq, sender in senders.items() if seq <= cursor and sender != user}
        assert passed <= held, f"{NAMES[user]}'s cursor passed {passed - held}, which no device holds"
        for device in own:
            assert device.held == sorted(set(device.held)), "in order, each once"

    async def _check_due(self, user: int) -> None:
        """Who owes is away, or is looked at again, or was pushed to as often as may be."""
        if not self._connected(user) or await self._attempts(user) == POLICY.attempts_max:
            return
        for process in self.processes:
            for connection in process.server.hub.connections_of(user):
                silence = connection.feeds[self.room.id].silence
                if silence and silence.due_s and connection in process.server.retry._timers:
                    return
        raise AssertionError(f"{NAMES[user]} owes, is connected, and nothing is due")

    def _connected(self, user: int) -> bool:
        return any(process.server.hub.by_user.get(user) for process in self.processes)

    async def _attempts(self, user: int) -> int:
        value = await self.store.client.hget(f"{self.room.key}:attempts", str(user))
        return int(value.split(b"|")[0]) if value else 0

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "processes"):
            return
        try:
            self.run(self._end_in_silence())
            self.run(self._end_in_peace())
        finally:
            self.run(self._leave())

    async def _end_in_silence(self) -> None:
        """Who is connected and owes gets his eight attempts from whatever state, and not one more."""
        for device in self.devices:
            device.silent = True
        for process in self.processes:
            process.deaf = False
        connected = [device for device in self.devices if device.connection is not None]
        for _ in range(2 * POLICY.attempts_max + 2):
            await self._let_pass(60)
            for process in self.processes:
                await self._positions(process)
            await self._sweep(self.processes)
            for device in connected:
                await self._connect(device, self.processes[0])
        [place] = await self.store.places([self.room])
        assert place is not None
        for user in {device.user for device in connected}:
            if await self.store.owing(self.room, place.epoch, [user]):
                attempts = await self._attempts(user)
                assert attempts == POLICY.attempts_max, f"{NAMES[user]}: {attempts} attempts"

    async def _end_in_peace(self) -> None:
        for device in self.devices:
            device.silent = False
            await self._connect(device, self.processes[0])
        for _ in range(3):
            for device in self.devices:
                await self._receive(device)
            for process in self.processes:
                await self._positions(process)
        [place] = await self.store.places([self.room])
        assert place is not None
        for device in self.devices:
            assert (device.last, device.outbox) == (place.top, {})
            assert (await cursors(self.store, device.user, room=self.room))[0] == place.top

    async def _leave(self) -> None:
        for process in self.processes:
            await process.end()
        await self.store.client.delete(f"{self.room.prefix}unacked")


Explore = Callable[..., None]


@pytest.fixture
def explore(redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Explore:
    """Return what runs the machine, or a changed one."""
    monkeypatch.setattr(hub, "HEARD_WITHIN_S", 0.0)
    monkeypatch.setattr(subscription, "PING_EVERY_S", 10.0**9)  # the clock leaps: no pong could come in time
    monkeypatch.setattr(delivery.directory, "rooms_of", delivery.directory.rooms_of)  # put back at the end

    async def open_store() -> Store:
        return Store(pools.async_client(), POLICY, members_of=members_of)

    def run(machine: type[DeliveryMachine] = DeliveryMachine, examples: int = EXAMPLES) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            machine.runner = runner
            machine.store = runner.run(open_store())
            try:
                run_state_machine_as_test(
                    machine,
                    settings=settings(
                        max_examples=examples,
                        stateful_step_count=30,
                        deadline=None,
                        derandomize=True,
                        database=None,
                        phases=[Phase.generate, Phase.shrink] if examples == EXAMPLES else [Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    ),
                )
            finally:
                runner.run(pools.close())

    return run


def test_every_accepted_message_ends_acknowledged_or_parked_or_due(explore: Explore) -> None:
    explore()


class AcknowledgesTooMuch(DeliveryMachine):
    """Clients that acknowledge what they have not got."""

    async def _tell(self, device: Device, frame: dict[str, Any]) -> None:
        if frame["type"] == "ack":
            [place] = await self.store.places([self.room])
            assert place is not None
            frame["rooms"][0]["delivered"] = place.top
        await super()._tell(device, frame)


class CountsNothing(DeliveryMachine):
    """A store that forgets attempts."""

    async def _record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        counted = await super()._record_attempt(room, user, expected, next_s)
        await self.store.client.delete(f"{room.key}:attempts")
        return counted


class LosesEverySilence(DeliveryMachine):
    """A process whose first net is gone, and a store that does not remember who owes."""

    async def _settle(self) -> None:
        for process in self.processes:
            process.server.hub.on_pushed = lambda connection, feed: None
        await self.store.client.delete(f"{self.room.prefix}unacked")
        await super()._settle()


class PushesForEver(DeliveryMachine):
    """Processes that never give up."""

    async def _start(self) -> Process:
        process = await super()._start()
        process.server.retry.policy = dataclasses.replace(POLICY, attempts_max=99)
        return process


@pytest.mark.parametrize("broken", [AcknowledgesTooMuch, CountsNothing, LosesEverySilence, PushesForEver])
def test_the_machine_sees_a_broken_rule(explore: Explore, broken: type[DeliveryMachine]) -> None:
    with pytest.raises(AssertionError):
        explore(broken, examples=39)
