"""Run management commands in one process, because a process for each takes a second to start.

Run it as `python -m tests.e2e.commands`. It reads the words of a command as a JSON array, one a line, and prints
`{"output": str, "error": str}`; `error` is empty if the command succeeded. An unexpected exception ends it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import django
from django.core.management import execute_from_command_line

from chatsite import environment


def run(words: list[str]) -> dict[str, str]:
    output, errors = io.StringIO(), io.StringIO()
    failed = True
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            environment.prepare_command(words[0])
            execute_from_command_line(["manage.py", *words])
            failed = False
        except SystemExit as end:
            failed = bool(end.code)
    return {
        "output": output.getvalue(),
        "error": errors.getvalue() or "The command failed." if failed else "",
    }


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    environment.prepare_command("shell")
    django.setup()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
