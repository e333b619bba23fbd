"""`manage.py process_expired`, and the other work of the job: interrupted resends, retention of texts and records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid5

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection

from messaging import checkpoints
from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.expiry import job as expiry
from messaging.expiry import letters, resend, retention
from messaging.models import AuditEntry, DeadLetter, Notice, Room, moment
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from messaging.store.records import Append
from tests.support.expired_records import DAY_MS, TEXT, again, letter, with_policy
from tests.support.messages import HOUR_MS, dump
from tests.support.overdue_rooms import expired_room, let_expire
from tests.support.people import person, room_of
from tests.support.sites import _database_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_url")]

ROOT = Path(__file__).parents[2]
NOWHERE = {"REDIS_URL": "unix:///nonexistent/valkey.sock", "DATABASE_URL": "sqlite:////nonexistent/db"}


@pytest.fixture
def room() -> Room:
    """A room of ada, bob and carol, in which two of ada's messages have expired."""

    async def make() -> Room:
        names = ("ada", "bob", "carol")
        return await expired_room(*[await person(name) for name in names], count=2)

    return run_async(make)


@pytest.fixture
def ada(room: Room) -> User:
    return User.objects.get(username="ada")


def run(*args: str) -> None:
    call_command("process_expired", *args)


def environment(**changed: str) -> dict[str, str]:
    database = _database_url(Path(str(connection.settings_dict["NAME"])))
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
        "DATABASE_URL": database,
        **changed,
    }


