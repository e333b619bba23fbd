"""Common behaviour of all commands: without a database they print a sentence and exit with 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "call",
    [
        ["room", "list"],
        ["room", "create", "Atlas"],
        ["room", "lifetime", "none", "--ttl", "60"],
        ["dead_letters", "list"],
        ["retry_undelivered", "--once"],
        ["process_expired", "--once"],
    ],
    ids=" ".join,
)
def test_command_without_a_database_prints_a_sentence_and_exits_with_1(
    redis_url: str, call: list[str]
) -> None:
    ended = subprocess.run(
        [sys.executable, "manage.py", *call],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
            "REDIS_URL": redis_url,
            "DATABASE_URL": "sqlite:////nonexistent/db",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("CommandError: ")]
    assert said.startswith("CommandError: The database does not answer (unable to open database file). ")
    assert "Traceback" not in ended.stderr
