"""The sweep: claims are leases, a crash leaves them due, rooms without lagging members are not announced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.management import CommandError, call_command
from django_q.models import Schedule

from messaging import control
from messaging.bridge import run_async
from messaging.jobs import schedules as jobs
from messaging.policy import Policy
from messaging.rooms.memberships import key_of
from messaging.store import Store, open_store
from messaging.store.records import RoomKey
from tests.support import people
from tests.support.messages import ADA, ALAN, GRACE, ROOM, accept, acknowledge, message
from tests.support.sites import _database_url

ROOT = Path(__file__).parents[2]


async def make_due(store: Store, *rooms: RoomKey, age_ms: int = 60_000) -> None:
    """Make the accepted messages `age_ms` old and their rooms due, without waiting."""
    for room in rooms:
        for entry in await store.client.zrange(f"{room.key}:live", 0, -1):
            key = f"{room.key}:msg:{entry.split(b'|')[0].decode()}"
            await store.client.hset(key, "sent_at", await store.now_ms() - age_ms)
        await store.client.zadd(f"{room.prefix}unacked", {room.id: 1})


class TestClaim:
    async def test_room_with_a_lagging_member_is_claimed_with_the_newest_overdue_seq(
        self, store: Store
    ) -> None:
        await accept(store, message(), message())
        await make_due(store, ROOM)
        await accept(store, message("too young to be late"))
        [claim] = await store.retries.claim("t")
        assert (claim.room, claim.mark) == (ROOM, 2)

    async def test_a_busy_room_has_a_mark_however_much_is_younger(self, store: Store) -> None:
        await accept(store, message(), message(), message())
        await make_due(store, ROOM)
        for _ in range(7):
            await accept(store, *(message() for _ in range(100)))
        [claim] = await store.retries.claim("t")
        assert claim.mark == 3

    async def test_a_room_is_not_due_before_a_minute(self, store: Store) -> None:
        await accept(store)
        assert await store.retries.claim("t") == []

    async def test_the_same_token_gets_the_same_rows_and_another_token_none(self, store: Store) -> None:
        await accept(store)
        await make_due(store, ROOM)
        first = await store.retries.claim("t")
        assert first
        assert await store.retries.claim("t") == first
        assert await store.retries.claim("other") == []

    async def test_unsettled_claim_is_due_again_after_its_lease(self, store: Store) -> None:
        await accept(store)
        await make_due(store, ROOM)
        [claim] = await store.retries.claim("t")
        due_in_ms = float(claim.score) - await store.now_ms()
        assert 0 < due_in_ms <= Policy().lease_s * 1000

    async def test_a_claim_taken_over_by_another_is_not_settled_by_the_first(self, store: Store) -> None:
        await accept(store)
        await make_due(store, ROOM)
        first = await store.retries.claim("t")
        await store.client.zadd(f"{ROOM.prefix}unacked", {ROOM.id: 1})  # its lease has expired
        second = await store.retries.claim("other")
        assert await store.retries.release(first) == 0
        assert await store.retries.release(second) == 1

    async def test_fully_acknowledged_room_leaves_the_index(self, store: Store) -> None:
        await accept(store)
        for user in (GRACE, ALAN):
            await acknowledge(store, user, 1)
        await make_due(store, ROOM)
        assert await store.retries.claim("t") == []
        assert await store.retries.active_rooms() == []

    async def test_a_new_message_brings_its_room_back(self, store: Store) -> None:
        await accept(store)
        for user in (ADA, GRACE, ALAN):
            await acknowledge(store, user, 1)
        await make_due(store, ROOM)
        await store.retries.claim("t")
        await accept(store)
        assert [room for room, _ in await store.retries.active_rooms()] == [ROOM]

    async def test_named_room_can_be_claimed_although_it_is_not_due(self, store: Store) -> None:
        await accept(store)
        [claim] = await store.retries.claim("t", room=ROOM)
        assert claim.room == ROOM

    async def test_rooms_without_lagging_members_do_not_hide_later_rooms(self, store: Store) -> None:
        settled = [RoomKey(f"r{number}", 7) for number in range(3)]
        for room in settled:
            await accept(store, message(room=room))
            for user in (GRACE, ALAN):
                await acknowledge(store, user, 1, room=room)
        await accept(store)
        await make_due(store, *settled)
        await store.client.zadd(f"{ROOM.prefix}unacked", {ROOM.id: 2})
        [claim] = await store.retries.claim("t", limit=2)
        assert claim.room == ROOM

    async def test_named_room_without_lagging_members_is_looked_at_once(self, store: Store) -> None:
        await accept(store)
        for user in (GRACE, ALAN):
            await acknowledge(store, user, 1)
        assert await store.retries.claim("t", limit=1, room=ROOM) == []

    async def test_a_limit_leaves_the_rest_due(self, store: Store) -> None:
        rooms = [RoomKey(f"r{number}", 7) for number in range(3)]
        for room in rooms:
            await accept(store, message(room=room))
        await make_due(store, *rooms)
        assert len(await store.retries.claim("t", limit=2)) == 2
        assert len(await store.retries.claim("u", limit=2)) == 1


KILLED_AT = """
import os, signal
import django
django.setup()
from messaging import checkpoints
from messaging.jobs import retry_undelivered

