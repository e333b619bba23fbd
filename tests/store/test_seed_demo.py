"""`seed_demo`: the demo is created once, new people in any number, and their logins work."""

from __future__ import annotations

import io
import json
import stat
import time
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from chatsite import environment
from chatsite.run import startup
from messaging.bridge import run_async
from messaging.demo import people as demo
from messaging.models import Membership, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.records import RoomKey

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    with override_settings(DATA_DIR=tmp_path):
        yield tmp_path


def test_demo_is_closed_on_a_public_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = demo.seed_first_run()
    assert note is not None
    kept = User.objects.get(username=note.users[0].name)
    kept.set_password("a password that was never printed")
    kept.save()
    said: list[str] = []
    public = environment.Site(("https://chat.example.org",), ("chat.example.org",), True)
    with monkeypatch.context() as site:
        site.setattr(environment, "site", lambda: public)
        supervisor = SimpleNamespace(say=said.append)
        assert startup._demo(supervisor) == (None, False)  # type: ignore[arg-type]
        assert startup._demo(supervisor) == (None, False)  # type: ignore[arg-type]
    assert len(said) == 1
    assert str(len(note.users)) in said[0]
    assert list(User.objects.filter(is_active=True)) == [kept]
    assert authenticate(username=note.staff.name, password=note.staff.password) is None
    assert not demo.note_path().exists()


def seed(**options: Any) -> dict[str, Any]:
    written = io.StringIO()
    call_command("seed_demo", json=True, stdout=written, **options)
    return json.loads(written.getvalue())  # type: ignore[no-any-return]


def test_command_is_refused_without_debug_or_force() -> None:
    with pytest.raises(CommandError) as refused:
        call_command("seed_demo")
    assert refused.value.returncode == 1
    assert not User.objects.exists()


def test_debug_is_enough() -> None:
    with override_settings(DEBUG=True):
        assert seed()["users"]


def test_the_json_has_exactly_the_promised_shape() -> None:
    seeded = seed(force=True, users=3, rooms=2, members=2, sessions=True)

    assert set(seeded) == {"users", "rooms"}
    assert [set(user) for user in seeded["users"]] == [{"id", "name", "password", "session"}] * 3
    assert [set(room) for room in seeded["rooms"]] == [{"id", "name", "members"}] * 2
    first_two = [user["id"] for user in seeded["users"][:2]]
    assert [room["members"] for room in seeded["rooms"]] == [first_two] * 2


def test_the_ids_are_those_of_the_database() -> None:
    seeded = seed(force=True, users=2, rooms=1)

    for user in seeded["users"]:
        assert User.objects.get(pk=user["id"]).get_username() == user["name"]
    [room] = seeded["rooms"]
    rows = Membership.objects.filter(room=room["id"], leaving_at=None).order_by("user_id")
    assert list(rows.values_list("user_id", "role")) == [
        (seeded["users"][0]["id"], "owner"),
        (seeded["users"][1]["id"], "member"),
    ]


def test_force_adds_the_given_number_in_every_call() -> None:
    first = seed(force=True, users=2, rooms=3)
    second = seed(force=True, users=2, rooms=3)

    assert User.objects.count() == 4
    assert Room.objects.count() == 6
    assert not {user["name"] for user in first["users"]} & {user["name"] for user in second["users"]}


def test_a_session_is_a_ready_cookie_header() -> None:
    [user] = seed(force=True, users=1, rooms=0, sessions=True)["users"]
    client = Client()
    client.cookies = SimpleCookie(user["session"])
    assert client.get("/ws/chat/check/").status_code == 204


def test_the_password_logs_in() -> None:
    [user] = seed(force=True, users=1, rooms=0)["users"]
    assert authenticate(username=user["name"], password=user["password"]) is not None


