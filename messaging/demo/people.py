"""People and rooms to try the chat with: the demo of the first run, and any number of new ones for tests and benchmarks.

All people of one run have the same password, hashed once. The store is not used: the first `hello` in a room creates its log with
the members in the database. A thousand people and their rooms take seconds, even next to a running server.

The demo is created once. Its logins, random for each installation, are in `DATA_DIR/demo.json`, readable only by its owner:
`{"users": [{"id", "name", "password"}], "staff": {"name", "password"}, "rooms": [room id], "states": room id, "states_done"}`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import msgspec
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import get_random_string

from messaging.errors import Conflict
from messaging.models import Membership, Room, partition_of
from messaging.rooms import memberships

STAFF = "staff"
PEOPLE = ("ada", "grace", "bob", "carol", "小林")
_READABLE = "abcdefghijkmnpqrstuvwxyz23456789"  # without characters that look alike
_SESSION_KEY_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"  # the same as Django
BATCH = 500

Role = Membership.Role


class Person(msgspec.Struct, frozen=True):
    """A person with a valid login. `session`: a ready Cookie header, if requested."""

    id: int
    name: str
    password: str
    session: str = ""


class LogIn(msgspec.Struct, frozen=True):
    name: str
    password: str


class SeededRoom(msgspec.Struct, frozen=True):
    """A room and its members' ids."""

    id: str
    name: str
    members: list[int]


class Seeded(msgspec.Struct, frozen=True):
    """The people and rooms of one run."""

    users: list[Person]
    rooms: list[SeededRoom]


class Note(msgspec.Struct, frozen=True):
    """The content of the file of the demo."""

    users: list[Person]
    staff: LogIn
    rooms: list[str] = []
    states: str = ""  # the room with one message in each state
    states_done: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _RoomPlan:
    """A room of the demo. `members`: indexes of PEOPLE, the owner first."""

    name: str
    kind: str
    members: Sequence[int]
    topic: str = ""
    ttl_s: int = 3_600


_ROOMS = (
    _RoomPlan("Lobby", Room.Kind.PUBLIC, (0, 1, 2, 3, 4), "Everybody is here"),
    _RoomPlan("Atlas launch", Room.Kind.PRIVATE, (1, 0, 2, 4), "What is left until Friday", 8 * 3_600),
    _RoomPlan("读书会", Room.Kind.PUBLIC, (4, 3), "这个月读什么", 86_400),
    _RoomPlan("Lunch", Room.Kind.PUBLIC, (3, 2), "Who comes along?", 1_800),
)


def note_path() -> Path:
    """Return the path of the file of the demo."""
    return Path(settings.DATA_DIR) / "demo.json"


def seed_first_run() -> Note | None:
    """Create the demo in a database without users. Return its logins on every run; None without a demo. Idempotent."""
    kept = kept_note()
    if kept is None and not get_user_model().objects.exists():
        return _make()
    return kept


def close() -> int:
    """Deactivate the users of the demo who still have its passwords, and delete the kept logins. Return the number of users."""
    note = kept_note()
    if note is None:
        return 0
    closed = 0
    passwords = {person.name: person.password for person in note.users} | {
        note.staff.name: note.staff.password
    }
    for user in get_user_model().objects.filter(username__in=passwords, is_active=True):
        if user.check_password(passwords[user.get_username()]):
            user.is_active = False
            user.save(update_fields=["is_active"])
            closed += 1
    note_path().unlink(missing_ok=True)
    return closed


def seed_demo(*, sessions: bool = False) -> Seeded:
    """Return the demo, created if it is missing. Raises Conflict when other users have its names."""
    note = _note()
    users = {
        user.pk: user for user in get_user_model().objects.filter(pk__in=[person.id for person in note.users])
    }
    keys = _sessions([users[person.id] for person in note.users]) if sessions else {}
    people = [msgspec.structs.replace(person, session=keys.get(person.id, "")) for person in note.users]
    rooms = [_seeded_room(room) for room in Room.objects.filter(pk__in=note.rooms)]
    return Seeded(people, rooms)


