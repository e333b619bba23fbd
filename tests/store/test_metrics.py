"""Counters: in the process for Prometheus, in the store by minute and day, and one log line for every event."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from django.test import AsyncClient, AsyncRequestFactory
from prometheus_client.parser import text_string_to_metric_families

from chatsite.environment import BASE_DIR
from messaging.errors import Unavailable
from messaging.live import metrics
from messaging.live.changes import Changes
from messaging.live.hub import Hub, HubListener
from messaging.live.limits import Limits
from messaging.live.notifier import Notifier
from messaging.live.registry import Registry
from messaging.live.retry import Retry
from messaging.live.sending import Sender
from messaging.monitoring import health
from messaging.monitoring.status import last_hour
from messaging.policy import Policy
from messaging.protocol import Reject, Send
from messaging.store import Store, connections
from messaging.store.expiry import Expiry
from messaging.store.records import Counts, Held
from messaging.store.stats import COUNTED
from messaging.web import probes
from tests.support.clients import Wire, new_id
from tests.support.messages import ADA, ALAN, GRACE, ROOM, accept, acknowledge, expire, message
from tests.support.sites import Site, later, people, room
from tests.support.sockets import open_feed, until

Open = Callable[..., Any]
TOKEN = "a long enough token".replace(" ", "-")


SITE = metrics.Site(
    store_losses_last_week=1,
    store_lost_messages_last_week=7,
    expired_due=3,
    expired_due_seconds=61.5,
    expired_last_hour=9,
    expired_to_all_last_hour=5,
    expired_missed_last_hour=4,
    missed={"offline": 6, "no_ack": 1},
)
OF_THE_SITE = ("chat_expired_", "chat_missed_", "chat_store")


def samples(page: str) -> dict[str, float]:
    """Return {name{labels}: value} of a page; every sample must name its process, except those of the whole site."""
    numbers = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = dict(sample.labels)
            if sample.name.startswith(OF_THE_SITE):
                assert "process" not in labels, "two processes would be summed"
            else:
                assert labels.pop("process").isdigit()
            numbers[sample.name + "".join(f"{{{name}={value}}}" for name, value in labels.items())] = (
                sample.value
            )
    return numbers


# Counters of a process


def test_the_page_has_every_number_with_the_process_and_no_other_label() -> None:
    numbers = samples(metrics.page().decode())
    totals = {f"chat_{field.name}_total" for field in dataclasses.fields(metrics.Done)}
    assert totals <= set(numbers)
    assert {"chat_connections", "chat_commit_batch_sum", "chat_process_cpu_seconds_total"} <= set(numbers)
    assert not any("room" in name or "user" in name for name in numbers)


def test_a_batch_is_in_the_first_bucket_that_holds_it_and_in_all_above() -> None:
    before = samples(metrics.page().decode())
    for size in (1, 3, 400, 401):
        metrics.committed(size)
    after = samples(metrics.page().decode())
    grown = {name: after[name] - before[name] for name in after if name.startswith("chat_commit_batch")}
    assert grown["chat_commit_batch_bucket{le=1.0}"] == 1
    assert grown["chat_commit_batch_bucket{le=2.0}"] == 1
    assert grown["chat_commit_batch_bucket{le=5.0}"] == 2
    assert grown["chat_commit_batch_bucket{le=400.0}"] == 3
    assert grown["chat_commit_batch_bucket{le=+Inf}"] == grown["chat_commit_batch_count"] == 4
    assert grown["chat_commit_batch_sum"] == 805


def test_site_wide_numbers_have_no_process_label() -> None:
    numbers = samples(metrics.page(SITE).decode())
    assert {name: value for name, value in numbers.items() if name.startswith(OF_THE_SITE)} == {
        "chat_expired_due": 3,
        "chat_expired_due_seconds": 61.5,
        "chat_expired_last_hour": 9,
        "chat_expired_to_all_last_hour": 5,
        "chat_expired_missed_last_hour": 4,
        "chat_missed_last_hour{reason=no_ack}": 1,
        "chat_missed_last_hour{reason=offline}": 6,
        "chat_store_losses_last_week": 1,
        "chat_store_lost_messages_last_week": 7,
    }
    assert numbers.keys() >= samples(metrics.page().decode()).keys()


@pytest.mark.usefixtures("transactional_db")
async def test_delay_of_expiry_and_missed_recipients_come_from_the_store(store: Store) -> None:
    await accept(store, message(), message(), message())
    await acknowledge(store, GRACE, 3)
    await acknowledge(store, ALAN, 1)
    await expire(store, 1, 2, 3, late_ms=90_000)
    await store.expiry.finalize(await store.expiry.read(await store.expiry.claim("t", limit=2)))
    page = await told(AsyncRequestFactory().get("/metrics"))
    numbers = samples(page.content.decode())
    assert 90 <= numbers.pop("chat_expired_due_seconds") < 120
    assert {name: value for name, value in numbers.items() if name.startswith(OF_THE_SITE) and value} == {
        "chat_expired_due": 1,
        "chat_expired_last_hour": 2,
        "chat_expired_to_all_last_hour": 1,
        "chat_expired_missed_last_hour": 1,
        "chat_missed_last_hour{reason=offline}": 1,
    }


async def test_process_numbers_are_shown_without_the_store(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: Expiry) -> None:
        raise Unavailable()

    monkeypatch.setattr(Expiry, "overdue", away)
    page = await told(AsyncRequestFactory().get("/metrics"))
    assert page.status_code == 200
    assert samples(page.content.decode()).keys() == samples(metrics.page().decode()).keys()


def read_page(site: Site, **headers: str) -> tuple[int, str]:
    try:
        request = urllib.request.Request(f"{site.origin}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, ""


async def test_a_server_counts_what_its_clients_do(new_site: Callable[..., Site], open_wire: Open) -> None:
    site = new_site(ack_timeout_s=0.2, backoff_cap_s=0.2, attempts_max=2)
    ada, grace = await later(people)("ada", "grace")
    room_id = await later(room)(ada, grace)
    wires: list[Wire] = []
    for member in (ada, grace):
        wires.append(await open_wire(site, member))
        await wires[-1].hello()
        await wires[-1].next("resumed", room=room_id)
    period = {"type": "send", "id": new_id(), "room": room_id, "body": "hello"}
    await wires[0].send(period)
    await wires[0].next("sent")
    await wires[0].send(period)
    await wires[0].next("sent", duplicate=True)
    await wires[0].send({**period, "body": "other"})
    await wires[0].next("error", code="id_reused")
    pushed = await wires[1].next("message", attempt=2)
    place = {"room": room_id, "epoch": pushed["epoch"]}
    await wires[1].send({"type": "reject", **place, "seq": pushed["seq"], "reason": "unreadable"})
    await wires[1].send({"type": "ack", "rooms": [{**place, "delivered": pushed["seq"]}]})
    await wires[1].fence()

    async def counted(**wanted: int) -> dict[str, float]:
        async with asyncio.timeout(5):
            while True:
                _, page = await asyncio.to_thread(read_page, site)
                numbers = samples(page)
                if all(numbers[f"chat_{name}"] == number for name, number in wanted.items()):
                    return numbers
                await asyncio.sleep(0.05)

    numbers = await counted(acknowledgements_total=1, rejected_total=1)
    assert {
        name: numbers[f"chat_{name}_total"] for name in ("accepted", "repeated", "retried", "gave_up")
    } == {
        "accepted": 1,
        "repeated": 1,
        "retried": 2,
        "gave_up": 1,
    }
    assert numbers["chat_refused_total{code=id_reused}"] == 1
    assert numbers["chat_frames_total"] == 8
    assert numbers["chat_connections"] == 2
    assert numbers["chat_commit_batch_sum"] == 3
    assert numbers["chat_handler_failures_total"] == 0
    await wires[0].aclose()
    await counted(connections=1)


# Access


@pytest.fixture
def token(settings: Any) -> str:
    settings.METRICS_TOKEN = TOKEN
    return TOKEN


async def status(headers: dict[str, str] | None = None, *, address: str) -> int:
    """Ask as somebody at `address`; '' stands for a unix socket."""
    request = AsyncRequestFactory().get("/metrics", headers=headers)
    del request.META["REMOTE_ADDR"]
    if address:
        request.META["REMOTE_ADDR"] = address
    return int((await told(request)).status_code)


async def told(request: Any) -> Any:
    """Return the text of the page; close its connections."""
    try:
        return await probes.metrics(request)
    finally:
        await connections.close()


@pytest.mark.usefixtures("transactional_db")
@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", 200), ("127.9.9.9", 200), ("::1", 200), ("10.0.0.7", 404), ("192.0.2.1", 404), ("", 404)],
)
async def test_local_requests_may_read_it_and_others_get_404(address: str, expected: int) -> None:
    assert await status(address=address) == expected


@pytest.mark.parametrize(
    "header", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"]
)
async def test_a_proxy_on_this_machine_does_not_make_everybody_local(header: str) -> None:
    assert await status({header: "192.0.2.1"}, address="127.0.0.1") == 404


@pytest.mark.usefixtures("transactional_db")
async def test_token_gives_access_from_every_address(token: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "192.0.2.1"}
    assert await status(headers, address="10.0.0.7") == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer wrong", TOKEN, f"Basic {TOKEN}", "Bearer \xe9"]
)
async def test_a_wrong_token_is_refused_even_for_local_requests(token: str, given: str) -> None:
    assert await status({"Authorization": given}, address="127.0.0.1") == 403


async def test_no_token_is_accepted_when_none_is_set() -> None:
    assert await status({"Authorization": "Bearer "}, address="10.0.0.7") == 403


async def test_writing_to_it_is_refused() -> None:
    answer = await AsyncClient().post("/metrics")
    assert answer.status_code == 405


def test_the_metrics_page_names_every_number() -> None:
    page = (BASE_DIR / "docs" / "reference" / "metrics.md").read_text()
    names = {name.partition("{")[0] for name in samples(metrics.page(SITE).decode())} | {"chat_refused_total"}
    own = {name for name in names if not name.startswith(("chat_process_", "chat_commit_batch_"))}
    assert {name for name in own | {"chat_commit_batch"} if f"`{name}`" not in page} == set()


# Counters of the site, by minute and day


async def counted(store: Store) -> dict[str, int]:
    """Return the counters of today; those of the last hour must be equal."""
    [today] = await store.stats.counts("day", 1)
    numbers = {what: getattr(today, what) for what in COUNTED}
    hour = await last_hour(store)
    assert {what: getattr(hour, what) for what in COUNTED} == numbers
    return {what: number for what, number in numbers.items() if number}


class TestStore:
    async def test_inactive_site_has_zero_counts(self, store: Store) -> None:
        minutes = await store.stats.counts("minute", 60)
        assert len(minutes) == 60
        assert [minute.at - minutes[0].at for minute in minutes] == [60_000 * n for n in range(60)]
        assert minutes[-1].at <= await store.now_ms() < minutes[-1].at + 120_000
        assert {dataclasses.replace(minute, at=0) for minute in minutes} == {Counts(at=0)}

    async def test_a_repeated_message_is_accepted_once(self, store: Store) -> None:
        first, again = message(), message()
        await accept(store, first, again, first)
        await accept(store, again)
        await store.log.append([message(user=99)])
        assert await counted(store) == {"accepted": 2}

    async def test_messages_are_delivered_as_cursors_pass_them(self, store: Store) -> None:
        await accept(store, message(), message(), message())
        await acknowledge(store, GRACE, 2)
        await acknowledge(store, GRACE, 2)
        await acknowledge(store, GRACE, 1)
        await acknowledge(store, ALAN, 3, 3)
        assert await counted(store) == {"accepted": 3, "delivered": 5}

    async def test_holes_are_not_delivered(self, store: Store) -> None:
        await accept(store, message(), message(), message())
        await store.client.zremrangebyscore(f"{ROOM.key}:live", 2, 2)
        await acknowledge(store, GRACE, 3)
        assert (await counted(store))["delivered"] == 2

    async def test_a_since_that_counts_as_an_ack_delivers(self, store: Store) -> None:
        [accepted] = await accept(store)
        for _ in range(2):
            await store.members.member_positions(GRACE, [(ROOM, Held(accepted.epoch, 1))])
        assert (await counted(store))["delivered"] == 1

    async def test_attempts_count_once_and_the_last_is_giving_up(self, store: Store) -> None:
        store._calls.policy = Policy(attempts_max=2)
        await accept(store)
        for expected in (0, 0, 1):
            await store.retries.record_attempt(ROOM, GRACE, expected, 5.0)
        assert await counted(store) == {"accepted": 1, "retried": 2, "gave_up": 1}

    async def test_partitions_and_hours_add_up(self, store: Store) -> None:
        now_ms = await store.now_ms()
        minute, day = now_ms // 60_000, now_ms // 86_400_000
        for partition in (0, 63):
            prefix = f"chat:{{{partition}}}:counts:"
            for back in (0, 61, 47 * 60):
                at = minute - back
                await store.client.hincrby(f"{prefix}hour:{at // 60}", f"{at}|accepted", 2)
            for back in (0, 31, 89):
                at = day - back
                await store.client.hincrby(f"{prefix}days:{at // 30}", f"{at}|accepted", 3)
        minutes = await store.stats.counts("minute", 48 * 60)
        assert sum(period.accepted for period in minutes) == 12
        assert {(period.at // 60_000, period.accepted) for period in minutes if period.accepted} == {
            (minute - back, 4) for back in (0, 61, 47 * 60)
        }
        days = await store.stats.counts("day", 90)
        assert [period.accepted for period in days if period.accepted] == [6, 6, 6]

    async def test_counters_expire_and_are_few_and_small(self, store: Store) -> None:
        await accept(store, *(message() for _ in range(100)))
        await acknowledge(store, GRACE, 100)
        await store.retries.record_attempt(ROOM, ALAN, 0, 5.0)
        keys = [key.decode() async for key in store.client.scan_iter("*counts*")]
        assert sorted(key.split(":")[-2] for key in keys) == ["days", "hour"]
        lives = {key.split(":")[-2]: await store.client.ttl(key) for key in keys}
        assert 48 * 3_600 < lives["hour"] <= 49 * 3_600
        assert 120 * 86_400 < lives["days"] <= 121 * 86_400

    async def test_a_full_store_still_counts_what_it_does(self, store: Store) -> None:
        await accept(store)
        await store.client.config_set("maxmemory", 1)
        try:
            await acknowledge(store, GRACE, 1)
            [today] = await store.stats.counts("day", 1)
        finally:
            await store.client.config_set("maxmemory", 0)
        assert today.delivered == 1


async def test_doctor_reports_the_counts_of_the_last_hour(store: Store) -> None:
    await accept(store, message(), message())
    await store.retries.record_attempt(ROOM, GRACE, 0, 5.0)
    facts = (await asyncio.to_thread(health.store)).facts
    numbers = {name: value for name, value in facts.items() if name.endswith("_last_hour")}
    assert numbers == {"accepted_last_hour": 2, "retried_last_hour": 1, "gave_up_last_hour": 0}


# The log


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the text, level and fields of every line of the messages."""
    standard = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
    return [
        {"level": record.levelname, "says": record.getMessage()}
        | {name: value for name, value in vars(record).items() if name not in standard}
        for record in caplog.records
        if record.name.startswith("messaging.")
    ]


