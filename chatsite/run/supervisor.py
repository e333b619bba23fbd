"""Keep child processes running: pass on their output, restart each that ends, stop all in order.

`chatsite/run/startup.py` decides which children run, and in which order they start.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

from chatsite.run.children import Child, end_marked
from messaging.monitoring import health

TURN_S = 0.1
NAME_WIDTH = 8


class Supervisor:
    """Runs children in stages, started in the order in which they are added and stopped in the reverse order."""

    def __init__(self, folder: Path, interrupt: Interrupt) -> None:
        self._folder = folder
        self._interrupt = interrupt
        self._stages: list[list[Child]] = []
        self._dropped = 0

    @property
    def children(self) -> list[Child]:
        return [child for stage in self._stages for child in stage]

    def add(self, *stage: Child) -> None:
        self._stages.append(list(stage))
        for child in stage:
            child.start()

    def run(self) -> None:
        """Supervise until a signal raises `KeyboardInterrupt` (see `Interrupt`)."""
        while True:
            self.turn(TURN_S)

    def turn(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for output, pass it on, and restart ended children. Raises `KeyboardInterrupt` after a signal."""
        self._pass_on_output(timeout_s)
        self._interrupt.check()
        for child in self.children:
            if child.due_mono_s is not None:
                if time.monotonic() >= child.due_mono_s:
                    child.start()
            elif not child.running:
                if child.once:
                    self._remove(child)
                else:
                    self._report_and_restart_later(child)

    def stop(self) -> None:
        """Stop stage by stage, the last added first. Children that take longer than their patience are killed. No process remains."""
        for stage in reversed(self._stages):
            for child in stage:
                child.signal(signal.SIGTERM)
            started_mono_s = time.monotonic()
            for child in stage:
                self._await_end(child, deadline_mono_s=started_mono_s + child.patience_s)
        end_marked(self._folder, patience_s=0)

    def say(self, text: str, *, name: str = "serve") -> None:
        """Write one line with a prefix for the user. The line is dropped if the output is not read."""
        self._write(name, text.encode())

    def _report_and_restart_later(self, child: Child) -> None:
        ending = _ending(child)
        wait_s = child.restart_later()
        self._write_lines(child)
        child.close()
        self.say(f"{child.name} {ending}; starting it again in {wait_s:.1f} s.")
        for fault in health.data_disk().faults:  # the store ends when it cannot write
            self.say(fault.text)

    def _remove(self, child: Child) -> None:
        """Remove a child that runs once and has ended. Report it if it failed."""
        self._write_lines(child)
        child.close()
        if child.status:
            self.say(f"{child.name} {_ending(child)}; no other process needs it.")
        self._stages = [[other for other in stage if other is not child] for stage in self._stages]

    def _await_end(self, child: Child, *, deadline_mono_s: float) -> None:
        while child.running and time.monotonic() < deadline_mono_s:
            self._pass_on_output(TURN_S / 2)
        if child.running:
            self.say(f"{child.name} did not stop within {child.patience_s:.1f} s and is killed.")
        child.kill()
        self._write_lines(child)
        child.close()

    def _pass_on_output(self, timeout_s: float) -> None:
        pipes = {
            child.process.stdout.fileno(): child
            for child in self.children
            if child.process and child.process.stdout and not child.process.stdout.closed and child.running
        }
        readable, _, _ = select.select(list(pipes), [], [], timeout_s)
        for pipe in readable:
            self._write_lines(pipes[pipe])

    def _write_lines(self, child: Child) -> None:
        for line in child.read_lines():
            self._write(child.name, line)

    def _write(self, name: str, line: bytes) -> None:
        out = sys.stdout.fileno()
        if not select.select([], [out], [], 0)[1]:
            self._dropped += 1  # a full pipe must not block the supervisor
            return
        if self._dropped:
            line = b"(%d lines were not read and were dropped) " % self._dropped + line
            self._dropped = 0
        try:
            os.write(out, f"{name:<{NAME_WIDTH}} | ".encode() + line + b"\n")
        except OSError:
            return  # the reader has closed the output


def _ending(child: Child) -> str:
    status = child.status
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"


class Interrupt:
    """Turns signals into `KeyboardInterrupt`, even if a shell started `serve` in the background and lets it ignore SIGINT.

    Python drops an exception that is raised while it runs a finalizer, so the signal is also stored.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._arrived = False
        for number in numbers:
            signal.signal(number, self._interrupt)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has arrived."""
        if self._arrived:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Ignore the signals from now on: a second Ctrl-C must not interrupt the stop."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, *_: object) -> None:
        self._arrived = True
        raise KeyboardInterrupt
