"""`manage.py doctor`: each fault is found on a real store, has a sentence and a remedy, and makes the exit code 1."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_redis import get_redis_connection

from chatsite.environment import BASE_DIR
from messaging import checks
from messaging.bridge import run_verb
from messaging.jobs import schedules as jobs
from messaging.models import AuditEntry, DeadLetter, Room
from messaging.monitoring import health
from messaging.store.stats import JOBS_KEY
from tests.support.overdue_rooms import expired_room, let_expire
from tests.support.people import person

pytestmark = pytest.mark.usefixtures("redis_url")


@contextmanager
def store_set(name: str, value: str) -> Iterator[None]:
    """Run the store with another setting for a moment."""
    client = get_redis_connection("messages")
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


def sentences(part: health.Part) -> str:
    return " ".join(f"{fault.sentence} {fault.remedy}" for fault in part.faults)


def doctor() -> tuple[dict[str, Any], int]:
    """Return what `doctor --json` prints and its exit code."""
    out = StringIO()
    code = 0
    try:
        call_command("doctor", json=True, stdout=out)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return json.loads(out.getvalue()), code


def test_a_store_set_as_serve_sets_it_has_no_fault() -> None:
    with store_set("appendfsync", "always"):
        part = health.store()
    assert part.faults == []
    assert part.reachable
    assert part.facts["maxmemory-policy"] == "noeviction"


@pytest.mark.parametrize(
    ("name", "value", "fatal"),
    [
        ("maxmemory-policy", "allkeys-lru", True),
        ("appendonly", "no", False),
        ("appendfsync", "everysec", False),
        ("hash-max-listpack-value", "64", False),
    ],
)
def test_a_setting_that_loses_or_wastes_is_a_fault_whose_remedy_names_it(
    name: str, value: str, fatal: bool
) -> None:
    with store_set("appendfsync", "always"), store_set(name, value):
        faults = health.store().faults
    assert len(faults) == 1
    assert f"CONFIG SET {name} " in faults[0].remedy
    assert faults[0].fatal is fatal


def test_a_store_that_is_nearly_full_is_a_fault() -> None:
    client = get_redis_connection("messages")
    used = client.info("memory")["used_memory"]
    with store_set("maxmemory", str(int(used * 1.1))):
        assert "its memory" in sentences(health.store())


def test_a_clock_that_differs_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real_s = health.time.time()
    monkeypatch.setattr(health.time, "time", lambda: real_s + 3600)
    assert "behind this machine's" in sentences(health.store())


@pytest.mark.parametrize(("version", "old"), [("6.2.14", True), ("7.0.0", False), ("8.1.8", False)])
def test_a_store_older_than_7_0_is_a_fault_that_keeps_serve_from_starting(version: str, old: bool) -> None:
    info = {"redis_version": version, "role": "master", "used_memory": 1, "maxmemory": 0}
    assert [fault.fatal for fault in health._server_faults(info, 0.0)] == ([True] if old else [])


def test_a_replica_and_a_failing_disk_are_faults() -> None:
    info = {"redis_version": "8.0.0", "role": "slave", "used_memory": 1}
    assert [fault.fatal for fault in health._server_faults(info, 0.0)] == [True]
    assert "disk" in health._persistence_faults({"aof_last_write_status": "err"})[0].sentence


def test_a_store_that_hides_its_settings_is_said_so_not_called_well() -> None:
    assert "CONFIG is forbidden" in health._settings_faults({})[0].sentence


def test_an_event_over_the_channel_layer_arrives() -> None:
    assert health.channel_layer().faults == []


@pytest.mark.django_db
def test_the_database_runs_with_the_settings_that_lose_nothing() -> None:
    part = health.database()
    assert part.faults == []
    if connection.vendor == "sqlite":
        assert (part.facts["journal_mode"], part.facts["synchronous"], part.facts["secure_delete"]) == (
            "wal",
            2,
            1,
        )


@pytest.mark.django_db
def test_any_fault_makes_the_exit_code_1_and_every_fault_has_a_remedy() -> None:
    with store_set("appendfsync", "always"), store_set("hash-max-listpack-value", "64"):
        said, code = doctor()
    assert code == 1
    assert said["ok"] is False
    assert [part["name"] for part in said["parts"]] == [
        "store",
        "cache",
        "channel layer",
        "database",
        "worker",
        "expiry",
        "schedules",
    ]
    faults = [fault for part in said["parts"] for fault in part["faults"]]
    assert all(fault["sentence"].endswith(".") and fault["remedy"].endswith(".") for fault in faults)


@pytest.mark.django_db
def test_a_store_away_is_one_sentence_a_part_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> redis.Redis:
        return redis.Redis(unix_socket_path="/nonexistent/valkey.sock")

    monkeypatch.setattr(health, "get_redis_connection", away)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", stdout=out)
    assert ended.value.code == 1
    assert "store         AWAY" in out.getvalue()
    assert "The store cannot be reached" in out.getvalue()
    assert "database      ok" in out.getvalue(), "what is well is still said"


def test_the_reference_explains_every_part_and_every_check() -> None:
    reference = BASE_DIR / "docs" / "reference"
    page = (reference / "doctor.md").read_text() + (reference / "settings.md").read_text()
    explained = set(re.findall(r"^\| ([a-z ]+) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE))
    assert {"store", "cache", "channel layer", "database", "worker", "expiry", "schedules"} <= explained
    assert set(re.findall(r"messaging\.E\d+", inspect.getsource(checks))) == set(
        re.findall(r"messaging\.E\d+", page)
    )


# Expiry


@pytest.fixture
def atlas(redis_url: str, transactional_db: None) -> Room:
    """A room with one message that expired four minutes ago and is not reported."""

    async def make() -> Room:
        return await expired_room(await person("ada"), await person("bob"), late_ms=240_000)

    return run_verb(make)


def test_what_expired_minutes_ago_and_is_not_reported_is_a_fault_until_it_is(atlas: Room) -> None:
    part = health.expiry()
    assert part.facts["due"] == 1
    assert re.search(
        r"1 expired messages are not reported to their senders, the oldest for 24\d s\.", sentences(part)
    )
    jobs.process_expired()
    part = health.expiry()
    assert part.faults == []
    assert (part.facts["due"], part.facts["oldest_s"]) == (0, None)
    assert (part.facts["expired_last_hour"], part.facts["expired_missed_last_hour"]) == (1, 1)


def test_what_is_due_for_less_is_none(atlas: Room) -> None:
    jobs.process_expired()
    run_verb(let_expire, atlas, User.objects.get(username="ada"), late_ms=100_000)
    part = health.expiry()
    assert (part.facts["due"], part.faults) == (1, [])


def test_a_job_that_stands_still_while_others_run_is_a_fault(atlas: Room) -> None:
    jobs.retry_undelivered()
    assert "process_expired has never run, although other jobs run" in sentences(health.expiry())
    jobs.process_expired()
    assert health.expiry().faults == []
    beat("process_expired", 200_000)
    assert re.search(r"process_expired last ran 20\d s ago", sentences(health.expiry()))
    beat("retry_undelivered", 200_000)
    assert health.expiry().faults == [], "where nothing runs the worker says it"
    assert "The last job ran" in sentences(health.worker())


def beat(job: str, age_ms: int) -> None:
    """Let a job's last run be so long ago."""
    client = get_redis_connection("messages")
    seconds, _ = client.time()
    client.hset(JOBS_KEY, job, json.dumps({"at": seconds * 1000 - age_ms}))


