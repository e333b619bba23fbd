"""`manage.py process_expired`: the expiry job of the schedule, by hand. Data on stdout, talk on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from rich.progress import Progress

from messaging import expiry
from messaging import policy as policies
from messaging.bridge import run_verb
from messaging.errors import Unavailable
from messaging.expiry.reports import Names
from messaging.management.arguments import Stop, age, database_away, positive, room_key, say, show_table
from messaging.models import Room
from messaging.store import open_store
from messaging.store.records import Expired, Overdue

SAFE = "Nothing is lost: a message is cleared only after it was reported, and what was claimed is due again in 30 s."


class Command(BaseCommand):
    help = "Report to its sender what expired before everybody had it, then clear it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="one run, then end; else one each minute")
        parser.add_argument("--room", type=room_key, metavar="ID", help="only this room")
        parser.add_argument("--limit", type=positive, metavar="N", help="at most so many messages a run")
        parser.add_argument(
            "--dry-run", action="store_true", help="say what has expired and who missed it; change nothing"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        what = expiry.Expiring(room=options["room"], limit=options["limit"])
        try:
            if options["dry_run"]:
                self._show(what, as_json=options["json"])
            else:
                self._process(what, once=options["once"], as_json=options["json"])
        except Unavailable:
            raise CommandError(
                f"The store does not answer. {SAFE} `manage.py doctor` says what is wrong."
            ) from None
        except DatabaseError as error:
            raise CommandError(
                f"{database_away(error)} {SAFE} `manage.py doctor` says what is wrong."
            ) from None

    def _process(self, what: expiry.Expiring, *, once: bool, as_json: bool) -> None:
        interval_s = policies.current().sweep_interval_s
        if not once:
            say(f"Processing every {interval_s} s until Ctrl-C.")
        with Stop() as stop:
            while not stop:
                done = self._process_once(what, stop)
                self.stdout.write(json.dumps(dataclasses.asdict(done)) if as_json else _sentence(done))
                if done.left:
                    say(f"{done.left} could not be reported and stay due; the lines above say which.")
                if once:
                    _say_what_is_due(run_verb(_overdue))
                    return
                stop.wait(interval_s)

    def _process_once(self, what: expiry.Expiring, stop: Stop) -> expiry.Processed:
        shown = sys.stderr.isatty()
        total = run_verb(_overdue).due if shown and what.room is None else None
        with Progress(disable=not shown, transient=True) as progress:
            bar = progress.add_task("Reporting messages", total=what.limit or total)
            return run_verb(
                expiry.process,
                what,
                stopping=lambda: bool(stop),
                told=lambda count: progress.advance(bar, count),
            )

    def _show(self, what: expiry.Expiring, *, as_json: bool) -> None:
        found = run_verb(expiry.preview, what)
        rooms = dict(Room.objects.filter(pk__in={one.due.room.id for one in found}).values_list("pk", "name"))
        rows = _rows(found, rooms)
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        if not rows:
            say("Nothing is due: no message has expired more than 5 s ago.")
            return
        show_table(
            sys.stdout,
            ("room", "name", "seq", "sender", "missed", "why"),
            (
                (
                    row["room"],
                    row["name"] or "?",
                    str(row["seq"]),
                    row["sender_name"],
                    f"{row['missed']} of {row['total']}",
                    ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
                    or ("nobody" if row["live"] else "deleted"),
                )
                for row in rows
            ),
        )
        more = "; more are due" if len(rows) == (what.limit or policies.current().claim_max) else ""
        say(f"{len(rows)} messages have expired{more}. Nothing was changed.")


async def _overdue() -> Overdue:
    return await open_store().expiry.overdue()


def _sentence(done: expiry.Processed) -> str:
    return f"{done.expired} expired, {done.missed} of them missed by somebody, {done.set_aside} set aside, {done.left} left"


def _say_what_is_due(found: Overdue) -> None:
    if found.due and found.oldest_s is not None:
        say(
            f"{found.due} are due still, the oldest for {age(found.oldest_s)}: run it again, or let the worker."
        )


def _rows(found: Sequence[Expired], rooms: dict[str, str]) -> list[dict[str, Any]]:
    names = Names({one.sender for one in found if not one.name})
    return [
        {
            "room": one.due.room.id,
            "name": rooms.get(one.due.room.id),
            "seq": one.due.seq,
            "sender": one.sender if one.live else None,
            "sender_name": one.name or (names.of(one.sender) if one.live else ""),
            "live": one.live,
            "expired_at": one.expires_at,
            "total": one.total,
            "missed": len(one.missed),
            "reasons": dict(Counter(missed.reason for missed in one.missed)),
        }
        for one in found
    ]