def command(*args: str, **changed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", *args],
        cwd=ROOT,
        env=environment(**changed),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestDryRun:
    def test_output_has_room_seq_sender_and_reasons_without_a_text(
        self, room: Room, ada: User, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("--dry-run", "--json")
        rows = json.loads(capsys.readouterr().out)
        assert [{**row, "expired_at": 0} for row in rows] == [
            {
                "room": room.id,
                "name": "Atlas",
                "seq": seq,
                "sender": ada.pk,
                "sender_name": "ada",
                "live": True,
                "expired_at": 0,
                "total": 2,
                "missed": 2,
                "reasons": {"offline": 2},
            }
            for seq in (1, 2)
        ]
        run("--dry-run", "--limit", "1")
        out, err = capsys.readouterr()
        assert out == f"{room.id}\tAtlas\t1\tada\t2 of 2\toffline 2\n"
        assert "more are due" in err
        assert "hello" not in out + err

    def test_store_and_database_are_unchanged(self, room: Room) -> None:
        before = run_async(_dump)
        run("--dry-run")
        assert run_async(_dump) == before
        assert not DeadLetter.objects.exists()
        assert not Notice.objects.exists()

    def test_message_is_printed_when_nothing_is_due(self, capsys: pytest.CaptureFixture[str]) -> None:
        run("--dry-run")
        out, err = capsys.readouterr()
        assert (out, "Nothing is due" in err) == ("", True)

    def test_missing_sender_name_is_looked_up(
        self, room: Room, ada: User, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_async(_vanish, room, 1)
        run("--dry-run", "--json")
        assert json.loads(capsys.readouterr().out)[0]["sender_name"] == "ada"


class TestOnce:
    def test_run_reports_messages_and_prints_the_counts(
        self, room: Room, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("--once")
        out, err = capsys.readouterr()
        assert out == "2 expired, 2 of them missed, 0 quarantined, 0 left\n"
        assert "still due" not in err
        assert DeadLetter.objects.count() == Notice.objects.count() == 2
        run("--once", "--json")
        done = json.loads(capsys.readouterr().out)
        assert done | {"took_s": 0} == {"expired": 0, "missed": 0, "set_aside": 0, "left": 0, "took_s": 0}

    def test_limit_leaves_the_rest_due_and_prints_the_number(
        self, room: Room, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("--once", "--limit", "1")
        out, err = capsys.readouterr()
        assert out.startswith("1 expired")
        assert "1 are still due, the oldest for 1 min" in err

    def test_other_rooms_are_unchanged_with_room_option(self, room: Room, ada: User) -> None:
        other = run_async(expired_room, ada, User.objects.get(username="bob"), name="Borealis")
        run("--once", "--room", other.id)
        assert DeadLetter.objects.get().room == other

    def test_unreportable_message_stays_due_and_is_counted(
        self, room: Room, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_async(_spoil, room)
        run("--once")
        out, _ = capsys.readouterr()
        assert out == "2 expired, 2 of them missed, 1 quarantined, 0 left\n"
        assert DeadLetter.objects.exclude(fault="").get().body is None

    @pytest.mark.parametrize(
        "wrong", [["--limit", "0"], ["--limit", "x"], ["--room", "nowhere"], ["--older-than", "2h"]]
    )
    def test_invalid_arguments_are_a_usage_error(self, wrong: list[str]) -> None:
        with pytest.raises(CommandError):
            run("--once", *wrong)

    @pytest.mark.parametrize(("away", "says"), [("REDIS_URL", "The store"), ("DATABASE_URL", "The database")])
    def test_missing_store_or_database_exits_with_1_and_a_sentence(
        self, room: Room, away: str, says: str
    ) -> None:
        ended = command("process_expired", "--once", **{away: NOWHERE[away]})
        out, err = ended.communicate(timeout=30)
        assert (ended.returncode, out) == (1, "")
        assert f"{says} does not answer" in err
        assert "Nothing is lost" in err
        assert "Traceback" not in err


class TestEveryMinute:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_ends_the_command_with_0(self, room: Room, number: signal.Signals) -> None:
        running = command("process_expired", "--json")
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["expired"] == 2
        running.send_signal(number)
        _, err = running.communicate(timeout=10)
        assert running.returncode == 0, err
        assert "until Ctrl-C" in err

    def test_running_batch_is_finished_and_no_other_begun(
        self, room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with_policy(monkeypatch, claim_max=1)
        monkeypatch.setattr(
            checkpoints, "reach", lambda name: name == "expiry.read" and os.kill(os.getpid(), signal.SIGTERM)
        )
        run("--once")
        out, err = capsys.readouterr()
        assert out.startswith("1 expired")
        assert "1 are still due" in err


# Deleted rooms and users


def test_letter_of_a_deleted_room_has_its_id(room: Room, ada: User) -> None:
    key = room.id
    Room.objects.get().delete()
    run("--once")
    rows = DeadLetter.objects.values_list("room", "room_key", "sender", "missing_total")
    assert list(rows) == [(None, key, ada.pk, 2)] * 2
    assert Notice.objects.filter(user=ada).count() == 2


def test_deleted_sender_has_a_letter_and_other_senders_get_their_notices(room: Room, ada: User) -> None:
    bob = User.objects.get(username="bob")
    run_async(let_expire, room, bob)
    ada.delete()
    run("--once")
    found = DeadLetter.objects.order_by("seq").values_list("sender", "sender_key", "sender_name")
    assert list(found[:2]) == [(None, found[0][1], "ada")] * 2
    assert Notice.objects.get().user == bob


def test_a_deleted_user_who_missed_it_is_still_named(room: Room) -> None:
    bob = User.objects.get(username="bob")
    key = bob.pk
    bob.delete()
    run("--once")
    named = {item["user"]: item["name"] for item in Notice.objects.all()[0].data["missing"]}
    assert named[key] == "bob"


# Retention


def old_letters(room: Room, ada: User, count: int) -> int:
    """Make dead letters whose texts have reached the end of their retention; return the present time."""
    now_ms = run_async(_now_ms)
    for number in range(count):
        at = now_ms - 8 * DAY_MS
        letter(room, ada, User.objects.get(username="bob"), seq=100 + number, now_ms=at, expires_at=at)
    assert DeadLetter.objects.exclude(body=None).count() == count
    return now_ms


def test_texts_and_records_are_deleted_in_batches_until_none_is_left(
    room: Room, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROW_BATCH", 2)
    old_letters(room, ada, 5)
    AuditEntry.objects.bulk_create(AuditEntry(at=moment(0), verb="edit") for _ in range(5))
    run_async(expiry.process, expiry.ExpiryOptions())
    assert not DeadLetter.objects.filter(seq__gte=100).exclude(body=None).exists()
    assert not AuditEntry.objects.exists()


def test_stopping_run_does_one_batch_of_each_kind(
    room: Room, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROW_BATCH", 2)
    old_letters(room, ada, 5)
    AuditEntry.objects.bulk_create(AuditEntry(at=moment(0), verb="edit") for _ in range(5))
    run_async(expiry.process, expiry.ExpiryOptions(), stopping=lambda: True)
    assert DeadLetter.objects.exclude(body=None).count() == 3
    assert AuditEntry.objects.count() == 3


def test_deadline_of_the_job_applies_to_retention(
    room: Room, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROW_BATCH", 2)
    with_policy(monkeypatch, job_deadline_s=1e-9)
    old_letters(room, ada, 5)
    run_async(expiry.process, expiry.ExpiryOptions())
    assert DeadLetter.objects.exclude(body=None).count() == 3


# Interrupted resends


@pytest.fixture
def cut_off() -> list[DeadLetter]:
    """Three letters of a room whose resend began two minutes ago without an answer, in this order."""

    async def make() -> Room:
        return await room_of(await person("ada"), await person("bob"), await person("carol"))

    atlas = run_async(make)
    ada, bob = User.objects.get(username="ada"), User.objects.get(username="bob")
    now_ms = run_async(_now_ms)
    kept = [letter(atlas, ada, bob, seq=seq, now_ms=now_ms, expires_at=now_ms) for seq in (1, 2, 3)]
    for number, item in enumerate(kept):
        letters.begin_resend(item.pk, now_ms - 120_000 + number)
    return kept


def begun(kept: list[DeadLetter]) -> list[tuple[str, bool]]:
    rows = [again(item.pk) for item in kept]
    return [(row.state, row.resend_started_at is not None) for row in rows]


def test_refused_resend_is_abandoned_and_the_next_ones_are_finished(
    cut_off: list[DeadLetter], caplog: pytest.LogCaptureFixture
) -> None:
    run_async(_use_id, cut_off[0])  # with another text, so that the store refuses it
    DeadLetter.objects.filter(pk=cut_off[1].pk).update(missing="nonsense")
    assert run_async(resend.finish_unfinished) == 1
    assert begun(cut_off) == [("open", False), ("open", False), ("requeued", True)]
    reasons = [record.reason for record in caplog.records if "abandoned" in record.getMessage()]  # type: ignore[attr-defined]
    assert reasons == ["IdReused", "ValueError"]
    assert TEXT not in caplog.text


def test_resend_waits_while_the_store_is_full(cut_off: list[DeadLetter]) -> None:
    with store_client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert run_async(resend.finish_unfinished) == 0
        finally:
            client.config_set("maxmemory", 0)
    assert begun(cut_off) == [("open", True)] * 3
    assert run_async(resend.finish_unfinished) == 3


def test_job_ends_while_the_store_is_down(cut_off: list[DeadLetter], monkeypatch: pytest.MonkeyPatch) -> None:
    with_policy(monkeypatch, verb_deadline_s=0.2)
    with store_client() as client:
        client.execute_command("CLIENT", "PAUSE", 20_000, "WRITE")
        try:
            with pytest.raises(Unavailable):
                run_async(resend.finish_unfinished)
        finally:
            client.execute_command("CLIENT", "UNPAUSE")
    assert begun(cut_off) == [("open", True)] * 3


def store_client() -> redis.Redis:
    return redis.Redis.from_url(settings.STORE_URL)


async def _dump() -> dict[str, bytes]:
    return await dump(open_store())


async def _now_ms() -> int:
    return await open_store().now_ms()


async def _vanish(room: Room, seq: int) -> None:
    await open_store().client.delete(f"{key_of(room).key}:msg:{seq}")


async def _spoil(room: Room) -> None:
    """Write a value that no table accepts into a message."""
    await open_store().client.hset(f"{key_of(room).key}:msg:1", "reply_to", 10**30)


async def _use_id(kept: DeadLetter) -> None:
    """Use the id of a resend for another text."""
    room = await Room.objects.aget(pk=kept.room_id)
    id_ = str(uuid5(kept.pk, "resend"))
    await open_store().log.append(
        [Append(room=key_of(room), user=kept.sender_key, name="ada", id=id_, body="other", ttl_ms=HOUR_MS)]
    )