class TestLog:
    async def test_every_retry_and_the_last_attempt_have_a_line(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        policy = Policy(ack_timeout_s=0.05, backoff_cap_s=0.05, attempts_max=2)
        store._calls.policy = policy
        registry = Registry()
        retry = Retry(store, registry, policy)
        hub = Hub(registry, policy, HubListener(pushed=retry.pushed))
        hearing = asyncio.ensure_future(hub.run())
        connection, _, _ = await open_feed(store, hub, GRACE)
        await accept(store, message("a secret"))
        await until(lambda: any(line["says"] == "gave up" for line in lines(caplog)))
        registry.leave(connection)
        retry.forget(connection)
        await connection.finish()
        hearing.cancel()
        ids = {"room": ROOM.id, "user": GRACE, "connection": connection.id}
        assert lines(caplog) == [
            {"level": "INFO", "says": "retry", **ids, "attempt": 1, "reason": "unacknowledged"},
            {"level": "INFO", "says": "retry", **ids, "attempt": 2, "reason": "unacknowledged"},
            {"level": "WARNING", "says": "gave up", **ids, "attempt": 2, "reason": "no_ack"},
        ]

    @pytest.mark.parametrize(("level", "shown"), [(logging.DEBUG, True), (logging.INFO, False)])
    async def test_an_acceptance_has_a_line_at_debug_level_only_and_never_its_text(
        self, store: Store, caplog: pytest.LogCaptureFixture, level: int, shown: bool
    ) -> None:
        caplog.set_level(level, logger="messaging")
        hub, connection = await served(store, ADA)
        sender = Sender(store, Limits(hub.policy), hub.policy)
        frame = Send(id=new_id(), room=ROOM.id, body="a secret")
        sender.send(connection, frame)
        await sender._committer
        await connection.finish()
        own = {"room": ROOM.id, "user": ADA, "seq": 1, "message_id": frame.id, "connection": connection.id}
        numbers = [line for line in lines(caplog) if line["says"] == "accepted"]
        assert numbers == ([{"level": "DEBUG", "says": "accepted", **own}] if shown else [])
        assert "a secret" not in caplog.text

    async def test_a_rejection_has_a_line_without_the_text_of_the_client(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        [accepted] = await accept(store)
        hub, connection = await served(store, GRACE)
        notifier = Notifier(store, hub.registry, hub.policy)
        changes = Changes(store, hub, Limits(hub.policy), notifier, hub.policy)
        for _ in range(2):
            await changes.reject(
                connection, Reject(room=ROOM.id, epoch=accepted.epoch, seq=1, reason="a secret\n")
            )
        await connection.finish()
        ids = {"room": ROOM.id, "user": GRACE, "seq": 1, "connection": connection.id}
        assert lines(caplog) == [{"level": "INFO", "says": "rejected", **ids, "reason": "client_rejected"}]


async def served(store: Store, user: int) -> tuple[Hub, Any]:
    """Return the hub of a process and a connection in the room."""
    hub = Hub(Registry(), Policy(), HubListener())
    hearing = asyncio.ensure_future(hub.run())
    connection, _, _ = await open_feed(store, hub, user)
    hearing.cancel()
    return hub, connection