def test_the_store_learns_of_a_room_at_its_first_use() -> None:
    [room] = seed(force=True, users=2, rooms=1)["rooms"]
    row = Room.objects.get(pk=room["id"])
    assert row.partition == Room(id=row.pk).partition or row.partition < 64

    assert run_async(_members, key_of(row)) == sorted(room["members"])


async def _members(room: RoomKey) -> list[int]:
    store = open_store()
    await store.members.create_log(room)
    return sorted(int(user) for user in await store.client.zrange(f"{room.key}:joined", 0, -1))


@override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"])
def test_200_people_with_sessions_take_under_ten_seconds_because_one_password_is_hashed() -> None:
    began_s = time.monotonic()
    seeded = seed(force=True, users=200, rooms=2, sessions=True)
    assert time.monotonic() - began_s < 10
    assert len({user["password"] for user in seeded["users"]}) == 1
    assert len({user["session"] for user in seeded["users"]}) == 200


@pytest.mark.parametrize(
    "numbers", [{"users": 0}, {"users": 2, "members": 3}, {"users": 2, "members": 0}, {"rooms": -1}]
)
def test_invalid_numbers_are_a_usage_error(numbers: dict[str, int]) -> None:
    with pytest.raises(CommandError) as refused:
        seed(force=True, **numbers)
    assert refused.value.returncode == 2
    assert not User.objects.exists()


# ── The demo ──


def test_demo_is_created_once_and_its_logins_stay_the_same(folder: Path) -> None:
    first = seed(force=True)
    second = seed(force=True)

    assert first == second
    assert [user["name"] for user in first["users"]] == list(demo.PEOPLE)
    assert {room.kind for room in Room.objects.all()} == {"public", "private", "direct"}
    assert authenticate(username="ada", password=first["users"][0]["password"]) is not None


def test_only_the_owner_of_the_folder_reads_the_logins(folder: Path) -> None:
    seed(force=True)
    assert stat.S_IMODE((folder / "demo.json").stat().st_mode) == 0o600
    assert list(folder.iterdir()) == [folder / "demo.json"]


def test_first_run_creates_people_and_a_staff_login_and_later_runs_print_the_same() -> None:
    first = demo.seed_first_run()

    assert first is not None
    staff = authenticate(username=first.staff.name, password=first.staff.password)
    assert staff is not None
    assert staff.is_superuser
    assert demo.seed_first_run() == first


def test_database_with_people_gets_no_demo() -> None:
    User.objects.create(username="grace")
    assert demo.seed_first_run() is None
    assert User.objects.count() == 1


def test_demo_does_not_take_an_existing_name() -> None:
    User.objects.create(username="ada")
    with pytest.raises(CommandError, match="ada"):
        seed(force=True)
    assert User.objects.count() == 1


def test_new_database_gets_a_new_demo_despite_an_old_note(folder: Path) -> None:
    seed(force=True)
    kept = (folder / "demo.json").read_bytes()
    User.objects.all().delete()
    (folder / "demo.json").write_bytes(kept)

    again = seed(force=True)

    assert [user["name"] for user in again["users"]] == list(demo.PEOPLE)
    assert {user["id"] for user in again["users"]} == set(
        User.objects.filter(is_staff=False).values_list("pk", flat=True)
    )


def test_unreadable_note_is_no_demo(folder: Path) -> None:
    (folder / "demo.json").write_text("{")
    assert demo.seed_first_run() is not None


def test_room_shows_its_present_members() -> None:
    seeded = seed(force=True)
    lobby = next(room for room in seeded["rooms"] if room["name"] == "Lobby")
    Membership.objects.filter(room=lobby["id"], user_id=lobby["members"][-1]).delete()

    again = next(room for room in seed(force=True)["rooms"] if room["name"] == "Lobby")

    assert again["members"] == lobby["members"][:-1]


def test_every_login_is_a_line_without_json() -> None:
    written = io.StringIO()
    call_command("seed_demo", force=True, users=2, rooms=1, stdout=written)
    lines = written.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("2 members")