def test_letters_set_aside_or_dropped_in_the_last_day_are_faults(atlas: Room) -> None:
    jobs.process_expired()
    DeadLetter.objects.update(fault="DataError")
    now = timezone.now()
    AuditEntry.objects.create(at=now, verb=AuditEntry.Verb.PRUNE, detail={"open": 7})
    said = sentences(health.expiry())
    assert "1 expired messages of the last day were set aside" in said
    assert "7 open dead letters were dropped" in said
    earlier = now - timedelta(days=1, minutes=1)
    DeadLetter.objects.update(processed_at=earlier)
    AuditEntry.objects.update(at=earlier)
    assert health.expiry().faults == []


def test_status_says_how_late_expiry_is_and_who_missed_what(
    atlas: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("messaging_status")
    out, err = capsys.readouterr()
    assert "expired, not yet reported\t1, the oldest for 4 min" in out
    assert "What expired up to 4 min" in err
    jobs.process_expired()
    call_command("messaging_status")
    out, err = capsys.readouterr()
    assert "expired, not yet reported\t0\n" in out
    assert "missed, offline, last hour\t1\n" in out
    assert "not yet reported to its senders" not in err
    call_command("messaging_status", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["expired_due"], found["expired_due_s"]) == (0, None)
    assert {name: number for name, number in found["last_hour"].items() if number and name != "at"} == {
        "accepted": 1,
        "expired": 1,
        "expired_missed": 1,
        "missed_offline": 1,
    }
