"""Reports stay true after long outages of store and jobs, with wrong clocks, and after the store has lost its data."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.db.models import Model
from django.utils import timezone
from django_q.brokers.redis_broker import Redis
from django_q.models import Schedule, Task
from django_q.scheduler import scheduler

from chatsite.run.children import wait_for
from messaging.bridge import run_async
from messaging.jobs import schedules as jobs
from messaging.models import DeadLetter, Notice, epoch_ms
from tests.support import expiry_process
from tests.support.clients import Frame, Wire
from tests.support.expiry_process import LIVE, MISSED, kept, reported
from tests.support.kill_points import Fate
from tests.support.sites import Browser, Person, Site, later, people, room, until
from tests.support.workers import Worker, manage

Open = Callable[..., Any]
GRACE_S = 1
SHORT = {"ttl_min_s": 1, "grace_s": GRACE_S, "claim_delay_s": 1, "lease_s": 1}
TTL_S = 5
WITHIN_S = 30.0


@pytest.fixture
def begin(new_site: Open) -> Iterator[Callable[[], tuple[Site, Worker]]]:
    """Return a function that starts a site and prepares its worker, which does not run."""
    workers: list[Worker] = []

    def start() -> tuple[Site, Worker]:
        site = new_site(**SHORT)
        workers.append(Worker(site))
        return site, workers[-1]

    yield start
    for worker in workers:
        worker.end()


async def enter(site: Site, open_wire: Open, who: Person) -> Wire:
    wire = await open_wire(site, who)
    await wire.hello()
    await wire.next("resumed")
    return wire


async def over(sent: Frame, *, since_s: float = 0) -> None:
    """Wait until `since_s` after the end of a message."""
    ends_at = sent["expires_at"] + 1000 * since_s
    await until(lambda: time.time() * 1000 > ends_at, within_s=2 * TTL_S)


async def told(wire: Wire, count: int) -> dict[int, dict[str, str]]:
    """Return the notices of a sender at the connect: {seq: {name: reason}}."""
    for _ in range(count):
        await wire.next("notice")
    await wire.fence()
    return {
        frame["data"]["seq"]: {person["name"]: person["reason"] for person in frame["data"]["missing"]}
        for frame in wire.heard("notice")
    }


async def test_site_that_was_down_past_every_grace_reports_to_every_sender_by_name(
    begin: Open, open_wire: Open
) -> None:
    site, worker = await later(begin)()
    ada, grace, bob, carol, dan = await later(people)("ada", "grace", "bob", "carol", "dan")
    atlas = await later(room)(ada, grace, bob, carol, dan)
    at_ada, at_grace = [await enter(site, open_wire, who) for who in (ada, grace)]
    passed = await at_ada.post(atlas, "over before carol comes", ttl=1)
    epoch = passed["epoch"]
    await over(passed)
    at_carol = await enter(site, open_wire, carol)

    rejected = await at_ada.post(atlas, "carol cannot show it", ttl=TTL_S)
    await at_carol.next("message", seq=rejected["seq"])
    await at_carol.send(
        {"type": "reject", "room": atlas, "epoch": epoch, "seq": rejected["seq"], "reason": "odd"}
    )
    left = await at_grace.post(atlas, "dan leaves it unread", ttl=TTL_S)
    leave = Browser(site, dan).call
    assert await asyncio.to_thread(leave, "POST", f"/api/rooms/{atlas}/leave/") == 204
    last = await at_grace.post(atlas, "bob is away", ttl=TTL_S)
    for wire in (at_ada, at_grace, at_carol):
        await wire.ack(atlas, epoch, delivered=last["seq"], late=[])
    await at_grace.told(last["seq"], 2, 0, 3)
    for wire in (at_ada, at_grace, at_carol):
        await wire.aclose()

    await asyncio.to_thread(site.store.kill)
    await over(last, since_s=GRACE_S)
    site.store.start()
    await asyncio.to_thread(site.store.wait_until_ready)
    with redis.Redis.from_url(site.store.url) as client:
        assert list(client.scan_iter("*:msg:*")) == [], "the time to live of the Hashes has passed too"
    worker.start()
    await until(worker.has_run, within_s=WITHIN_S)

    by_ada, by_grace = [await enter(site, open_wire, who) for who in (ada, grace)]
    assert await told(by_ada, 2) == {
        passed["seq"]: {"bob": "offline", "carol": "offline", "dan": "left_room"},
        rejected["seq"]: {"bob": "offline", "carol": "client_rejected", "dan": "left_room"},
    }
    assert await told(by_grace, 2) == {
        left["seq"]: {"bob": "offline", "dan": "left_room"},
        last["seq"]: {"bob": "offline"},
    }
    letters = await later(lambda: list(DeadLetter.objects.order_by("seq")))()
    assert [(letter.sender_name, letter.body) for letter in letters] == [
        ("ada", None),
        ("ada", None),
        ("grace", None),
        ("grace", None),
    ]
    site.forgive()


async def test_store_that_lost_its_data_leads_to_no_report(begin: Open, open_wire: Open) -> None:
    site, _ = await later(begin)()
    ada, bob = await later(people)("ada", "bob")
    atlas = await later(room)(ada, bob)
    at_ada = await enter(site, open_wire, ada)
    lost = await at_ada.post(atlas, "lost with the store", ttl=1)
    await at_ada.aclose()

    await asyncio.to_thread(site.store.kill)
    shutil.rmtree(site.store.folder / "appendonlydir")
    await over(lost)
    site.store.start()
    await asyncio.to_thread(site.store.wait_until_ready)
    assert await process(site) == Counter()
    assert not await later(Notice.objects.exists)()

    at_ada = await enter(site, open_wire, ada)
    sent = await at_ada.post(atlas, "after it", ttl=1)
    await over(sent, since_s=2)
    assert await process(site) == Counter(expired=1, missed=1)
    assert (await at_ada.next("notice"))["data"]["id"] == sent["id"]
    assert await later(Notice.objects.count)() == 1
    site.forgive()


async def process(site: Site) -> Counter[str]:
    """Run the job by hand; return its counts."""
    done = await asyncio.to_thread(manage, site, "process_expired", "--once", "--json")
    assert done.returncode == 0, done.stderr
    return +Counter({name: count for name, count in json.loads(done.stdout).items() if name != "took_s"})


def test_rows_of_a_deleted_room_are_cleared_without_a_report(redis_url: str, transactional_db: None) -> None:
    run_async(expiry_process.seed)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*(key for key in client.scan_iter() if not key.endswith(b":expiring")))
        code, _, said = expiry_process.run()
        assert code == 0, said
        assert reported() == {}
        rows = [row for key in client.scan_iter("*:expiring") for row in client.zrange(key, 0, -1)]
    assert rows == [f"{LIVE[0]}|{LIVE[1]}".encode()], "what is not due stays"


# ── Clocks ──


@pytest.mark.parametrize("clock_s", [3_600, -3_600], ids=["an hour ahead", "an hour behind"])
def test_a_wrong_clock_of_the_worker_changes_nothing(
    redis_url: str, transactional_db: None, clock_s: int
) -> None:
    run_async(expiry_process.seed)
    before_ms = run_async(expiry_process.now_ms)
    code, _, said = expiry_process.run(Fate(clock_s=clock_s))
    assert code == 0, said
    logged = datetime.fromisoformat(said.splitlines()[-1].split()[0])
    assert abs((logged - timezone.now()).total_seconds() - clock_s) < 600, "its clock was wrong"
    assert reported() == MISSED
    store = kept()["store"]
    live = [key for key in store if key.endswith(":live")]
    assert [len(store[key]) for key in live] == [1], "neither more nor less than what is due"
    for at in (*_times(DeadLetter, "processed_at"), *_times(Notice, "at")):
        assert before_ms <= at <= run_async(expiry_process.now_ms), "the store's time is what is written"
    assert {letter.body for letter in DeadLetter.objects.all()} == {"hello"}


def _times(model: type[Model], field: str) -> list[int]:
    return [epoch_ms(at) for at in model._default_manager.values_list(field, flat=True)]


def test_schedules_that_are_overdue_by_a_day_run_once(begin: Open) -> None:
    site, worker = begin()
    jobs.install_schedules()
    Schedule.objects.update(next_run=timezone.now() - timedelta(days=1))
    worker.start()
    assert wait_for(worker.has_run, deadline_s=WITHIN_S)

    broker = Redis()
    with redis.Redis.from_url(f"{site.store.url}?db=1") as broker.connection:
        looks = []
        for _ in range(5):
            scheduler(broker=broker)
            looks.append(dict(Schedule.objects.values_list("name", "task")))
        assert all(looks[0].values())
        assert looks == [looks[0]] * 5, "nothing new after the first look"
        assert wait_for(lambda: Task.objects.count() >= len(jobs.SCHEDULES), deadline_s=WITHIN_S)
        assert broker.queue_size() == 0
    runs = Counter(Task.objects.values_list("func", flat=True))
    assert runs == Counter(schedule["func"] for schedule in jobs.SCHEDULES.values())
    assert not Schedule.objects.filter(next_run__lt=timezone.now()).exists()


def test_clock_that_is_set_back_delays_no_job(begin: Open) -> None:
    _, worker = begin()
    jobs.install_schedules()
    assert jobs.repair_schedules() == 0
    now = timezone.now()
    Schedule.objects.update(
        next_run=now + timedelta(hours=1, minutes=1)
    )  # as an hour later, before the clock was set back
    worker.start()
    soon = Schedule.objects.filter(next_run__lt=now + timedelta(minutes=2))
    assert wait_for(lambda: soon.count() == len(jobs.SCHEDULES), deadline_s=WITHIN_S)


def test_deleted_schedules_are_created_again(begin: Open) -> None:
    _, worker = begin()
    jobs.install_schedules()
    worker.start()
    assert wait_for(worker.has_run, deadline_s=WITHIN_S)
    Schedule.objects.all().delete()
    assert wait_for(lambda: not jobs.missing_schedules(), deadline_s=WITHIN_S)
