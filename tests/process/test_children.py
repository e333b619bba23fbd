"""Ending processes by their mark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from chatsite.run.children import MARK, end_marked, mark, marked, wait_for

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
