"""A worker of the expiry job that stops at each named step until it is let go on, or killed there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from messaging import checkpoints
from messaging.expiry import job as expiry
from messaging.expiry.job import ExpiryOptions
from messaging.store import connections
from messaging.store.expiry import Expiry
from messaging.store.records import Due, RoomKey

REST_DEADLINE_S = 30.0
BEFORE = {":delivered": "reads cursors", ":left": "reads leavers"}
STEPS = ("claimed", *BEFORE.values(), "reads exceptions", "read", "recorded", "finalized", "noticed")


class Killed(BaseException):
    """The end of a process: nothing that it would have done next is done."""


class Worker(threading.Thread):
    """One run of the job, in its own loop and with its own connections, like another process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.at = ""  # the step at which it stands
        self.ended = False
        self.fault: BaseException | None = None
        self._killed = False
        self._rested = threading.Event()
        self._go_on = threading.Semaphore(0)

    def run(self) -> None:
        try:
            asyncio.run(_work())
        except Killed:
            pass
        except BaseException as fault:  # noqa: BLE001 -- raised again by who steps it
            self.fault = fault
        self.ended = True
        self._rested.set()

    def go_on(self) -> None:
        """Let it work until the next step or its end; raise what it raised."""
        self._rested.clear()
        if self.is_alive():
            self._go_on.release()
        else:
            self.start()
        assert self._rested.wait(REST_DEADLINE_S), f"stuck after {self.at}"
        if self.ended:
            self.join()
        if self.fault is not None:
            raise self.fault

    def reach(self, step: str) -> None:
        """Let it work until it stands at a step, or to its end where it does not come there."""
        self.go_on()
        while not self.ended and self.at != step:
            self.go_on()

    def finish(self) -> None:
        """Let it work to its end."""
        while not self.ended:
            self.go_on()

    def kill(self) -> None:
        """End it where it stands."""
        self._killed = True
        if self.is_alive():
            self.go_on()

    def pause(self, name: str) -> None:
        self.at = name
        self._rested.set()
        self._go_on.acquire()
        if self._killed:
            raise Killed


def stop_at_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the job stop at its steps where a `Worker` runs it, and while it reads: between cursors, leavers and exceptions."""
    scan, outcomes = Expiry._scan, Expiry._outcomes

    async def scan_later(self: Expiry, command: str, rooms: Sequence[RoomKey], part: str) -> Any:
        if part in BEFORE:
            _step(BEFORE[part])
        return await scan(self, command, rooms, part)

    async def outcomes_later(self: Expiry, dues: Sequence[Due]) -> Any:
        _step("reads exceptions")
        return await outcomes(self, dues)

    monkeypatch.setattr(checkpoints, "reach", lambda name: _step(name.removeprefix("expiry.")))
    monkeypatch.setattr(Expiry, "_scan", scan_later)
    monkeypatch.setattr(Expiry, "_outcomes", outcomes_later)


def _step(name: str) -> None:
    worker = threading.current_thread()
    if isinstance(worker, Worker):
        worker.pause(name)


async def _work() -> None:
    try:
        await expiry.process(ExpiryOptions())
    finally:
        await connections.close()
