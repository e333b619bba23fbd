"""Shared by several commands: durations, a stop after the present batch, a question, tables."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self, TextIO

from django.core.management.base import CommandError, OutputWrapper
from django.db import Error as DatabaseError
from rich.console import Console
from rich.table import Column, Table

from messaging.models import Room
from messaging.store.records import RoomKey

POLL_S = 0.1

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_s(text: str) -> int:
    """Return the seconds of `90s`, `15m`, `2h` or `3d`."""
    match = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90s, 15m, 2h or 3d")
    return int(match[1]) * _UNITS_S[match[2]]


def positive(text: str) -> int:
    """Return a whole number above 0."""
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def room_key(text: str) -> RoomKey:
    """Return the key of a room by its id."""
    try:
        room = Room.objects.filter(pk=text).first()
    except DatabaseError as error:
        raise argparse.ArgumentTypeError("the room cannot be read: the database does not answer") from error
    if room is None:
        raise argparse.ArgumentTypeError(f"there is no room {text!r}; to see all, run `manage.py room list`")
    return RoomKey(room.id, room.partition)


class Stop:
    """Turns true at SIGTERM or SIGINT within its block, so that a command finishes its batch and exits 0.

    Not a `threading.Event`: a signal that arrives while `wait` holds the event's lock would wait for it in the same thread.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._stopped

    def wait(self, seconds: float) -> None:
        ends_mono_s = time.monotonic() + seconds
        while not self._stopped and (left_s := ends_mono_s - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))

    def _stop(self, *_: object) -> None:
        self._stopped = True


def show_table(out: TextIO, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: a table on a terminal, lines with tabs elsewhere."""
    if not out.isatty():
        for row in rows:
            out.write("\t".join(row) + "\n")
        return
    first, *others = columns  # never cut: users copy the first cell into the next command
    table = Table(Column(first, no_wrap=True), *others, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(file=out, markup=False, emoji=False).print(table)  # names may hold brackets


def database_away(error: DatabaseError) -> str:
    """Return the sentence for a database that is down, with the reason of its driver, on one line."""
    reason = " ".join(str(error).split()).rstrip(".")
    return f"The database does not answer ({reason})."


def say(text: str) -> None:
    """Write a line for people to stderr. Stdout is for data."""
    sys.stderr.write(text + "\n")


def agreed(err: OutputWrapper, question: str) -> bool:
    """Ask on a command's stderr; return whether the answer is yes. Without a terminal this is a usage error."""
    if not sys.stdin.isatty():
        raise CommandError(
            "This needs a confirmation, but there is no terminal. Use --yes or --dry-run.", returncode=2
        )
    err.write(f"{question} [y/N] ", style_func=str, ending="")
    err.flush()
    try:
        return input().strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        err.write("", style_func=str)
        return False


def age(seconds: float) -> str:
    """Return a length of time in its two largest units: `2 h 5 min`."""
    whole = int(seconds)
    for unit_s, unit, below_s, below in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // below_s} {below}"
    return f"{whole} s"
