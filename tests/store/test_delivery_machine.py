"""Delivery in every interleaving: without expiry (`delivery_machine`), and with every end of a message (`expiry_machine`).

`make proof` runs more examples than `make test`, and the broken variants, which show that the machine detects their faults;
`DELIVERY_MACHINE_EXAMPLES` asks for a longer run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import initialize, run_state_machine_as_test

from messaging import checkpoints, control, policy
from messaging import store as stores
from messaging.expiry import job as expiry
from messaging.expiry.job import Processed
from messaging.live import directory, positions, subscription
from messaging.store import Store, connections
from messaging.store.expiry import Expiry
from messaging.store.records import Due, Expired, RoomKey
from tests.support.delivery_machine import POLICY, DeliveryMachine, World, make_people
from tests.support.devices import Device, Loop, Process
from tests.support.expiry_machine import ExpiryMachine
from tests.support.fake_clock import move_clocks
from tests.support.messages import ALAN, MEMBERS
from tests.support.step_control import STEPS, stop_at_steps

EXAMPLES = int(os.environ.get("DELIVERY_MACHINE_EXAMPLES", "25"))
FEW_EXAMPLES = 6
EXPIRY_STEPS = 50

Explore = Callable[..., None]


@pytest.fixture
def explore(redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Explore:
    """Return a function that runs a machine."""
    monkeypatch.setattr(positions, "PUBLISH_LATENCY_S", 0.0)
    monkeypatch.setattr(
        subscription, "PING_INTERVAL_S", 10.0**9
    )  # the clock jumps: no pong could arrive in time
    move_clocks(monkeypatch)
    stop_at_steps(monkeypatch)
    news: list[dict[str, Any]] = []

    async def announce(kind: str, **fields: Any) -> None:
        news.append({"type": f"control.{kind}", **fields})

    monkeypatch.setattr(control, "publish", announce)  # the machine decides who receives an event
    make_people()
    sessions = {user: _log_in(user) for user in MEMBERS}

    async def open_store() -> Store:
        store = Store(connections.async_client(), policy.current())
        stores._stores[asyncio.get_running_loop()] = store
        return store

    def run(machine: type[World], examples: int, steps: int = 30, *, shrink: bool = False) -> None:
        monkeypatch.setattr(policy, "current", lambda: machine.policy)
        with asyncio.Runner(loop_factory=Loop) as runner:
            machine.runner = runner
            machine.news = news
            machine.store = runner.run(open_store())
            machine.visitors = {}
            for user, session in sessions.items():
                visitor = runner.run(directory.authenticate(session))
                assert visitor is not None
                machine.visitors[user] = visitor
            try:
                run_state_machine_as_test(
                    machine,
                    settings=settings(
                        max_examples=examples,
                        stateful_step_count=steps,
                        deadline=None,
                        derandomize=True,
                        database=None,
                        print_blob=True,
                        report_multiple_bugs=False,
                        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    ),
                )
            finally:
                runner.run(connections.close())

    return run


@contextlib.contextmanager
def first_failure() -> Iterator[None]:
    """Raise the failure that the machine found, also where the replay of its example runs tasks in another order and passes."""
    try:
        yield
    except FlakyFailure as flaky:
        raise flaky.exceptions[0] from flaky


def _log_in(user: int) -> str:
    client = Client()
    client.force_login(User.objects.get(pk=user))
    return str(client.session.session_key)


few_and_many = pytest.mark.parametrize(
    "examples", [FEW_EXAMPLES, pytest.param(EXAMPLES, marks=pytest.mark.proof)], ids=["few", "many"]
)


@few_and_many
def test_every_accepted_message_ends_acknowledged_or_parked_or_due(explore: Explore, examples: int) -> None:
    explore(DeliveryMachine, examples, shrink=True)


@few_and_many
def test_every_accepted_message_ends_held_or_named_in_its_notice_or_deleted(
    explore: Explore, examples: int
) -> None:
    explore(ExpiryMachine, 3 * examples // 2, EXPIRY_STEPS, shrink=True)


class AcknowledgesTooMuch(DeliveryMachine):
    """Clients that acknowledge messages that they have not received."""

    async def _tell(self, device: Device, *frames: dict[str, Any]) -> None:
        for frame in frames:
            if frame["type"] == "ack":
                [place] = await self.store.log.positions([self.room])
                assert place is not None
                frame["rooms"][0]["delivered"] = place.top
        await super()._tell(device, *frames)


class CountsNothing(DeliveryMachine):
    """A store that forgets attempts."""

    async def _record_attempt(self, room: RoomKey, user: int, expected: int, next_s: float) -> bool:
        counted = await super()._record_attempt(room, user, expected, next_s)
        await self.store.client.delete(f"{room.key}:attempts")
        return counted


class LosesEverySilence(DeliveryMachine):
    """A process that starts no retry, and a store that does not remember the members who owe."""

    async def _settle(self) -> None:
        for process in self.processes:
            hub = process.server.hub
            hub.listener = dataclasses.replace(hub.listener, pushed=lambda connection, feed: None)
        await self.store.client.delete(f"{self.room.prefix}unacked")
        await super()._settle()


class PushesForEver(DeliveryMachine):
    """Processes that never give up."""

    async def _start(self) -> Process:
        process = await super()._start()
        process.server.retry.policy = dataclasses.replace(POLICY, attempts_max=99)
        return process


@pytest.mark.proof
@pytest.mark.parametrize("broken", [AcknowledgesTooMuch, CountsNothing, LosesEverySilence, PushesForEver])
def test_the_machine_detects_a_broken_rule(explore: Explore, broken: type[DeliveryMachine]) -> None:
    with pytest.raises(AssertionError), first_failure():
        explore(broken, examples=39)


class HuntsWorkers(ExpiryMachine):
    """Begin with two offline members, one of whom leaves. At every step of a worker a member joins and it is killed or continues."""

    @initialize(peace=st.booleans())
    def begin(self, peace: bool = True) -> None:
        super().begin(peace)
        for device in self.devices[2:]:
            self.run(self._cut(device))
        self.run(self._leave_room(ALAN))
        for dies, step in itertools.product([True, False], STEPS):
            self.run(self._send(self.devices[0], 1, heard=True))
            self.run(self._let_pass(60))
            self._work(0, step)
            if dies:
                self._kill(0)
            self.run(self._look_in(self.devices[2]))
            self._work(0, "its end")

    async def _look_in(self, device: Device) -> None:
        await self._connect(device, self.processes[0])
        await self._receive(device)
        await self._cut(device)


def _clears_before_it_records(monkeypatch: pytest.MonkeyPatch) -> None:
    async def process_batch(store: Store, expired: Sequence[Expired], done: Processed) -> None:
        await store.expiry.finalize(expired)
        checkpoints.reach("expiry.finalized")
        await expiry._record(expired, await store.now_ms())
        checkpoints.reach("expiry.recorded")

    monkeypatch.setattr(expiry, "_process_batch", process_batch)


def _forgets_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Expiry._scan

    async def scan_others(self: Expiry, command: str, rooms: Sequence[RoomKey], part: str) -> Any:
        return {room.id: [] for room in rooms} if part == ":left" else await scan(self, command, rooms, part)

    monkeypatch.setattr(Expiry, "_scan", scan_others)


def _reads_exceptions_before_cursors(monkeypatch: pytest.MonkeyPatch) -> None:
    readers = Expiry._calculators
    read: dict[str, list[bytes]] = {}

    async def readers_later(self: Expiry, rooms: Iterable[RoomKey]) -> Any:
        keys = list(rooms)
        for room in keys:
            read[room.id] = await self._calls.client.zrange(f"{room.key}:outcome", 0, -1)
        return await readers(self, keys)

    async def outcomes(self: Expiry, dues: Sequence[Due]) -> Any:
        rows = {due: [str(row, "utf-8") for row in read[due.room.id]] for due in dues}
        return {due: [row for row in rows[due] if row.split("|")[0] == str(due.seq)] for due in dues}

    monkeypatch.setattr(Expiry, "_calculators", readers_later)
    monkeypatch.setattr(Expiry, "_outcomes", outcomes)


def test_a_worker_interrupted_at_any_step_reports_every_member(explore: Explore) -> None:
    explore(HuntsWorkers, examples=3)


@pytest.mark.proof
@pytest.mark.parametrize(
    "break_", [_clears_before_it_records, _forgets_who_left, _reads_exceptions_before_cursors]
)
def test_the_machine_detects_a_job_that_omits_a_member(
    explore: Explore, monkeypatch: pytest.MonkeyPatch, break_: Callable[[pytest.MonkeyPatch], None]
) -> None:
    break_(monkeypatch)
    with pytest.raises(AssertionError, match=r"no notice names them|left without it"), first_failure():
        explore(HuntsWorkers, examples=3)
