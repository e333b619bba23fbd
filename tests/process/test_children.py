"""Ending processes by their mark, and the reason of an end that a child cannot write down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatsite.run.children import MARK, Child, end_marked, mark, marked, wait_for
from chatsite.run.supervisor import Interrupt, Supervisor
from messaging.monitoring import faults

# At SIGTERM it starts another process and exits, as a job cluster can that is just starting its processes.
STARTS_ANOTHER = """
import os, signal, subprocess, sys
from pathlib import Path

def start_another(*_):
    subprocess.Popen(["sleep", "600"])
    os._exit(0)

signal.signal(signal.SIGTERM, start_another)
Path(sys.argv[1]).touch()
signal.pause()
"""


def test_a_process_that_is_started_during_the_end_is_ended_too(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_ANOTHER, str(ready)], env={**os.environ, MARK: mark(tmp_path, "child")}
    )
    assert wait_for(ready.exists, deadline_s=10)
    end_marked(tmp_path, patience_s=10)
    assert process.wait(10) == 0
    assert marked(tmp_path) == []


def test_a_full_disk_is_named_when_a_child_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(tmp_path, Interrupt())
    child = Child("store", ["false"], folder=tmp_path, env=os.environ, patience_s=1)
    printed = ""

    def ended() -> bool:
        nonlocal printed
        supervisor.turn(0)
        printed += capfd.readouterr().out
        return "starting it again" in printed

    try:
        supervisor.add(child)
        assert wait_for(ended, deadline_s=10)
        assert "disk" not in printed
        monkeypatch.setattr(faults, "MIN_FREE_BYTES", 2**62)
        printed = ""
        assert wait_for(ended, deadline_s=10)
    finally:
        supervisor.stop()
    [_, told] = printed.splitlines()
    assert re.match(r"serve    \| The disk of DATA_DIR is full or nearly full: \d+ MB are free\. ", told)