def reach(checkpoint):
    if checkpoint == {checkpoint!r}:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.reach = reach
retry_undelivered()
"""


@pytest.fixture
def lagging_room(redis_url: str, transactional_db: None) -> RoomKey:
    """Return a room in which grace has not acknowledged ada's message, due now."""

    async def late() -> RoomKey:
        ada, grace = await people.person("ada"), await people.person("grace")
        room = key_of(await people.room_of(ada, grace))
        await accept(open_store(), message(room=room, user=ada.pk))
        await make_due(open_store(), room)
        return room

    return run_async(late)


def crash_at(place: str) -> None:
    """Run the job in a process that is killed with -9 at a checkpoint."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
        "DATABASE_URL": _database_url(Path(settings.DATABASES["default"]["NAME"])),
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT.format(checkpoint=f"sweep.{place}")],
        env=environment,
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


class TestSweep:
    def test_sweep_announces_each_due_room_once_and_again_in_a_minute(
        self, lagging_room: RoomKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        announced = heard(monkeypatch)
        assert jobs.retry_undelivered() == 1
        assert announced == [(lagging_room.id, 1)]
        assert jobs.retry_undelivered() == 0
        assert 30_000 < due_in_ms(lagging_room) <= 60_000

    def test_limit_of_a_sweep_counts_rooms_of_all_partitions(
        self, redis_url: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def late() -> list[RoomKey]:
            ada, grace = await people.person("ada"), await people.person("grace")
            keys = [key_of(await people.room_of(ada, grace)) for _ in range(4)]
            for key in keys:
                await accept(open_store(), message(room=key, user=ada.pk))
                await make_due(open_store(), key)
            return keys

        keys = run_async(late)
        assert len({key.partition for key in keys}) > 1
        announced = heard(monkeypatch)
        assert run_async(jobs.sweep, jobs.SweepOptions(limit=2)) == 2
        assert len(announced) == 2
        for key in keys:  # of the others, after the lease
            run_async(end_lease, key)
        assert jobs.retry_undelivered() == 4

    @pytest.mark.parametrize("step", ["claimed", "announced"])
    def test_killed_sweep_leaves_the_room_due_again_within_a_lease(
        self, lagging_room: RoomKey, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crash_at(step)
        assert 0 < due_in_ms(lagging_room) <= 30_000
        run_async(end_lease, lagging_room)
        announced = heard(monkeypatch)
        assert jobs.retry_undelivered() == 1
        assert announced == [(lagging_room.id, 1)]

    def test_sweep_killed_after_settling_has_done_everything(self, lagging_room: RoomKey) -> None:
        crash_at("settled")
        assert 30_000 < due_in_ms(lagging_room) <= 60_000

    def test_sweep_records_a_heartbeat(self, lagging_room: RoomKey) -> None:
        assert jobs.heartbeat_age_s() is None
        jobs.retry_undelivered()
        age_s = jobs.heartbeat_age_s()
        assert age_s is not None
        assert age_s < 30


def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    announced: list[tuple[str, int]] = []

    async def announce(kind: str, **fields: Any) -> None:
        assert kind == "sweep"
        announced.append((fields["room"], fields["mark"]))

    monkeypatch.setattr(control, "publish", announce)
    return announced


async def end_lease(room: RoomKey) -> None:
    await open_store().client.zadd(f"{room.prefix}unacked", {room.id: 1})


def due_in_ms(room: RoomKey) -> float:
    with redis.Redis.from_url(settings.STORE_URL) as client:
        seconds, micros = client.time()
        score = client.zscore(f"{room.prefix}unacked", room.id)
    assert score is not None
    return score - (seconds * 1000 + micros / 1000)


@pytest.mark.django_db
class TestSchedules:
    def test_schedules_are_installed_by_name_and_corrected(self) -> None:
        jobs.install_schedules()
        Schedule.objects.filter(name="retry_undelivered").update(minutes=99)
        jobs.install_schedules()
        assert sorted(Schedule.objects.values_list("name", "minutes")) == [
            (name, wanted["minutes"]) for name, wanted in sorted(jobs.SCHEDULES.items())
        ]

    def test_first_of_two_concurrently_created_schedules_is_kept(self) -> None:
        jobs.install_schedules()
        kept = Schedule.objects.get(name="retry_undelivered")
        Schedule.objects.create(name=kept.name, func=kept.func)
        jobs.install_schedules()
        assert Schedule.objects.get(name=kept.name) == kept

    def test_migrate_restores_a_deleted_schedule(self) -> None:
        Schedule.objects.all().delete()
        call_command("migrate", verbosity=0)
        assert set(Schedule.objects.values_list("name", flat=True)) == set(jobs.SCHEDULES)


class TestCommands:
    def test_dry_run_names_lagging_members_and_changes_nothing(
        self, lagging_room: RoomKey, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = due_in_ms(lagging_room)
        call_command("retry_undelivered", "--dry-run", "--json")
        [room] = json.loads(capsys.readouterr().out)
        assert room["room"] == lagging_room.id
        assert [row["name"] for row in room["laggards"]] == ["grace"]
        assert before < 0
        assert due_in_ms(lagging_room) < 0

    def test_once_sweeps_and_ends(self, lagging_room: RoomKey, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("retry_undelivered", "--once")
        assert capsys.readouterr().out == "1 room swept\n"

    def test_older_than_leaves_younger_rooms_alone(
        self, lagging_room: RoomKey, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("retry_undelivered", "--once", "--older-than", "2h")
        assert capsys.readouterr().out == "0 rooms swept\n"

    @pytest.mark.parametrize("text", ["2", "x", "0s", "-1h", "2 h"])
    def test_invalid_duration_is_refused(self, text: str, transactional_db: None) -> None:
        with pytest.raises(CommandError, match="is not a duration"):
            call_command("retry_undelivered", f"--older-than={text}")

    def test_status_counts_who_is_parked(
        self, lagging_room: RoomKey, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("messaging_status", "--json")
        output = json.loads(capsys.readouterr().out)
        assert (output["stored"], output["rooms_active"], output["lagging"], output["parked"]) == (1, 1, 0, 1)
        assert output["oldest_undelivered_s"] >= 60
        assert (output["last_hour"]["accepted"], output["last_hour"]["delivered"]) == (1, 0)

    def test_status_reports_that_no_job_runs(
        self, lagging_room: RoomKey, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("messaging_status")
        assert "No job has ever run" in capsys.readouterr().err
