"""`manage.py retry_undelivered`: run the sweep by hand. Data on stdout, other messages on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from rich.progress import Progress

from messaging import jobs
from messaging import policy as policies
from messaging.bridge import run_async
from messaging.errors import MessagingError
from messaging.management.arguments import (
    Stop,
    database_away,
    duration_s,
    positive,
    room_key,
    say,
    show_table,
)
from messaging.models import Room
from messaging.store.records import Claim, Lag


class Command(BaseCommand):
    help = "Send unacknowledged messages again to connected members. Offline members receive them when they reconnect."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--once", action="store_true", help="sweep once; the default is every minute until Ctrl-C"
        )
        parser.add_argument(
            "--room", type=room_key, metavar="ID", help="only this room, even if it is not due"
        )
        parser.add_argument(
            "--older-than",
            type=duration_s,
            default=0,
            metavar="2h",
            help="only rooms whose oldest undelivered message is older than this",
        )
        parser.add_argument("--limit", type=positive, metavar="N", help="at most N rooms")
        parser.add_argument(
            "--dry-run", action="store_true", help="show lagging rooms and members; change nothing"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        bounds = jobs.SweepOptions(
            room=options["room"], older_than_s=options["older_than"], limit=options["limit"]
        )
        try:
            if options["dry_run"]:
                self._show(bounds, as_json=options["json"])
            else:
                self._sweep(bounds, once=options["once"], as_json=options["json"])
        except MessagingError as error:
            raise CommandError(
                f"{error.detail} Nothing is lost: claimed rooms are due again in 30 s."
            ) from None
        except DatabaseError as error:
            raise CommandError(
                f"{database_away(error)} Nothing is lost: claimed rooms are due again in 30 s."
            ) from None

    def _sweep(self, bounds: jobs.SweepOptions, *, once: bool, as_json: bool) -> None:
        interval_s = policies.current().sweep_interval_s
        if not once:
            say(f"Sweeping every {interval_s} s until Ctrl-C.")
        with Stop() as stop:
            while not stop:
                count = self._sweep_once(bounds, stop)
                sentence = "1 room swept" if count == 1 else f"{count} rooms swept"
                self.stdout.write(json.dumps({"rooms": count}) if as_json else sentence)
                if once:
                    return
                stop.wait(interval_s)

    def _sweep_once(self, bounds: jobs.SweepOptions, stop: Stop) -> int:
        with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
            bar = progress.add_task("Sweeping rooms", total=bounds.limit)

            def on_progress(claim: Claim) -> None:
                progress.advance(bar)

            return run_async(jobs.sweep, bounds, stopping=lambda: bool(stop), on_progress=on_progress)

    def _show(self, bounds: jobs.SweepOptions, *, as_json: bool) -> None:
        lags = run_async(jobs.lagging_rooms, bounds)
        names = dict(
            get_user_model()
            .objects.filter(pk__in={member.user for lag in lags for member in lag.members_behind})
            .values_list("pk", get_user_model().USERNAME_FIELD)
        )
        rooms = dict(Room.objects.filter(pk__in=[lag.room.id for lag in lags]).values_list("pk", "name"))
        if as_json:
            self.stdout.write(json.dumps([_fields(lag, names, rooms) for lag in lags], ensure_ascii=False))
            return
        if not lags:
            say("No member is lagging: every message is acknowledged or not yet due.")
            return
        show_table(
            sys.stdout,
            ("room", "name", "lagging", "member", "attempts"),
            (
                (
                    lag.room.id,
                    rooms.get(lag.room.id, "?"),
                    str(lag.behind),
                    names.get(row.user, "?"),
                    str(row.attempts),
                )
                for lag in lags
                for row in lag.members_behind
            ),
        )
        say(f"{len(lags)} rooms with lagging members. Nothing was changed.")


def _fields(lag: Lag, names: dict[int, str], rooms: dict[str, str]) -> dict[str, Any]:
    return {
        "room": lag.room.id,
        "name": rooms.get(lag.room.id),
        "behind": lag.behind,
        "oldest_at": lag.oldest_at,
        "laggards": [
            {"user": row.user, "name": names.get(row.user), "cursor": row.cursor, "attempts": row.attempts}
            for row in lag.members_behind
        ],
    }
