"""`manage.py seed_demo`: create demo users and rooms."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError

from messaging import demo
from messaging.bridge import run_async
from messaging.demo import states
from messaging.errors import MessagingError
from messaging.management.arguments import Stop, duration_s, say

DEFAULT_ROOMS, DEFAULT_USERS = 1, 5  # of new ones, when only the other number is given
DEFAULT_STAY_S = 15 * 60


class Command(BaseCommand):
    help = (
        "Create the demo users and rooms. With --states, also create a message in each state. With numbers, create new users"
        " and rooms instead. Requires DJANGO_DEBUG or --force, because the command prints passwords."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--users", type=int, metavar="N", help=f"number of new users (default: {DEFAULT_USERS})"
        )
        parser.add_argument(
            "--rooms", type=int, metavar="N", help=f"number of new rooms (default: {DEFAULT_ROOMS})"
        )
        parser.add_argument(
            "--members", type=int, metavar="N", help="number of members of each room (default: all new users)"
        )
        parser.add_argument(
            "--sessions", action="store_true", help="log all users in and print their session cookies"
        )
        parser.add_argument(
            "--states",
            action="store_true",
            help="also create one message in each state, for the staff's pages (takes about 10 s, only the first time)",
        )
        parser.add_argument(
            "--stay",
            type=_stay_s,
            metavar="15m",
            help="with --states: keep one user connected and silent for this time, so that there is a lagging member"
            " (default: 15m if the messages are new, 0 if they exist; Ctrl-C ends it)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--force", action="store_true", help="run even if DJANGO_DEBUG is off")

    def handle(self, *args: Any, **options: Any) -> None:
        if not (settings.DEBUG or options["force"]):
            raise CommandError("This command prints passwords. Set DJANGO_DEBUG=1, or add --force.")
        try:
            seeded = self._seed(options)
        except MessagingError as error:
            raise CommandError(error.detail) from None
        except (OperationalError, ProgrammingError) as error:
            raise CommandError(
                f"The database is not ready ({error}). Run `manage.py migrate` first."
            ) from None
        if options["json"]:
            self.stdout.write(_json(seeded, sessions=options["sessions"]))
        elif options["verbosity"]:
            self._print(seeded)
        self.stdout.flush()
        if options["states"]:
            if not options["verbosity"]:  # its failed attempts are intended
                logging.getLogger("messaging").setLevel(logging.ERROR)
            self._make_states(options["stay"])

    def _make_states(self, stay_s: int | None) -> None:
        note = demo.kept_note()
        if note is None:
            raise CommandError("The demo users no longer exist.")
        with Stop() as stop:
            try:
                created = run_async(states.make, note, stopping=lambda: bool(stop))
            except states.Stopped:
                return
            except TimeoutError:
                raise CommandError(
                    "A component of the site does not answer. Run `manage.py doctor` to find it, then run this command again."
                ) from None
            except MessagingError as error:
                raise CommandError(error.detail) from None
            say("Created a message in each state." if created else "A message in each state already exists.")
            seconds = stay_s if stay_s is not None else DEFAULT_STAY_S * created
            if seconds:
                name = demo.PEOPLE[-1]
                say(
                    f"{name} stays connected and silent for {seconds // 60} min as a lagging member; Ctrl-C ends this."
                )
                run_async(states.stay, note, seconds, stopping=lambda: bool(stop))

    def _seed(self, options: dict[str, Any]) -> demo.Seeded:
        numbers = [options[name] for name in ("users", "rooms", "members")]
        if options["states"] and any(number is not None for number in numbers):
            raise CommandError(
                "--states uses the demo users and rooms. Do not give numbers with it.", returncode=2
            )
        if all(number is None for number in numbers):
            return demo.seed_demo(sessions=options["sessions"])
        users, rooms, members = numbers
        users = DEFAULT_USERS if users is None else users
        members = users if members is None else members
        rooms = DEFAULT_ROOMS if rooms is None else rooms
        if users < 1 or rooms < 0 or not 1 <= members <= users:
            raise CommandError(
                "Give at least 1 user, at least 0 rooms, and from 1 to --users members.", returncode=2
            )
        return demo.seed_fresh(users, rooms, members, sessions=options["sessions"])

    def _print(self, seeded: demo.Seeded) -> None:
        for person in seeded.users:
            self.stdout.write(
                "  ".join(filter(None, [f"{person.name:<16}", person.password, person.session]))
            )
        for room in seeded.rooms:
            self.stdout.write(f"{room.id:<16}  {room.name}, {len(room.members)} members")


def _stay_s(text: str) -> int:
    return 0 if text == "0" else duration_s(text)


def _json(seeded: demo.Seeded, *, sessions: bool) -> str:
    users = [
        {"id": person.id, "name": person.name, "password": person.password}
        | ({"session": person.session} if sessions else {})
        for person in seeded.users
    ]
    return msgspec.json.encode({"users": users, "rooms": seeded.rooms}).decode()
