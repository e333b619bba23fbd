"""Run management commands in forks of one process, because Django takes a second to start.

Run it as `python -m tests.e2e.commands`. It reads the words of a command as a JSON array, one a line, and prints
`{"output": str, "error": str}`; `error` is empty if the command succeeded.
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
    return {"output": output.getvalue(), "error": (errors.getvalue() or "it failed") if failed else ""}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    environment.prepare_command("shell")
    django.setup()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.stdout.write(json.dumps({"output": "", "error": "an exception: see stderr"}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
