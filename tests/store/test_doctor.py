"""`manage.py doctor`: every fault is found on a real store, has a sentence and a remedy, and makes the exit code 1."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from django.utils import timezone
from django_q.models import Schedule
from django_redis import get_redis_connection

from chatsite.environment import BASE_DIR
from messaging import checks
from messaging.bridge import run_async
from messaging.jobs import schedules as jobs
from messaging.models import AuditEntry, DeadLetter, Room
from messaging.monitoring import faults, health
from messaging.rooms.memberships import key_of
from messaging.store.records import Memory
from messaging.store.stats import JOBS_KEY
from tests.support.overdue_rooms import expired_room, let_expire
from tests.support.people import person

pytestmark = pytest.mark.usefixtures("redis_url")


@contextmanager
def store_set(name: str, value: str) -> Iterator[None]:
    """Run the store with another setting within the block."""
    client = get_redis_connection("messages")
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


def texts(component: health.Component) -> str:
    return " ".join(fault.text for fault in component.faults)


def keys(component: health.Component) -> list[str]:
    return [fault.key for fault in component.faults]


def doctor() -> tuple[dict[str, Any], int]:
    """Return what `doctor --json` prints and its exit code."""
    out = StringIO()
    code = 0
    try:
        call_command("doctor", json=True, stdout=out)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return json.loads(out.getvalue()), code


def test_a_store_with_the_settings_of_serve_has_no_fault() -> None:
    with store_set("appendfsync", "always"):
        component = health.store()
    assert component.faults == []
    assert component.reachable
    assert component.facts["maxmemory-policy"] == "noeviction"
    assert component.facts["aof_last_write_status"] == "ok"


@pytest.mark.parametrize(
    ("name", "value", "fatal"),
    [
        ("maxmemory-policy", "allkeys-lru", True),
        ("appendonly", "no", False),
        ("appendfsync", "everysec", False),
        ("hash-max-listpack-value", "64", False),
    ],
)
def test_the_remedy_of_a_wrong_setting_names_it(name: str, value: str, fatal: bool) -> None:
    with store_set("appendfsync", "always"), store_set(name, value):
        [fault] = health.store().faults
    assert f"CONFIG SET {name} " in fault.remedy
    assert fault.fatal is fatal


def test_a_store_that_is_nearly_full_is_a_fault() -> None:
    client = get_redis_connection("messages")
    used = client.info("memory")["used_memory"]
    with store_set("maxmemory", str(int(used * 1.1))):
        assert "its memory" in texts(health.store())


def test_a_clock_that_differs_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real_s = health.time.time()
    monkeypatch.setattr(health.time, "time", lambda: real_s + 3600)
    assert re.search(
        r"The store's clock differs from this machine's by -3(599|600)\.\d s\.", texts(health.store())
    )


@pytest.mark.parametrize(("version", "old"), [("6.2.14", True), ("7.0.0", False), ("8.1.8", False)])
def test_a_store_older_than_7_0_is_a_fault_that_prevents_the_start_of_serve(version: str, old: bool) -> None:
    judged = faults.of_server(version=version, role="master", clock_difference_s=0.0)
    assert [fault.fatal for fault in judged] == ([True] if old else [])


def test_a_replica_and_a_failing_disk_are_faults() -> None:
    judged = faults.of_server(version="8.0.0", role="slave", clock_difference_s=0.0)
    assert [fault.fatal for fault in judged] == [True]
    info = get_redis_connection("messages").info() | {"aof_last_write_status": "err"}
    [fault] = faults.of_memory(Memory.from_info(info))
    assert "disk" in fault.sentence


def test_a_store_that_hides_its_settings_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise redis.ResponseError("unknown command 'CONFIG'")

    monkeypatch.setattr(redis.Redis, "config_get", forbid)
    component = health.store()
    assert "CONFIG is forbidden" in texts(component)
    assert component.facts["role"] == "master"


def test_an_event_over_the_channel_layer_arrives() -> None:
    assert health.channel_layer().faults == []


@pytest.mark.django_db
def test_the_database_runs_with_the_settings_that_lose_nothing() -> None:
    component = health.database()
    assert component.faults == []
    if connection.vendor == "sqlite":
        settings = [component.facts[name] for name in ("journal_mode", "synchronous", "secure_delete")]
        assert settings == ["wal", 2, 1]


def test_a_data_dir_that_others_can_enter_is_a_fault(tmp_path: Path) -> None:
    with override_settings(DATA_DIR=tmp_path):
        tmp_path.chmod(0o700)
        assert health.files().faults == []
        tmp_path.chmod(0o755)
        [fault] = health.files().faults
    assert "(mode 755)" in fault.sentence
    assert f"`chmod 700 {tmp_path}`" in fault.remedy
    with override_settings(DATA_DIR=tmp_path / "missing"):
        assert health.files().faults == []


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://127.0.0.1:6379/0", []),
        ("redis://store.example:6379/0", ["store_open"]),
        ("rediss://store.example:6379/0", ["store_open"]),
        ("redis://:secret@store.example:6379/0", []),
        ("redis://user:secret@store.example:6379/0", []),
        ("unix:///run/valkey.sock?db=0", []),
    ],
)
def test_a_store_of_another_machine_needs_a_password(url: str, found: list[str]) -> None:
    with redis.Redis.from_url(url) as client:
        network = health._network(client)
    assert [fault.key for fault in faults.of_network(**network)] == found


@pytest.mark.django_db
def test_any_fault_makes_the_exit_code_1_and_every_fault_has_a_remedy() -> None:
    with store_set("appendfsync", "always"), store_set("hash-max-listpack-value", "64"):
        report, code = doctor()
    assert code == 1
    assert report["ok"] is False
    assert [part["name"] for part in report["parts"]] == [
        "disk",
        "store",
        "cache",
        "channel layer",
        "database",
        "files",
        "worker",
        "expiry",
        "schedules",
    ]
    rows = [fault for part in report["parts"] for fault in part["faults"]]
    assert all(row["sentence"].endswith(".") and row["remedy"].endswith(".") for row in rows)
    [listpack] = [row for row in rows if row["key"] == "store_listpack"]
    assert (listpack["severity"], listpack["fatal"]) == ("warning", False)
    assert listpack["facts"] == {"value": "64", "setting": "hash-max-listpack-value 8192"}


@pytest.mark.django_db
def test_an_unreachable_store_is_one_sentence_for_each_component_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> redis.Redis:
        return redis.Redis(unix_socket_path="/nonexistent/valkey.sock")

    monkeypatch.setattr(health, "get_redis_connection", away)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", stdout=out)
    assert ended.value.code == 1
    assert re.search(r"^store         DOWN  error .*/nonexistent/valkey\.sock", out.getvalue(), re.MULTILINE)
    assert "The store cannot be reached." in out.getvalue()
    assert "database      ok" in out.getvalue(), "healthy components are still reported"


@pytest.mark.django_db
def test_a_full_disk_is_named_before_the_store_that_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.data_disk().faults == []
    monkeypatch.setattr(faults, "MIN_FREE_BYTES", 2**62)
    monkeypatch.setattr(
        health, "get_redis_connection", lambda _: redis.Redis(unix_socket_path="/nonexistent/valkey.sock")
    )
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=out)
    assert re.search(
        r"^disk          FAULT free_bytes \d+\n +The disk of DATA_DIR is full or nearly full: \d+ MB are free\."
        r"[^\n]+\nstore         DOWN ",
        out.getvalue(),
    )


def test_a_data_dir_that_does_not_exist_is_no_fault(tmp_path: Path) -> None:
    with override_settings(DATA_DIR=tmp_path / "none"):
        assert health.data_disk().faults == []


@pytest.mark.django_db
def test_a_missing_and_a_late_schedule_are_faults() -> None:
    jobs.install_schedules()
    Schedule.objects.update(next_run=timezone.now())  # the rows may be as old as the test run
    assert health.schedules().faults == []
    late = timezone.now() - timedelta(minutes=4)
    Schedule.objects.filter(name="process_expired").update(next_run=late)
    Schedule.objects.filter(name="rewrite_log").delete()
    late_or_missing = {fault.key: fault.facts["name"] for fault in health.schedules().faults}
    assert late_or_missing == {"schedule_late": "process_expired", "schedule_missing": "rewrite_log"}


class Dots(dict[str, Any]):
    """Facts that are left out of a sentence."""

    def __missing__(self, name: str) -> str:
        return "..."


def test_the_reference_explains_every_part_every_fault_and_every_check() -> None:
    reference = BASE_DIR / "docs" / "reference"
    page = (reference / "doctor.md").read_text() + (reference / "settings.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    parts = {"disk", "store", "cache", "channel layer", "database", "files", "worker", "expiry", "schedules"}
    assert parts <= {part for part, _ in rows}
    quoted = {quote for part, text in rows if part in parts for quote in re.split("; ", text)}
    sentences = {key: (kind.sentence % Dots(n=2)).casefold() for key, kind in faults.KINDS.items()}
    explained = {
        quote: {key for key, sentence in sentences.items() if _quotes(quote.casefold(), sentence)}
        for quote in quoted
    }
    assert not [quote for quote, keys in explained.items() if not keys], "the page quotes what is printed"
    assert sentences.keys() == set().union(*explained.values())
    assert set(re.findall(r"messaging\.E\d+", inspect.getsource(checks))) == set(
        re.findall(r"messaging\.E\d+", page)
    )


def _quotes(quote: str, sentence: str) -> bool:
    return all(piece.strip() in sentence for piece in quote.split("..."))


# Expiry


@pytest.fixture
def atlas(redis_url: str, transactional_db: None) -> Room:
    """A room with one message that expired four minutes ago and is not reported."""

    async def make() -> Room:
        return await expired_room(await person("ada"), await person("bob"), late_ms=240_000)

    return run_async(make)


def test_a_late_expiry_report_is_a_fault_until_it_is_made(atlas: Room) -> None:
    component = health.expiry()
    assert component.facts["due"] == 1
    assert 240 <= float(str(component.facts["oldest_s"])) < 250
    assert "Expiry reports are late: one has been due since 20" in texts(component)
    jobs.process_expired()
    component = health.expiry()
    assert component.faults == []
    assert (component.facts["due"], component.facts["oldest_s"]) == (0, None)
    assert (component.facts["expired_last_hour"], component.facts["expired_missed_last_hour"]) == (1, 1)


def test_a_message_due_for_a_shorter_time_is_no_fault(atlas: Room) -> None:
    jobs.process_expired()
    run_async(let_expire, atlas, User.objects.get(username="ada"), late_ms=100_000)
    component = health.expiry()
    assert (component.facts["due"], component.faults) == (1, [])


def test_a_job_that_stopped_while_others_run_is_a_fault(atlas: Room) -> None:
    jobs.retry_undelivered()
    assert "process_expired has never run, although other jobs run" in texts(health.expiry())
    jobs.process_expired()
    assert health.expiry().faults == []
    beat("process_expired", 200_000)
    assert keys(health.expiry()) == ["expiry_silent"]
    beat("retry_undelivered", 200_000)
    assert health.expiry().faults == [], "if nothing runs, the worker reports it"
    assert "No worker heartbeat since" in texts(health.worker())
    assert re.fullmatch(r"20\d\.\d", str(health.worker().facts["heartbeat_age_s"]))


def beat(job: str, age_ms: int) -> None:
    """Set how long ago the last run of a job was."""
    client = get_redis_connection("messages")
    seconds, _ = client.time()
    client.hset(JOBS_KEY, job, json.dumps({"at": seconds * 1000 - age_ms}))


def test_a_message_that_the_store_has_lost_is_a_fault(atlas: Room) -> None:
    jobs.process_expired()
    assert health.expiry().facts["unaccounted"] == 0
    run_async(let_expire, atlas, User.objects.get(username="ada"), late_ms=100_000)
    client = get_redis_connection("messages")
    key = key_of(atlas)
    [lost] = client.zrange(f"{key.prefix}expiring", 0, -1)
    client.zrem(f"{key.prefix}expiring", lost)
    component = health.expiry()
    assert keys(component) == ["messages_unaccounted"]
    assert "1 accepted message is unaccounted for." in texts(component)


def test_letters_quarantined_or_dropped_in_the_last_day_are_faults(atlas: Room) -> None:
    jobs.process_expired()
    DeadLetter.objects.update(fault="DataError")
    now = timezone.now()
    AuditEntry.objects.create(at=now, verb=AuditEntry.Verb.PRUNE, detail={"open": 7})
    output = texts(health.expiry())
    assert "The database refused 1 message in the last day: it was quarantined without its text." in output
    assert "7 open dead letters were dropped" in output
    earlier = now - timedelta(days=1, minutes=1)
    DeadLetter.objects.update(processed_at=earlier)
    AuditEntry.objects.update(at=earlier)
    assert health.expiry().faults == []


def test_status_shows_how_late_expiry_is_and_how_many_missed_messages(
    atlas: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("messaging_status")
    out, err = capsys.readouterr()
    assert "expired, not yet reported\t1, the oldest for 4 min" in out
    assert "Expiry reports are late" in err
    jobs.process_expired()
    call_command("messaging_status")
    out, err = capsys.readouterr()
    assert "expired, not yet reported\t0\n" in out
    assert "missed, offline, last hour\t1\n" in out
    assert "Expiry reports are late" not in err
    call_command("messaging_status", "--json")
    output = json.loads(capsys.readouterr().out)
    assert (output["expired_due"], output["expired_due_s"]) == (0, None)
    assert {name: number for name, number in output["last_hour"].items() if number and name != "at"} == {
        "accepted": 1,
        "expired": 1,
        "expired_missed": 1,
        "missed_offline": 1,
    }
