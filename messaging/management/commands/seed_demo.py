"""`manage.py seed_demo`: people and rooms to try the chat with."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError

from messaging import demo
from messaging.bridge import run_verb
from messaging.demo import states
from messaging.errors import MessagingError
from messaging.management.arguments import Stop, duration_s, say

ROOMS, USERS = 1, 5  # of fresh ones, when only the other is asked for
STAY_S = 15 * 60


class Command(BaseCommand):
    help = (
        "Make the demo's people and rooms, with --states also a message in each state, or with numbers so many fresh ones."
        " Refuses without DJANGO_DEBUG or --force: these accounts' passwords are printed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--users", type=int, metavar="N", help=f"so many fresh people (default {USERS})")
        parser.add_argument("--rooms", type=int, metavar="N", help=f"so many fresh rooms (default {ROOMS})")
        parser.add_argument(
            "--members", type=int, metavar="N", help="how many of them are in each room (default all)"
        )
        parser.add_argument("--sessions", action="store_true", help="log everybody in and print the cookies")
        parser.add_argument(
            "--states",
            action="store_true",
            help="also one message in each state, for the staff's pages: takes about 10 s, once",
        )
        parser.add_argument(
            "--stay",
            type=_stay_s,
            metavar="15m",
            help="with --states: let one of the people be connected and silent for so long, for somebody who lags must be"
            " (default 15m where the states are made, 0 where they are there; Ctrl-C ends it)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--force", action="store_true", help="also where DJANGO_DEBUG is off")

    def handle(self, *args: Any, **options: Any) -> None:
        if not (settings.DEBUG or options["force"]):
            raise CommandError("These accounts' passwords are printed: set DJANGO_DEBUG=1 or add --force.")
        try:
            seeded = self._seed(options)
        except MessagingError as error:
            raise CommandError(error.detail) from None
        except (OperationalError, ProgrammingError) as error:
            raise CommandError(
                f"The database is not ready ({error}): run `manage.py migrate` first."
            ) from None
        if options["json"]:
            self.stdout.write(_json(seeded, sessions=options["sessions"]))
        elif options["verbosity"]:
            self._print(seeded)
        self.stdout.flush()
        if options["states"]:
            if not options["verbosity"]:  # its attempts are what is wanted, not news
                logging.getLogger("messaging").setLevel(logging.ERROR)
            self._make_states(options["stay"])

    def _make_states(self, stay_s: int | None) -> None:
        note = demo.kept_note()
        if note is None:
            raise CommandError("The demo's people are not here any more.")
        with Stop() as stop:
            try:
                made = run_verb(states.make, note, stopping=lambda: bool(stop))
            except states.Stopped:
                return
            except TimeoutError:
                raise CommandError(
                    "Something does not answer; `manage.py doctor` says what. Run it again."
                ) from None
            except MessagingError as error:
                raise CommandError(error.detail) from None
            say("A message in each state is there." if made else "A message in each state was there already.")
            seconds = stay_s if stay_s is not None else STAY_S * made
            if seconds:
                who = demo.PEOPLE[-1]
                say(
                    f"{who} is connected and silent for {seconds // 60} min, so that somebody lags; Ctrl-C ends that."
                )
                run_verb(states.stay, note, seconds, stopping=lambda: bool(stop))

    def _seed(self, options: dict[str, Any]) -> demo.Seeded:
        given = [options[name] for name in ("users", "rooms", "members")]
        if options["states"] and any(number is not None for number in given):
            raise CommandError("--states is of the demo: give no numbers with it.", returncode=2)
        if all(number is None for number in given):
            return demo.seed_demo(sessions=options["sessions"])
        users, rooms, members = given
        users = USERS if users is None else users
        members = users if members is None else members
        rooms = ROOMS if rooms is None else rooms
        if users < 1 or rooms < 0 or not 1 <= members <= users:
            raise CommandError(
                "It takes 1 user or more, 0 rooms or more, and 1 to --users members.", returncode=2
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
