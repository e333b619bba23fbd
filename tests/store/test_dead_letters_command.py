"""`manage.py dead_letters list|show|requeue|discard`: data on stdout, other messages on stderr, never a text; exit codes 0, 1 and 2."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection

from messaging.bridge import run_async
from messaging.expiry import letters, reports, requeue
from messaging.models import AuditEntry, DeadLetter, Membership, Room, epoch_ms
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.records import Missed
from tests.support.expired_records import DAY_MS, HOUR_MS, TEXT, again, expired, letter, people
from tests.support.people import person, room_of
from tests.support.sites import _database_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def room() -> Room:
    """A room of ada, bob and carol, also in the store."""

    async def make() -> Room:
        return await room_of(*[await person(name) for name in ("ada", "bob", "carol")])

    return run_async(make)


@pytest.fixture
def now_ms(room: Room) -> int:
    async def now() -> int:
        return await open_store().now_ms()

    return run_async(now)


@pytest.fixture
def kept(room: Room, now_ms: int) -> list[DeadLetter]:
    """Three letters of ada, the oldest first. Bob missed all, carol missed the last."""
    ada, bob, carol = (User.objects.get(username=name) for name in ("ada", "bob", "carol"))
    who = [(bob,), (bob,), (bob, carol)]
    return [
        letter(room, ada, *missing, seq=seq, now_ms=now_ms, expires_at=now_ms - (4 - seq) * HOUR_MS)
        for seq, missing in enumerate(who, 1)
    ]


@pytest.fixture(autouse=True)
def _no_text_is_printed(capfd: pytest.CaptureFixture[str]) -> Any:
    said: list[str] = []
    read = capfd.readouterr

    def reading() -> Any:
        found = read()
        said.extend(found)
        return found

    capfd.readouterr = reading  # type: ignore[method-assign]
    yield
    reading()
    assert TEXT not in "".join(said)


def run(*args: str) -> None:
    call_command("dead_letters", *args)


def states(kept: list[DeadLetter]) -> list[str]:
    return [again(item.pk).state for item in kept]


def name_of(one: DeadLetter) -> str:
    return f"{one.room_key}:{one.seq}"


async def _sent(room: Room) -> list[tuple[int | None, frozenset[int]]]:
    """Return the live messages of a room: (resent seq, recipients)."""
    store, key = open_store(), key_of(room).key
    found = []
    for entry in await store.client.zrange(f"{key}:live", 0, -1):
        seq = entry.split(b"|")[0].decode()
        resends = await store.client.hget(f"{key}:msg:{seq}", "resends")
        only = await store.client.hget(f"{key}:only", seq)
        found.append((int(resends), frozenset(map(int, only.split(b",")))))
    return found


def key_of_person(name: str) -> int:
    return User.objects.get(username=name).pk


class TestList:
    def test_the_newest_come_first_with_state_room_sender_and_who_missed_it(
        self, room: Room, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        run("list")
        rows = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
        assert [[*row[:4], *row[5:]] for row in rows] == [
            [f"{room.id}:3", "open", "Atlas", "ada", "2 of 3", "bob, carol"],
            [f"{room.id}:2", "open", "Atlas", "ada", "1 of 2", "bob"],
            [f"{room.id}:1", "open", "Atlas", "ada", "1 of 2", "bob"],
        ]

    def test_row_names_three_of_many_members_and_counts_the_others(
        self, room: Room, now_ms: int, capfd: Capture
    ) -> None:
        many = people(*(f"u{number}" for number in range(5)))
        letter(room, User.objects.get(username="ada"), *many, now_ms=now_ms, expires_at=now_ms)
        run("list")
        assert capfd.readouterr().out.endswith("5 of 6\tu0, u1, u2 +2\n")

    def test_options_select_rows(
        self, room: Room, kept: list[DeadLetter], now_ms: int, capfd: Capture
    ) -> None:
        letters.discard([kept[0].pk], None, now_ms)
        DeadLetter.objects.filter(pk=kept[1].pk).update(fault="DataError")

        def listed(*options: str) -> list[int]:
            run("list", "--json", *options)
            return [row["seq"] for row in json.loads(capfd.readouterr().out)["dead_letters"]]

        assert listed() == [3, 2, 1]
        assert listed("--state", "discarded") == [1]
        assert listed("--state", "open") == [3, 2]
        assert listed("--quarantined") == listed("--set-aside") == [2]
        assert listed("--older-than", "90m") == [2, 1]
        assert listed("--room", room.id, "--limit", "1") == [3]

    def test_number_of_hidden_rows_is_printed(self, kept: list[DeadLetter], capfd: Capture) -> None:
        run("list", "--limit", "2", "--json")
        out, err = capfd.readouterr()
        assert json.loads(out)["total"] == 3
        assert "Showing the newest 2 of 3" in err

    def test_empty_list_prints_a_sentence(self, room: Room, capfd: Capture) -> None:
        run("list")
        out, err = capfd.readouterr()
        assert (out, "No dead letters match" in err) == ("", True)

    def test_letter_of_an_earlier_epoch_is_named_by_its_id(
        self, room: Room, kept: list[DeadLetter], now_ms: int, capfd: Capture
    ) -> None:
        ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
        old = letter(room, ada, bob, seq=3, epoch="e0", now_ms=now_ms, expires_at=now_ms - 9 * HOUR_MS)
        run("list", "--json")
        named = {row["id"]: row["letter"] for row in json.loads(capfd.readouterr().out)["dead_letters"]}
        assert named[str(old.pk)] == str(old.pk)
        assert named[str(kept[2].pk)] == name_of(kept[2])


class TestShow:
    @pytest.mark.parametrize("by", [name_of, lambda one: str(one.pk)])
    def test_output_has_all_fields_but_the_text_and_the_end_of_its_retention(
        self, kept: list[DeadLetter], now_ms: int, by: Any, capfd: Capture
    ) -> None:
        run("show", by(kept[2]), "--json")
        shown = json.loads(capfd.readouterr().out)
        assert (shown["id"], shown["seq"], shown["sender_name"]) == (str(kept[2].pk), 3, "ada")
        assert shown["text_kept_until"] == epoch_ms(kept[2].expired_at) + 7 * DAY_MS
        assert [(one["name"], one["reason"], one["attempts"]) for one in shown["missing"]] == [
            ("bob", "offline", 0),
            ("carol", "offline", 0),
        ]
        run("show", by(kept[2]))
        out = capfd.readouterr().out
        assert f"carol\t#{key_of_person('carol')}\toffline\t0" in out

    def test_deleted_text_is_reported(self, kept: list[DeadLetter], capfd: Capture) -> None:
        DeadLetter.objects.update(body=None)
        run("show", name_of(kept[0]))
        out, err = capfd.readouterr()
        assert "text_kept_until\n" in out
        assert "cannot be sent again" in err

    def test_first_hundred_of_ten_thousand_members_are_shown_and_the_others_counted(
        self, room: Room, now_ms: int, capfd: Capture
    ) -> None:
        who = tuple(Missed(user, "offline", 0) for user in range(1_000, 11_000))
        [key] = reports.record(
            [expired(room, User.objects.get(username="ada"), who, expires_at=now_ms)], now_ms
        ).letters
        run("show", str(key))
        out, err = capfd.readouterr()
        assert out.count("\toffline\t") == 100
        assert "9900 more missed it" in err
        run("show", str(key), "--json")
        assert len(json.loads(capfd.readouterr().out)["missing"]) == 10_000


class TestRequeue:
    def test_message_is_sent_as_its_sender_to_the_members_who_missed_it(
        self, room: Room, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        run("requeue", name_of(kept[2]))
        out, err = capfd.readouterr()
        assert out == f"{name_of(kept[2])}\tdone\t\n"
        assert err == "1 sent again, 0 skipped, 0 failed.\n"
        both = frozenset({key_of_person("bob"), key_of_person("carol")})
        assert run_async(_sent, room) == [(3, both)]
        entry = AuditEntry.objects.get()
        assert (entry.verb, entry.user, entry.seq) == ("requeue", None, 3)

    def test_second_requeue_sends_nothing(self, room: Room, kept: list[DeadLetter], capfd: Capture) -> None:
        for _ in range(2):
            run("requeue", name_of(kept[0]), str(kept[0].pk))
        assert len(run_async(_sent, room)) == 1
        assert "skipped\trequeued" in capfd.readouterr().out

    def test_a_selection_takes_open_letters_the_oldest_first(
        self, room: Room, kept: list[DeadLetter], now_ms: int
    ) -> None:
        letters.discard([kept[0].pk], None, now_ms)
        run("requeue", "--room", room.id, "--limit", "1")
        assert states(kept) == ["discarded", "requeued", "open"]

    def test_older_than_skips_younger_letters(self, kept: list[DeadLetter]) -> None:
        run("requeue", "--older-than", "90m", "--yes")
        assert states(kept) == ["requeued", "requeued", "open"]

    def test_selection_skips_letters_without_text_and_prints_the_number(
        self, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        DeadLetter.objects.filter(pk=kept[0].pk).update(body=None)
        run("requeue", "--limit", "2", "--yes")
        assert states(kept) == ["open", "requeued", "requeued"]
        assert "1 more match, but cannot be sent again: their text was deleted" in capfd.readouterr().err

    def test_members_who_left_or_were_deactivated_or_deleted_are_left_out_by_name(
        self, room: Room, now_ms: int, capfd: Capture
    ) -> None:
        outside, inactive, deleted = people("outside", "inactive", "deleted")
        Membership.objects.create(room=room, user=inactive)
        User.objects.filter(pk=inactive.pk).update(is_active=False)
        ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
        outcomes_of_run = letter(room, ada, outside, inactive, deleted, bob, now_ms=now_ms, expires_at=now_ms)
        none = letter(room, ada, outside, inactive, seq=8, now_ms=now_ms, expires_at=now_ms)
        deleted.delete()

        run("requeue", name_of(outcomes_of_run), name_of(none), "--yes", "--json")

        out, err = capfd.readouterr()
        first, second = json.loads(out)["dead_letters"]
        assert (first["result"], second["result"], second["why"]) == ("done", "skipped", "nobody_left")
        assert {item["name"]: item["why"] for item in first["left_out"]} == {
            "outside": "left_room",
            "inactive": "deactivated",
            "deleted": "deleted",
        }
        assert {item["name"]: item["why"] for item in second["left_out"]} == {
            "outside": "left_room",
            "inactive": "deactivated",
        }
        assert run_async(_sent, room) == [(7, frozenset({bob.pk}))]
        assert "1 sent again, 1 skipped, 0 failed (nobody_left 1)." in err

    def test_blocked_letters_have_a_reason_and_are_no_error(
        self, room: Room, kept: list[DeadLetter], now_ms: int, capfd: Capture
    ) -> None:
        ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
        gone = run_async(room_of, ada, bob, name="Gone")
        of_gone = letter(gone, ada, bob, now_ms=now_ms, expires_at=now_ms)
        of_leaver = letter(room, bob, ada, seq=9, now_ms=now_ms, expires_at=now_ms)
        Membership.objects.filter(room=room, user=bob).delete()
        gone.delete()
        letters.discard([kept[0].pk], None, now_ms)
        DeadLetter.objects.filter(pk=kept[1].pk).update(body=None)

        run("requeue", *(name_of(item) for item in (*kept[:2], of_gone, of_leaver)), "--yes")

        out, err = capfd.readouterr()
        assert [line.split("\t")[1:] for line in out.splitlines()] == [
            ["skipped", "discarded"],
            ["skipped", "text_gone"],
            ["skipped", "room_gone"],
            ["skipped", "sender_left"],
        ]
        assert "0 sent again, 4 skipped, 0 failed" in err
        assert run_async(_sent, room) == []

    def test_a_damaged_row_fails_and_the_others_are_sent(
        self, room: Room, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        DeadLetter.objects.filter(pk=kept[0].pk).update(missing="nonsense")
        with pytest.raises(CommandError) as failed:
            run("requeue", "--limit", "9", "--yes")
        assert failed.value.returncode == 1
        assert "failed\tbad_row" in capfd.readouterr().out
        assert states(kept) == ["open", "requeued", "requeued"]

    def test_dry_run_prints_the_same_and_changes_nothing(
        self, room: Room, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        Membership.objects.get(room=room, user__username="bob").delete()
        run("requeue", "--limit", "3", "--dry-run")
        out, err = capfd.readouterr()
        assert [line.split("\t")[1:] for line in out.splitlines()] == [
            ["skipped", "nobody_left; left out: bob (left_room)"],
            ["skipped", "nobody_left; left out: bob (left_room)"],
            ["done", "left out: bob (left_room)"],
        ]
        assert err == "1 would be sent again, 2 skipped, 0 failed (nobody_left 2).\n"
        assert states(kept) == ["open"] * 3
        assert run_async(_sent, room) == []
        assert not AuditEntry.objects.exists()

    def test_requeue_stops_and_exits_with_1_while_the_store_is_down(
        self, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        ended = subprocess.run(
            [sys.executable, "manage.py", "dead_letters", "requeue", "--limit", "3", "--yes"],
            cwd=ROOT,
            env=os.environ
            | {
                "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
                "DATABASE_URL": _database_url(Path(str(connection.settings_dict["NAME"]))),
                "REDIS_URL": "unix:///nonexistent/valkey.sock",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert ended.returncode == 1
        assert ended.stdout == f"{name_of(kept[0])}\tfailed\tunavailable\n"
        assert "2 were not processed and are unchanged." in ended.stderr
        assert "Traceback" not in ended.stderr
        assert states(kept) == ["open"] * 3

    def test_ctrl_c_ends_the_command_after_the_current_letter(
        self, kept: list[DeadLetter], capfd: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sending = requeue.resend

        async def send_and_press(*args: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return await sending(*args, **options)

        monkeypatch.setattr(requeue, "resend", send_and_press)
        run("requeue", "--limit", "3", "--yes")
        assert "2 were not processed" in capfd.readouterr().err
        assert states(kept) == ["requeued", "open", "open"]

    def test_two_concurrent_requeues_send_once(self, room: Room, kept: list[DeadLetter]) -> None:
        async def both() -> list[Any]:
            keys = [item.pk for item in kept]
            return await asyncio.gather(*(requeue.requeue(keys, by=None) for _ in range(2)))

        outcomes = [outcome for outcomes_of_run in run_async(both) for outcome in outcomes_of_run]
        assert Counter(item.result for item in outcomes) == {"done": 3, "skipped": 3}
        assert len(run_async(_sent, room)) == 3
        assert AuditEntry.objects.count() == 3


class TestDiscard:
    def test_open_letters_are_discarded_and_others_skipped(
        self, kept: list[DeadLetter], capfd: Capture
    ) -> None:
        run("requeue", name_of(kept[0]))
        run("discard", *map(name_of, kept), "--yes")
        out, err = capfd.readouterr()
        assert states(kept) == ["requeued", "discarded", "discarded"]
        assert f"{name_of(kept[0])}\tskipped\trequeued\n" in out
        assert "2 discarded, 1 skipped, 0 failed (requeued 1)." in err
        assert AuditEntry.objects.filter(verb="discard", user=None).count() == 2

    def test_a_dry_run_changes_nothing(self, kept: list[DeadLetter], now_ms: int, capfd: Capture) -> None:
        letters.begin_resend(kept[1].pk, now_ms)
        run("discard", "--limit", "5", "--dry-run")
        out, err = capfd.readouterr()
        assert [line.split("\t")[1:] for line in out.splitlines()] == [
            ["done", ""],
            ["skipped", "resending"],
            ["done", ""],
        ]
        assert "2 would be discarded" in err
        assert states(kept) == ["open"] * 3


class Terminal(io.StringIO):
    """A terminal whose user types an answer."""

    def isatty(self) -> bool:
        return True


class TestQuestion:
    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    @pytest.mark.parametrize(("answer", "open_"), [("y", 0), ("n", 3), ("", 3)])
    def test_question_for_several_letters_has_their_number(
        self, kept: list[DeadLetter], verb: str, answer: str, open_: int, capfd: Capture, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
        run(verb, "--limit", "9")
        err = capfd.readouterr().err
        assert "3 dead letters" in err
        assert ("Nothing was changed." in err) is bool(open_)
        assert states(kept).count("open") == open_

    def test_question_without_a_terminal_is_a_usage_error(
        self, kept: list[DeadLetter], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO())
        with pytest.raises(CommandError) as refused:
            run("discard", "--limit", "9")
        assert refused.value.returncode == 2
        assert states(kept) == ["open"] * 3


@pytest.mark.parametrize(
    ("args", "sentence", "code"),
    [
        (["show", "nowhere:1"], "There is no dead letter nowhere:1", 1),
        (["show", "x"], "There is no dead letter x", 1),
        (["show", f"x:{10**30}"], "There is no dead letter", 1),
        (["requeue", str(uuid4())], "There is no dead letter", 1),
        (["requeue"], "Nothing is selected", 2),
        (["discard", "--yes"], "Nothing is selected", 2),
        (["requeue", "x:1", "--limit", "3"], "not both", 2),
        (["list", "--room", "nowhere"], "There is no room nowhere", 2),
        (["requeue", "--room", "nowhere", "--yes"], "There is no room nowhere", 2),
        (["list", "--older-than", "2"], "is not a duration", 1),
        (["list", "--older-than", "-1h"], "expected one argument", 1),
        (["requeue", "--older-than", "soon"], "is not a duration", 1),
        (["discard", "--limit", "0"], "not a whole number above 0", 1),
        (["list", "--state", "lost"], "invalid choice", 1),
        (["burn"], "invalid choice", 1),
    ],
)
def test_invalid_arguments_print_one_sentence(room: Room, args: list[str], sentence: str, code: int) -> None:
    """A real command exits with 2 for an error of its parser. Called from Python it is Django's own error, 1."""
    with pytest.raises(CommandError, match=sentence) as refused:
        run(*args)
    assert refused.value.returncode == code
