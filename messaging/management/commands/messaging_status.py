"""`manage.py messaging_status`: the state of delivery, once or repeatedly. Data on stdout, faults on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from messaging import policy as policies
from messaging.bridge import run_async
from messaging.errors import MessagingError
from messaging.management.arguments import Stop, age, room_key, say, show_table
from messaging.monitoring import faults
from messaging.monitoring.status import Status, status
from messaging.store.records import Overdue, RoomKey

WATCH_INTERVAL_S = 2.0


class Command(BaseCommand):
    help = (
        "Show the numbers of stored messages and of lagging and parked members, and when each job last ran."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--room", type=room_key, metavar="ID", help="only this room")
        parser.add_argument("--watch", action="store_true", help="repeat every 2 s until Ctrl-C")
        parser.add_argument("--json", action="store_true", help="print JSON, one line for each report")

    def handle(self, *args: Any, **options: Any) -> None:
        with Stop() as stop:
            while not stop:
                self._show(self._status(options["room"]), as_json=options["json"], clear=options["watch"])
                if not options["watch"]:
                    return
                stop.wait(WATCH_INTERVAL_S)

    def _status(self, room: RoomKey | None) -> Status:
        try:
            return run_async(status, room)
        except MessagingError as error:
            raise CommandError(f"{error.detail} `manage.py doctor` shows the cause.") from None

    def _show(self, found: Status, *, as_json: bool, clear: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(dataclasses.asdict(found)))
            return
        if clear and sys.stdout.isatty():
            Console().clear()
        show_table(sys.stdout, ("figure", "value"), _rows(found))
        for fault in _faults(found):
            say(fault.text)


def _faults(found: Status) -> list[faults.Fault]:
    runs = {job: int(beat["at"]) for job, beat in found.jobs.items()}
    overdue = Overdue(found.expired_due, found.expired_due_s)
    return [
        *faults.of_worker(runs, found.now_ms, recovery=policies.current().recovery),
        *faults.of_expiry(runs, overdue, found.now_ms),
    ]


def _last_hour(found: Status) -> list[tuple[str, int]]:
    hour = found.last_hour
    return [
        ("accepted", hour.accepted),
        ("delivered", hour.delivered),
        ("retried", hour.retried),
        ("gave up", hour.gave_up),
        ("rejected", hour.rejected),
        ("expired", hour.expired),
        ("expired, received by everyone", hour.expired_to_all),
        ("expired, missed by someone", hour.expired_missed),
        ("missed, offline", hour.missed_offline),
        ("missed, no answer", hour.missed_no_ack),
        ("missed, received too late", hour.missed_late),
        ("missed, could not be displayed", hour.missed_client_rejected),
        ("missed, left the room", hour.missed_left_room),
    ]


def _due(found: Status) -> str:
    since = "" if found.expired_due_s is None else f", the oldest for {age(found.expired_due_s)}"
    return f"{found.expired_due:,}{since}"


def _rows(found: Status) -> list[tuple[str, str]]:
    oldest_s = found.oldest_undelivered_s
    limit = f" of {found.memory_limit_bytes:,}" if found.memory_limit_bytes else ""
    return [
        ("messages stored", f"{found.stored:,}"),
        ("rooms active", f"{found.rooms_active:,}"),
        ("lagging (connected)", f"{found.lagging:,}"),
        ("parked (offline)", f"{found.parked:,}"),
        ("retrying", f"{found.retrying:,}"),
        ("gave up (no answer)", f"{found.gave_up:,}"),
        ("oldest undelivered", "none" if oldest_s is None else age(oldest_s)),
        ("expired, not yet reported", _due(found)),
        *((f"{what}, last hour", f"{number:,}") for what, number in _last_hour(found)),
        *((f"users on process {name}", f"{users:,}") for name, users in sorted(found.connections.items())),
        *((f"job {name}", f"{age(beat['age_s'])} ago") for name, beat in sorted(found.jobs.items())),
        ("store memory", f"{found.memory_bytes:,}{limit} bytes, {found.eviction}"),
    ]
