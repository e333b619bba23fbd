"""`manage.py process_expired`: run the expiry job by hand. Data on stdout, other messages on stderr."""

from __future__ import annotations

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
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.expiry.reports import Names
from messaging.management.arguments import Stop, age, database_away, positive, room_key, say, show_table
from messaging.models import Room
from messaging.store import open_store
from messaging.store.records import Expired, Overdue

SAFE = (
    "Nothing is lost: a message is deleted only after its report, and claimed messages are due again in 30 s."
)


class Command(BaseCommand):
    help = "Report expired messages to their senders, with the members who missed them, then delete them from the store."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--once", action="store_true", help="run once; the default is every minute until Ctrl-C"
        )
        parser.add_argument("--room", type=room_key, metavar="ID", help="only this room")
        parser.add_argument("--limit", type=positive, metavar="N", help="at most N messages in a run")
        parser.add_argument(
            "--dry-run", action="store_true", help="show expired messages and who missed them; change nothing"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        bounds = expiry.ExpiryOptions(room=options["room"], limit=options["limit"])
        try:
            if options["dry_run"]:
                self._show(bounds, as_json=options["json"])
            else:
                self._process(bounds, once=options["once"], as_json=options["json"])
        except Unavailable:
            raise CommandError(
                f"The store does not answer. {SAFE} `manage.py doctor` shows the cause."
            ) from None
        except DatabaseError as error:
            raise CommandError(f"{database_away(error)} {SAFE} `manage.py doctor` shows the cause.") from None

    def _process(self, bounds: expiry.ExpiryOptions, *, once: bool, as_json: bool) -> None:
        interval_s = policies.current().sweep_interval_s
        if not once:
            say(f"Processing every {interval_s} s until Ctrl-C.")
        with Stop() as stop:
            while not stop:
                done = self._process_once(bounds, stop)
                self.stdout.write(json.dumps(done.as_data()) if as_json else _sentence(done))
                if done.left:
                    say(
                        f"{done.left} could not be reported and will be tried again. The log lines above list them."
                    )
                if once:
                    _say_overdue(run_async(_overdue))
                    return
                stop.wait(interval_s)

    def _process_once(self, bounds: expiry.ExpiryOptions, stop: Stop) -> expiry.Processed:
        terminal = sys.stderr.isatty()
        total = run_async(_overdue).due if terminal and bounds.room is None else None
        with Progress(disable=not terminal, transient=True) as progress:
            bar = progress.add_task("Reporting messages", total=bounds.limit or total)
            return run_async(
                expiry.process,
                bounds,
                stopping=lambda: bool(stop),
                on_progress=lambda count: progress.advance(bar, count),
            )

    def _show(self, bounds: expiry.ExpiryOptions, *, as_json: bool) -> None:
        messages = run_async(expiry.preview, bounds)
        room_ids = {message.due.room.id for message in messages}
        rooms = dict(Room.objects.filter(pk__in=room_ids).values_list("pk", "name"))
        rows = _rows(messages, rooms)
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        if not rows:
            say("Nothing is due: no message expired more than 5 s ago.")
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
        more = "; more are due" if len(rows) == (bounds.limit or policies.current().claim_max) else ""
        say(f"{len(rows)} messages have expired{more}. Nothing was changed.")


async def _overdue() -> Overdue:
    return await open_store().expiry.overdue()


def _sentence(done: expiry.Processed) -> str:
    return f"{done.expired} expired, {done.missed} of them missed, {done.quarantined} quarantined, {done.left} left"


def _say_overdue(overdue: Overdue) -> None:
    if overdue.due and overdue.oldest_s is not None:
        say(
            f"{overdue.due} are still due, the oldest for {age(overdue.oldest_s)}."
            " Run the command again, or let the worker process them."
        )


def _rows(messages: Sequence[Expired], rooms: dict[str, str]) -> list[dict[str, Any]]:
    names = Names({message.sender for message in messages if not message.name})
    return [
        {
            "room": message.due.room.id,
            "name": rooms.get(message.due.room.id),
            "seq": message.due.seq,
            "sender": message.sender if message.live else None,
            "sender_name": message.name or (names.of(message.sender) if message.live else ""),
            "live": message.live,
            "expired_at": message.expires_at,
            "total": message.total,
            "missed": len(message.missed),
            "reasons": dict(Counter(member.reason for member in message.missed)),
        }
        for message in messages
    ]
