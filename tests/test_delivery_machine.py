"""Delivery in every interleaving: while nothing expires (`delivery_machine`), and with all that may end a message (`expiry_machine`).

Each broken variant shows that the machine sees what it is for. `DELIVERY_MACHINE_EXAMPLES` asks for a longer run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from messaging import control, directory, expiry, hub, policy, pools, subscription
from messaging import store as stores
from messaging.expiry import Processed
from messaging.records import Expired, RoomKey
from messaging.store import Store
from tests.delivery_machine import POLICY, DeliveryMachine, World, make_people
from tests.devices import Device, Loop, Process
from tests.expiry_machine import ExpiryMachine
from tests.messages import MEMBERS
from tests.passing import move_clocks
from tests.stepped import stop_at_steps

EXAMPLES = int(os.environ.get("DELIVERY_MACHINE_EXAMPLES", "40"))
EXPIRY_EXAMPLES = 2 * EXAMPLES
EXPIRY_STEPS = 50

Explore = Callable[..., None]


@pytest.fixture
def explore(redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Explore:
    """Return what runs a machine."""
    monkeypatch.setattr(hub, "HEARD_WITHIN_S", 0.0)
    monkeypatch.setattr(subscription, "PING_EVERY_S", 10.0**9)  # the clock leaps: no pong could come in time
    move_clocks(monkeypatch)
    stop_at_steps(monkeypatch)
    news: list[dict[str, Any]] = []

    async def announce(kind: str, **fields: Any) -> None:
        news.append({"type": f"control.{kind}", **fields})

    monkeypatch.setattr(control, "announce", announce)  # a bus of which the machine says who hears it
    make_people()
    sessions = {user: _log_in(user) for user in MEMBERS}

    async def open_store() -> Store:
        store = Store(pools.async_client(), policy.current())
        stores._stores[asyncio.get_running_loop()] = store
        return store

    def run(machine: type[World], examples: int = EXAMPLES, steps: int = 30) -> None:
        monkeypatch.setattr(policy, "current", lambda: machine.policy)
        with asyncio.Runner(loop_factory=Loop) as runner:
            machine.runner = runner
            machine.news = news
            machine.store = runner.run(open_store())
            machine.visitors = {}
            for user, session in sessions.items():
                visitor = runner.run(directory.visitor(session))
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
                        phases=[Phase.generate, Phase.shrink]
                        if examples in (EXAMPLES, EXPIRY_EXAMPLES)
                        else [Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    ),
                )
            finally:
                runner.run(pools.close())

    return run


def _log_in(user: int) -> str:
    client = Client()
    client.force_login(User.objects.get(pk=user))
    return str(client.session.session_key)


def test_every_accepted_message_ends_acknowledged_or_parked_or_due(explore: Explore) -> None:
    explore(DeliveryMachine)


def test_every_accepted_message_ends_held_or_named_in_its_notice_or_deleted(explore: Explore) -> None:
    explore(ExpiryMachine, examples=EXPIRY_EXAMPLES, steps=EXPIRY_STEPS)


class AcknowledgesTooMuch(DeliveryMachine):
    """Clients that acknowledge what they have not got."""

    async def _tell(self, device: Device, *frames: dict[str, Any]) -> None:
        for frame in frames:
            if frame["type"] == "ack":
                [place] = await self.store.places([self.room])
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


def _clears_before_it_records(monkeypatch: pytest.MonkeyPatch) -> None:
    async def process_batch(store: Store, expired: Sequence[Expired], done: Processed) -> None:
        await store.finalize(expired)
        expiry.step("finalized")
        await expiry._record(expired, await store.now_ms())
        expiry.step("recorded")

    monkeypatch.setattr(expiry, "_process_batch", process_batch)


def _forgets_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Store._scan

    async def scan_others(self: Store, command: str, rooms: Sequence[RoomKey], part: str) -> Any:
        return {room.id: [] for room in rooms} if part == ":left" else await scan(self, command, rooms, part)

    monkeypatch.setattr(Store, "_scan", scan_others)


@pytest.mark.parametrize("break_", [_clears_before_it_records, _forgets_who_left])
def test_the_machine_sees_a_job_that_leaves_somebody_out(
    explore: Explore, monkeypatch: pytest.MonkeyPatch, break_: Callable[[pytest.MonkeyPatch], None]
) -> None:
    break_(monkeypatch)
    with pytest.raises(AssertionError):
        explore(ExpiryMachine, examples=EXPIRY_EXAMPLES - 1, steps=EXPIRY_STEPS)
