"""`room create|list|show|lifetime|shorten`: data on stdout, other messages on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from messaging.bridge import run_async
from messaging.models import Membership, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.log import Log
from messaging.store.records import RoomKey
from tests.support.messages import accept, message
from tests.support.people import unavailable

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]


@pytest.fixture(autouse=True)
def ada(transactional_db: None) -> User:
    return User.objects.create(username="ada")


def run(*args: str) -> tuple[str, str]:
    """Run the command; return stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command("room", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def run_json(*args: str) -> Any:
    return json.loads(run(*args, "--json")[0])


def test_create_prints_only_the_id_on_stdout() -> None:
    out, err = run("create", "Town hall", "--owner", "ada")
    assert Room.objects.get().pk == out.strip()
    assert "Town hall" in err


def test_create_accepts_all_fields_of_a_room() -> None:
    User.objects.create(username="grace")
    made = run_json(
        *("create", "Atlas", "--private", "--owner", "ada", "--member", "grace"),
        *("--topic", "launch", "--ttl", "60", "--ttl-max", "600"),
    )
    assert made | {"room": ""} == {
        "room": "",
        "name": "Atlas",
        "kind": "private",
        "topic": "launch",
        "ttl": 60,
        "ttl_max": 600,
    }
    rows = Membership.objects.filter(room=made["room"]).order_by("pk").values_list("user__username", "role")
    assert list(rows) == [("ada", "owner"), ("grace", "member")]


def test_list_has_every_room_or_one_kind_of_them() -> None:
    run("create", "Lobby")
    run("create", "Secret", "--private", "--owner", "ada")

    listed = run_json("list")["rooms"]

    assert [(room["name"], room["kind"], room["members"]) for room in listed] == [
        ("Lobby", "public", 0),
        ("Secret", "private", 1),
    ]
    assert [room["name"] for room in run_json("list", "--kind", "private")["rooms"]] == ["Secret"]


def test_list_without_a_terminal_is_plain_lines() -> None:
    room = run("create", "Lobby")[0].strip()
    assert run("list")[0] == f"{room}\tLobby\tpublic\t0\t3600\t2419200\t\n"


def test_show_has_the_members_and_the_position_in_the_store() -> None:
    room = run("create", "Lobby", "--owner", "ada")[0].strip()
    shown = run_json("show", room)
    assert shown["members"] == [{"user": User.objects.get().pk, "name": "ada", "role": "owner"}]
    assert shown["top"] == 0
    assert shown["epoch"]
    assert "ada\towner" in run("show", room)[0]


def test_show_works_while_the_store_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    room = run("create", "Lobby", "--owner", "ada")[0].strip()
    monkeypatch.setattr(Log, "positions", unavailable)

    out, err = run("show", room, "--json")

    assert json.loads(out)["top"] is None
    assert "store" in err


def test_lifetime_changes_only_the_given_fields() -> None:
    room = run("create", "Lobby", "--ttl-max", "600", "--ttl", "60")[0].strip()

    changed = run_json("lifetime", room, "--ttl", "120")

    assert (changed["ttl"], changed["ttl_max"]) == (120, 600)
    assert "120 s" in run("lifetime", room, "--ttl-max", "500")[1]
    assert Room.objects.get().ttl_max_s == 500


@pytest.fixture
def full_room(ada: User) -> str:
    """A room with one message that lives for an hour."""
    room = run("create", "Lobby", "--owner", "ada")[0].strip()
    run_async(_send, key_of(Room.objects.get()), ada.pk)
    return room


async def _send(room: RoomKey, user: int) -> None:
    await accept(open_store(), message(user=user, room=room))


def test_shorten_counts_with_dry_run_and_does_not_ask_with_yes(full_room: str) -> None:
    counted = run_json("shorten", full_room, "--ttl", "30", "--dry-run")
    assert counted == {"looked": 1, "shortened": 1, "ended": 0, "done": False}
    out, err = run("shorten", full_room, "--ttl", "30", "--yes")
    assert (out, "1 of 1 messages" in err, "Lifetimes shortened: 1." in err) == (
        "",
        True,
        True,
    )
    assert run_json("shorten", full_room, "--ttl", "30", "--yes")["shortened"] == 0


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("yes", 0), ("", 1), ("n", 1), ("yep", 1)])
def test_shorten_asks_after_the_count(
    full_room: str, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
    assert "[y/N]" in run("shorten", full_room, "--ttl", "30")[1]
    assert run_json("shorten", full_room, "--ttl", "30", "--dry-run")["shortened"] == left


class Terminal(io.StringIO):
    """A terminal whose user types an answer."""

    def isatty(self) -> bool:
        return True


def test_shorten_without_a_terminal_does_nothing(full_room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError) as refused:
        run("shorten", full_room, "--ttl", "30")
    assert refused.value.returncode == 2
    assert run_json("shorten", full_room, "--ttl", "30", "--dry-run")["shortened"] == 1


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("lifetime", "--ttl", "9"), 1),
        (("lifetime", "--ttl-max", str(28 * 86_400 + 1)), 1),
        (("lifetime",), 2),
        (("shorten", "--ttl", "9", "--dry-run"), 1),
    ],
)
def test_invalid_lifetime_prints_one_sentence(call: tuple[str, ...], code: int) -> None:
    room = run("create", "Lobby")[0].strip()
    with pytest.raises(CommandError) as refused:
        run(call[0], room, *call[1:])
    assert refused.value.returncode == code
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("show", "none"), 1),
        (("lifetime", "none", "--ttl", "60"), 1),
        (("shorten", "none", "--ttl", "60"), 1),
        (("create", " "), 1),
        (("create", "a\u202eb"), 1),
        (("create", "Atlas", "--owner", "nobody"), 1),
        (("create", "Atlas", "--ttl", "9"), 1),
        (("create", "Atlas", "--private"), 2),
    ],
)
def test_impossible_call_prints_one_sentence_and_has_an_exit_code(call: tuple[str, ...], code: int) -> None:
    with pytest.raises(CommandError) as refused:
        run(*call)
    assert refused.value.returncode == code
    assert "\n" not in str(refused.value)
    assert not Room.objects.exists()
