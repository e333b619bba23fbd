"""The stop of a command at a signal."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from messaging.management.arguments import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_of_a_wait_ends_it(number: signal.Signals) -> None:
    """With an event of `threading` it can deadlock, because `wait` holds the event's lock for a moment."""
    for _ in range(5):
        with Stop() as stop:
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            started_s = time.monotonic()
            stop.wait(10)
            assert stop
            assert time.monotonic() - started_s < 5


def test_a_signal_in_the_handler_of_another_is_harmless() -> None:
    with Stop() as stop:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        stop.wait(10)
        assert stop
