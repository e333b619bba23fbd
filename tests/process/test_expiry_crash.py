"""The result of the expiry job is the same after kill -9 at every checkpoint, with an invalid row, a database down, a second worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Count

from messaging.bridge import run_async
from messaging.expiry.notices import MAX_WAITING
from messaging.models import DeadLetter, Membership, MissedRecipient, Notice, Room
from messaging.store import open_store
from messaging.store.records import RoomKey
from tests.support import expiry_process
from tests.support.expired_records import with_policy
from tests.support.expiry_process import (
    COUNTED,
    MISSED,
    NAMES_BATCH,
    SHORT,
    finish,
    kept,
    reported,
    unaccounted,
)
from tests.support.kill_points import Fate
from tests.support.messages import accept, message
from tests.support.sites import POLL_S, _database_url

pytestmark = pytest.mark.usefixtures("redis_url", "transactional_db")

on_sqlite = pytest.mark.skipif(connection.vendor != "sqlite", reason="its locks are what is met")


@pytest.fixture(scope="module")
def kept_undisturbed() -> dict[str, Any]:
    return {}


@pytest.fixture
def undisturbed(redis_url: str, transactional_db: None, kept_undisturbed: dict[str, Any]) -> dict[str, Any]:
    """Return the data after an undisturbed run. For the test everything is due again."""
    run_async(expiry_process.seed)
    if not kept_undisturbed:
        code, _, said = expiry_process.run()
        assert code == 0, said
        kept_undisturbed.update(kept())
        run_async(expiry_process.clear)
        run_async(expiry_process.seed)
    return kept_undisturbed


def test_undisturbed_run_reports_missed_messages_by_name_and_clears_all_due_ones(
    undisturbed: dict[str, Any],
) -> None:
    before = kept()
    assert expiry_process.run()[0] == 0
    assert reported() == MISSED
    after = kept()
    assert after == undisturbed
    assert before["store"]["counts"].keys().isdisjoint(COUNTED)
    assert after["store"]["counts"].items() >= COUNTED.items()


# ── kill -9 ──

AMONG = [
    *[(step, 2) for step in ("recorded", "finalized", "noticed")],  # between two batches
    ("notices.insert", 2),  # in a transaction, the letters written
    ("notices.waiting_for", 1),  # in a transaction, everything written and nothing committed
    ("retention.scrub", 1),  # everything done
]


@pytest.mark.parametrize("step", ["claimed", "read", "recorded", "finalized", "noticed"])
def test_run_after_a_kill_at_a_checkpoint_ends_like_an_undisturbed_run(
    undisturbed: dict[str, Any], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(step)
    finish(monkeypatch)
    assert kept() == undisturbed
    assert reported() == MISSED


@pytest.mark.parametrize(("place", "nth"), AMONG, ids=[f"{place}-{nth}" for place, nth in AMONG])
def test_run_after_a_kill_between_batches_or_in_a_transaction_ends_like_an_undisturbed_run(
    undisturbed: dict[str, Any], place: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_at(place, nth)
    run_async(expiry_process.end_leases)
    finish(monkeypatch)
    assert kept() == undisturbed


def test_run_after_repeated_kills_ends_like_an_undisturbed_run(
    undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("read", "notices.waiting_for", "recorded", "finalized", "noticed"):
        _kill_at(place)
        run_async(expiry_process.end_leases)
    finish(monkeypatch)
    assert kept() == undisturbed


def _kill_at(place: str, nth: int = 1) -> None:
    code, out, said = expiry_process.run(Fate(at=place, nth=nth, names_batch=NAMES_BATCH, runs=9))
    assert (code, out) == (-signal.SIGKILL, "ready\n"), said
    assert unaccounted() == set()


# ── An invalid row ──

BAD = {
    "a time after the last one": {"sent_at": 2**60},
    "a reply to what no column holds": {"reply_to": 2**70},
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD.keys())
def test_invalid_row_is_quarantined_without_its_text_and_the_rest_of_its_batch_is_reported(
    undisturbed: dict[str, Any], fields: dict[str, int]
) -> None:
    run_async(expiry_process.spoil, "atlas", 3, **fields)
    code, out, said = expiry_process.run(claim_max=100)
    assert code == 0, said
    assert Counter(json.loads(out.splitlines()[-1])[0]) >= Counter(
        expired=expiry_process.DUE, missed=5, set_aside=1
    )
    assert reported() == MISSED, "the notice names them to the sender all the same"
    bad, *others = DeadLetter.objects.order_by("fault").reverse()
    assert (bad.room_key, bad.seq, bad.body) == ("atlas", 3, None)
    assert bad.fault in ("OverflowError", "DataError"), "as Python or PostgreSQL calls it"
    assert [letter.body for letter in others] == ["hello"] * 4
    after = kept()
    assert after["store"] == undisturbed["store"]
    key = bad.pk
    assert [row for row in after["letters"] if row["id"] != key] == [
        row for row in undisturbed["letters"] if row["id"] != key
    ]


UNREADABLE = {"bytes that are no text": {"body": b"\xff"}, "a time that is no number": {"expires_at": "soon"}}


@pytest.mark.parametrize("fields", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_message_is_reported(undisturbed: dict[str, Any], fields: dict[str, Any]) -> None:
    run_async(expiry_process.spoil, "atlas", 3, **fields)
    code, _, said = expiry_process.run()
    assert code == 0, said
    assert reported() == MISSED
    assert kept()["store"] == undisturbed["store"]


# ── A database that is down ──


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold a write transaction in another connection."""
    other = sqlite3.connect(str(connection.settings_dict["NAME"]), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


@on_sqlite
def test_locked_database_ends_the_job_before_it_clears_anything(
    undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept()
    with locked():
        code, _, said = expiry_process.run(Fate(busy_s=0.1))
    assert (code, said.splitlines()[-1]) == (1, "django.db.utils.OperationalError: database is locked")
    after = kept()
    assert _but_due_times(after) == _but_due_times(before)
    finish(monkeypatch)
    assert kept() == undisturbed


@on_sqlite
def test_missing_database_ends_the_job_before_it_clears_anything(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept()
    code, _, said = expiry_process.run(url=_database_url(tmp_path))  # a folder
    assert (code, said.splitlines()[-1]) == (
        1,
        "django.db.utils.OperationalError: unable to open database file",
    )
    assert _but_due_times(kept()) == _but_due_times(before)
    finish(monkeypatch)
    assert kept() == undisturbed


@on_sqlite
def test_database_locked_during_a_run_keeps_the_rest_due(
    undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = expiry_process.run(Fate(at="noticed", does="lock", busy_s=0.1, names_batch=NAMES_BATCH))
    assert (code, said.splitlines()[-1]) == (1, "django.db.utils.OperationalError: database is locked")
    assert unaccounted() == set()
    assert 0 < len(reported()) < len(MISSED)
    finish(monkeypatch)
    assert kept() == undisturbed


def _but_due_times(found: dict[str, Any]) -> dict[str, Any]:
    store = {
        key: sorted(value) if key.endswith(":expiring") else value for key, value in found["store"].items()
    }
    return found | {"store": store}


# ── Two workers, 10,000 messages ──

SENDERS, EACH, MUCH = 17, 500, 1_500  # and one whose older notices are summed up
MANY = SENDERS * EACH + MUCH
ABSENT = 1_000
ROOMS = [RoomKey(f"room{number}", number) for number in range(SENDERS + 1)]


@pytest.fixture
def many(redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make 10,000 due messages that one member missed, a room and a sender at a time."""
    keys = [ABSENT, *(ABSENT + 1 + room.partition for room in ROOMS)]
    User.objects.bulk_create(User(pk=key, username=f"user{key}") for key in keys)
    rows = [Room(id=room.id, name=room.id) for room in ROOMS]
    for row, room in zip(rows, ROOMS, strict=True):
        row.partition = room.partition
    Room.objects.bulk_create(rows)
    Membership.objects.bulk_create(
        Membership(room_id=room.id, user_id=user)
        for room in ROOMS
        for user in (ABSENT, ABSENT + 1 + room.partition)
    )

    with_policy(monkeypatch, **SHORT)

    async def send() -> None:
        store = open_store()
        for room in ROOMS:
            user = ABSENT + 1 + room.partition
            for at in range(0, EACH if room is not ROOMS[-1] else MUCH, 100):
                await accept(
                    store, *(message(room=room, user=user, ttl_ms=1, id_=f"{at + n}") for n in range(100))
                )
        while (await store.expiry.overdue()).due < MANY:
            await asyncio.sleep(POLL_S)

    run_async(send)


@pytest.mark.parametrize("killed", [False, True], ids=["both live", "one is killed"])
@pytest.mark.proof
def test_two_concurrent_workers_report_each_of_ten_thousand_messages_once(
    many: None, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = [Fate(waits=True, runs=9), Fate(waits=True, runs=9)]
    if killed:
        fates[0] = Fate(waits=True, at="recorded", nth=3)
    workers = [expiry_process.start(fate, claim_max=500, lease_s=2 if killed else 30) for fate in fates]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    ends = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL if killed else 0, 0], ends
    finish(monkeypatch, left=0, claim_max=500)

    if not killed:
        runs = [run for out, _ in ends for run in json.loads(out)]
        assert sum(run["expired"] for run in runs) == MANY
        assert sum(run["missed"] for run in runs) == MANY
        assert all(json.loads(out)[0]["expired"] for out, _ in ends), "both had a part in it"
    letters = set(DeadLetter.objects.values_list("room_key", "message_id"))
    assert (len(letters), DeadLetter.objects.count(), MissedRecipient.objects.count()) == (MANY, MANY, MANY)
    waiting = Notice.objects.filter(kind="undelivered").values_list("user").annotate(Count("dead_letter"))
    senders = [ABSENT + 1 + room.partition for room in ROOMS]
    assert dict(waiting) == dict.fromkeys(senders[:-1], EACH) | {senders[-1]: MAX_WAITING}
    [summary] = Notice.objects.filter(kind="summary")
    assert (summary.user_id, summary.data["messages"]) == (senders[-1], MUCH - MAX_WAITING)
    found = kept()["store"]
    assert {name: found["counts"][name] for name in ("expired", "expired_missed", "missed_offline")} == {
        "expired": MANY,
        "expired_missed": MANY,
        "missed_offline": MANY,
    }
    assert not [key for key in found if key.endswith(":live") or ":msg:" in key]