def seed_fresh(users: int, rooms: int, members: int, *, sessions: bool = False) -> Seeded:
    """Add new people and public rooms. The first `members` of the people are in every room."""
    password = _password()
    run = get_random_string(5, _READABLE)
    with transaction.atomic():
        people = _insert_people([f"{run}-{number}" for number in range(1, users + 1)], password)
        created = [Room(name=f"Room {run}-{number}") for number in range(1, rooms + 1)]
        _insert_rooms([(room, people[:members]) for room in created])
        keys = _sessions(people) if sessions else {}
    ids = [person.pk for person in people]
    return Seeded(
        [Person(person.pk, person.get_username(), password, keys.get(person.pk, "")) for person in people],
        [SeededRoom(room.id, room.name, ids[:members]) for room in created],
    )


# ── The demo ──


def _note() -> Note:
    return kept_note() or _make()


def kept_note() -> Note | None:
    """Return the kept logins of people who still exist; None if nobody does, for example in a new database."""
    try:
        note = msgspec.json.decode(note_path().read_bytes(), type=Note)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    ids = [person.id for person in note.users]
    existing = set(get_user_model().objects.filter(pk__in=ids).values_list("pk", "username"))
    people = [person for person in note.users if (person.id, person.name) in existing]
    return msgspec.structs.replace(note, users=people) if people else None


def note_states(room: str, *, done: bool) -> None:
    """Record the room with one message in each state, and whether all messages exist."""
    note = kept_note()
    if note is not None:
        _keep(msgspec.structs.replace(note, states=room, states_done=done))


def log_in(users: Sequence[int]) -> dict[int, str]:
    """Log people in without a browser; return {user id: Cookie header}."""
    return _sessions(get_user_model().objects.filter(pk__in=users))


def _make() -> Note:
    taken = get_user_model().objects.filter(username__in=[*PEOPLE, STAFF]).values_list("username", flat=True)
    if taken:
        raise Conflict(
            f"The demo needs user names that already exist: {', '.join(taken)}. Use --users N instead."
        )
    password = _password()
    staff = LogIn(STAFF, _password())
    with transaction.atomic():
        people = _insert_people(PEOPLE, password)
        get_user_model().objects.create_superuser(STAFF, password=staff.password)
        rooms = [
            (
                Room(name=room.name, kind=room.kind, topic=room.topic, ttl_s=room.ttl_s),
                [people[i] for i in room.members],
            )
            for room in _ROOMS
        ]
        _insert_rooms(rooms)
        direct, _ = memberships.insert_direct(people[0].pk, PEOPLE[1])
        note = Note(
            [Person(person.pk, person.get_username(), password) for person in people],
            staff,
            [*(room.id for room, _ in rooms), direct.id],
        )
        _keep(note)  # before the commit: a demo with unknown passwords is useless
    return note


def _keep(note: Note) -> None:
    path = note_path()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(msgspec.json.encode(note))
    draft.replace(path)


def _seeded_room(room: Room) -> SeededRoom:
    present = Membership.objects.filter(room=room, leaving_at=None).order_by("user_id")
    return SeededRoom(room.id, room.name, list(present.values_list("user_id", flat=True)))


# ── Rows ──


def _insert_people(names: Sequence[str], password: str) -> list[User]:
    hashed = make_password(password)
    model = get_user_model()
    return model.objects.bulk_create(
        [model(username=name, password=hashed) for name in names], batch_size=BATCH
    )


def _insert_rooms(rooms: Sequence[tuple[Room, Sequence[User]]]) -> None:
    for room, _ in rooms:
        room.partition = partition_of(room.id)  # bulk_create does not call save()
    Room.objects.bulk_create([room for room, _ in rooms], batch_size=BATCH)
    rows = (
        Membership(room=room, user=user, role=Role.MEMBER if index else Role.OWNER)
        for room, members in rooms
        for index, user in enumerate(members)
    )
    Membership.objects.bulk_create(rows, batch_size=BATCH)


def _sessions(users: Iterable[User]) -> dict[int, str]:
    """Log people in without a browser; return {user id: Cookie header}."""
    store = import_module(settings.SESSION_ENGINE).SessionStore()
    ends_at = timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE)
    rows, headers = [], {}
    for user in users:
        key = get_random_string(32, _SESSION_KEY_CHARACTERS)
        data = {
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
        rows.append(Session(session_key=key, session_data=store.encode(data), expire_date=ends_at))
        headers[user.pk] = f"{settings.SESSION_COOKIE_NAME}={key}"
    Session.objects.bulk_create(rows, batch_size=BATCH)
    return headers


def _password() -> str:
    """Return three groups of four characters: 60 bits, and short enough to type."""
    return "-".join(get_random_string(4, _READABLE) for _ in range(3))
