"""`manage.py room create|list|show|lifetime|shorten`: rooms from the command line. Data on stdout, other messages on stderr."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db.models import Count, Q
from django.db.models.functions import Lower
from rich.console import Console
from rich.table import Table

from messaging import rooms
from messaging.bridge import run_async
from messaging.errors import MessagingError, Unavailable
from messaging.management.arguments import agreed, database_away
from messaging.models import Membership, Room
from messaging.rooms import memberships
from messaging.store import open_store
from messaging.store.records import Position

Fields = dict[str, Any]


class Command(BaseCommand):
    help = "Create, list and show rooms; change the lifetime of their messages."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="create|list|show|lifetime|shorten")
        create = verbs.add_parser("create", help="create a room and print its id")
        create.add_argument("name")
        create.add_argument("--private", action="store_true", help="only added members can enter")
        create.add_argument("--owner", metavar="NAME", help="username of the owner")
        create.add_argument(
            "--member",
            metavar="NAME",
            action="append",
            default=[],
            help="username of a member; can be repeated",
        )
        create.add_argument("--topic", default="")
        create.add_argument("--ttl", type=int, metavar="S", help="lifetime of its messages in seconds")
        create.add_argument(
            "--ttl-max", type=int, metavar="S", help="longest lifetime of a message in seconds"
        )
        lister = verbs.add_parser("list", help="list rooms by name")
        lister.add_argument("--kind", choices=Room.Kind.values)
        show = verbs.add_parser(
            "show", help="show a room, its members, and the epoch and newest seq of its log"
        )
        show.add_argument("room", help="the room's id")
        lifetime = verbs.add_parser("lifetime", help="change the lifetime of new messages")
        lifetime.add_argument("room", help="the room's id")
        lifetime.add_argument("--ttl", type=int, metavar="S", help="lifetime of new messages in seconds")
        lifetime.add_argument(
            "--ttl-max", type=int, metavar="S", help="longest lifetime of a message in seconds"
        )
        shorten = verbs.add_parser("shorten", help="let existing messages expire sooner")
        shorten.add_argument("room", help="the room's id")
        shorten.add_argument(
            "--ttl",
            type=int,
            metavar="S",
            required=True,
            help="longest lifetime of the existing messages in seconds",
        )
        shorten.add_argument("--dry-run", action="store_true", help="count the messages; change nothing")
        shorten.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        for verb in (create, lister, show, lifetime, shorten):
            verb.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        verbs = {
            "create": self._create,
            "list": self._list,
            "show": self._show,
            "lifetime": self._lifetime,
            "shorten": self._shorten,
        }
        try:
            verbs[options["verb"]](options)
        except MessagingError as error:
            raise CommandError(error.detail) from None
        except DatabaseError as error:
            raise CommandError(f"{database_away(error)} `manage.py doctor` shows the cause.") from None

    def _create(self, options: Fields) -> None:
        if options["private"] and not (options["owner"] or options["member"]):
            raise CommandError("A private room needs an --owner or a --member.", returncode=2)
        room = run_async(
            rooms.create_room,
            memberships.person(options["owner"]).pk if options["owner"] else None,
            options["name"],
            kind=Room.Kind.PRIVATE if options["private"] else Room.Kind.PUBLIC,
            topic=options["topic"],
            ttl_s=options["ttl"],
            ttl_max_s=options["ttl_max"],
            members=options["member"],
        )
        if options["json"]:
            self._write_json(_room_fields(room))
        else:
            self.stderr.write(f"Created the {room.kind} room {room.name}.")
            self.stdout.write(room.id)

    def _list(self, options: Fields) -> None:
        queryset = Room.objects.annotate(members=Count("memberships", filter=Q(memberships__leaving_at=None)))
        queryset = queryset.order_by(Lower("name"), "pk")  # the grouping drops the order of the model
        if options["kind"]:
            queryset = queryset.filter(kind=options["kind"])
        rows = [_room_fields(room) | {"members": room.members} for room in queryset]
        if options["json"]:
            self._write_json({"rooms": rows})
        else:
            self._write_table(rows, ("room", "name", "kind", "members", "ttl", "ttl_max", "topic"))

    def _show(self, options: Fields) -> None:
        room = _room(options["room"])
        fields = _room_fields(room) | self._position(room)
        members = _members(room)
        if options["json"]:
            self._write_json(fields | {"members": members})
            return
        for name, value in fields.items():
            self.stdout.write(f"{name:<10}{'' if value is None else value}".rstrip())
        self._write_table(members, ("user", "name", "role"))

    def _lifetime(self, options: Fields) -> None:
        if options["ttl"] is None and options["ttl_max"] is None:
            raise CommandError("Give --ttl, --ttl-max or both.", returncode=2)
        before = _room(options["room"])
        change = memberships.Change(ttl_s=options["ttl"], ttl_max_s=options["ttl_max"])
        room = run_async(rooms.change_room, None, before.id, change)
        if options["json"]:
            self._write_json(_room_fields(room))
        else:
            self.stderr.write(
                f"New messages in {room.name} live for {room.ttl_s} s. The longest lifetime is {room.ttl_max_s} s."
            )

    def _shorten(self, options: Fields) -> None:
        room = _room(options["room"])
        result = run_async(rooms.shorten, None, room.id, options["ttl"], dry_run=True)
        self.stderr.write(
            f"{result.shortened} of {result.looked} messages in {room.name} would expire sooner, {result.ended} of them immediately."
        )
        confirmed = bool(
            result.shortened
            and not options["dry_run"]
            and (options["yes"] or agreed(self.stderr, "Shorten their lifetimes? This cannot be undone."))
        )
        if confirmed:
            result = run_async(rooms.shorten, None, room.id, options["ttl"], dry_run=False)
            self.stderr.write(f"Lifetimes shortened: {result.shortened}.")
        if options["json"]:
            self._write_json(dataclasses.asdict(result) | {"done": confirmed})

    def _position(self, room: Room) -> Fields:
        """Return epoch and top of a room; None for both without a log, or while the store is down."""
        try:
            [position] = run_async(_positions, room)
        except Unavailable as error:
            self.stderr.write(error.detail)
            position = None
        return {"epoch": position and position.epoch, "top": position and position.top}

    def _write_json(self, data: Fields) -> None:
        self.stdout.write(json.dumps(data, ensure_ascii=False, indent=2))

    def _write_table(self, rows: Sequence[Fields], columns: Sequence[str]) -> None:
        cells = [[str(row[column]) for column in columns] for row in rows]
        if not self.stdout.isatty():
            for row in cells:
                self.stdout.write("\t".join(row))
            return
        table = Table(*columns)
        for row in cells:
            table.add_row(*row)
        Console(markup=False).print(table)


def _room(id_: str) -> Room:
    room = Room.objects.filter(pk=id_).first()
    if room is None:
        raise CommandError(f"There is no room {id_}. To see all, run `manage.py room list`.")
    return room


async def _positions(room: Room) -> list[Position | None]:
    return await open_store().log.positions([memberships.key_of(room)])


def _room_fields(room: Room) -> Fields:
    return {
        "room": room.id,
        "name": room.name,
        "kind": room.kind,
        "topic": room.topic,
        "ttl": room.ttl_s,
        "ttl_max": room.ttl_max_s,
    }


def _members(room: Room) -> list[Fields]:
    name = f"user__{get_user_model().USERNAME_FIELD}"
    rows = Membership.objects.filter(room=room, leaving_at=None).order_by("user_id")
    return [
        {"user": user, "name": user_name, "role": role}
        for user, user_name, role in rows.values_list("user_id", name, "role")
    ]
