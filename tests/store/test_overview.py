"""The front page of staff: figures that equal an independent count, banners, and few round trips."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils.translation import override

from messaging.admin import overview
from messaging.bridge import in_db_thread
from messaging.expiry import job as expiry
from messaging.expiry import resend
from messaging.expiry.job import ExpiryOptions
from messaging.jobs import schedules as jobs
from messaging.models import DeadLetter, Room
from messaging.monitoring import site_figures
from messaging.monitoring.faults import MAX_JOB_GAP_S
from messaging.monitoring.site_figures import Account, Figures
from messaging.rooms.memberships import key_of
from messaging.store import connections, open_store
from messaging.store.records import Append, RoomKey
from messaging.store.stats import COUNTED, JOBS_KEY
from tests.store.test_store_speed import MOST_US, slowest_us
from tests.support.messages import accept, acknowledge, due, expire, new_id
from tests.support.people import person, room_of
from tests.support.sites import StoreProcess

ROOT = Path(__file__).parents[2]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every request count again."""
    monkeypatch.setattr(site_figures, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(site_figures, "_kept", site_figures._Kept())


async def figures() -> Figures:
    return await in_db_thread(site_figures.figures)


async def banners() -> set[str]:
    return {fault.key for fault in (await figures()).faults()}


async def cards() -> dict[str, overview.Card]:
    with override("en"):
        return {card.key: card for card in overview.cards(await figures())}


async def staff_client(**fields: Any) -> Client:
    user = await person("operator", is_staff=True, **fields)
    client = Client()
    await in_db_thread(client.force_login, user, BACKEND)
    return client


class Talking:
    """A room with its people, and a separate record of the outcome of its messages."""

    def __init__(self, room: Room, *people: User) -> None:
        self.room = key_of(room)
        self.people = people
        self.store = open_store()

    async def say(self, sender: User, **fields: Any) -> int:
        given = {"ttl_ms": HOUR_MS, "name": sender.username, "body": "hello"} | fields
        [accepted] = await accept(self.store, Append(room=self.room, user=sender.pk, id=new_id(), **given))
        return accepted.seq

    async def ack(self, seq: int, *users: User) -> None:
        for user in users:
            await acknowledge(self.store, user.pk, seq, room=self.room)

    async def end(self, *seqs: int) -> None:
        """Let messages expire, and let the job report them."""
        await expire(self.store, *seqs, room=self.room)
        await due(self.store, *seqs, room=self.room)
        await expiry.process(ExpiryOptions())

    async def delete(self, user: User, seq: int) -> None:
        await self.store.changes.delete(self.room, user.pk, None, seq, open_history=False)


async def counted_by_hand() -> dict[str, int]:
    """Count the messages of the store key by key, and the undelivered ones one by one."""
    client = open_store().client
    live = way = 0
    async for key in client.scan_iter(match="*:live"):
        room = key.decode().removesuffix(":live")
        cursors = {
            int(user): int(seq)
            for user, seq in await client.zrange(f"{room}:delivered", 0, -1, withscores=True)
        }
        for entry, _ in await client.zrange(key, 0, -1, withscores=True):
            seq, sender, _id, *untracked = entry.decode().split("|")
            only = await client.hget(f"{room}:only", seq)
            addressed = set(cursors) if only is None else {int(user) for user in only.decode().split(",")}
            behind = {user for user in addressed - {int(sender)} if cursors.get(user, 1 << 60) < int(seq)}
            live += 1
            way += bool(behind) and not untracked
    return {"live": live, "way": way, "letters": await DeadLetter.objects.acount()}


@pytest.mark.usefixtures("verbs")
class TestAccount:
    async def test_account_equals_a_count_of_store_and_database(self) -> None:
        ada, grace, bob = [await person(name) for name in ("ada", "grace", "bob")]
        atlas = Talking(await room_of(ada, grace, bob), ada, grace, bob)
        other = Talking(await room_of(grace, bob, name="Borealis"), grace, bob)

        held = await atlas.say(ada)
        await atlas.ack(held, ada, grace, bob)
        missed = await atlas.say(ada)
        deleted = await atlas.say(grace)
        await atlas.ack(deleted, grace)
        live_and_held = await other.say(grace)
        await other.ack(live_and_held, grace, bob)
        lagged = await other.say(bob)
        await atlas.delete(grace, deleted)
        await atlas.end(held, missed)
        letter = await DeadLetter.objects.aget()
        resent = (await resend.resend(letter.pk, by=ada.pk)).answer.seq
        untracked = await other.say(grace, tracked=False)
        assert lagged < untracked

        result = (await figures()).account
        by_hand = await counted_by_hand()
        assert result == Account(
            days=30,
            accepted=7,  # the resend is one too
            with_everyone=1 + by_hand["live"] - by_hand["way"],
            on_the_way=by_hand["way"],
            missed=by_hand["letters"],
            deleted=1,
        )
        assert (by_hand["live"], by_hand["way"], by_hand["letters"]) == (4, 2, 1)
        assert result.unaccounted == 0

        await atlas.ack(resent, grace, bob)
        await atlas.end(resent)
        await other.end(lagged, untracked, live_and_held)
        last = (await figures()).account
        assert last is not None
        assert (last.accepted, last.with_everyone, last.on_the_way, last.deleted) == (7, 4, 0, 1)
        assert last.missed == await DeadLetter.objects.acount() == 2
        assert last.unaccounted == 0

    async def test_a_deleted_message_whose_row_still_waits_is_not_stored(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        seq = await atlas.say(ada)
        assert (await figures()).account.on_the_way == 1  # type: ignore[union-attr]
        await atlas.delete(ada, seq)
        await atlas.delete(ada, seq)
        for _ in range(2):  # before and after its row is cleared
            result = (await figures()).account
            assert result is not None
            assert (result.with_everyone, result.on_the_way, result.deleted, result.unaccounted) == (
                0,
                0,
                1,
                0,
            )
            assert await atlas.store.stats.count_messages() == 0
            await atlas.end(seq)

    async def test_a_message_ended_by_a_shorter_lifetime_is_counted_once_while_screens_may_show_it(
        self,
    ) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        seq = await atlas.say(ada)
        await atlas.ack(seq, grace)
        await atlas.store.client.hset(
            f"{atlas.room.key}:msg:{seq}", "sent_at", await atlas.store.now_ms() - HOUR_MS
        )
        await atlas.store.changes.shorten(atlas.room, 10)
        await due(atlas.store, seq, room=atlas.room)
        await expiry.process(ExpiryOptions())
        assert await atlas.store.client.zscore(f"{atlas.room.prefix}expiring", f"{atlas.room.id}|{seq}")
        result = (await figures()).account
        assert result is not None
        assert (result.with_everyone, result.unaccounted, await atlas.store.stats.count_messages()) == (
            1,
            0,
            0,
        )

    async def test_ended_messages_are_counted_under_the_day_of_acceptance(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        now_ms = await atlas.store.now_ms()
        for days, counts in ((28, True), (31, False)):
            seq = await atlas.say(ada)
            await atlas.ack(seq, grace)
            sent_at = now_ms - days * DAY_MS
            await atlas.store.client.hset(f"{atlas.room.key}:msg:{seq}", "sent_at", sent_at)
            before = (await atlas.store.stats.message_totals(30)).held
            await atlas.end(seq)
            assert (await atlas.store.stats.message_totals(30)).held - before == counts
            assert (await atlas.store.stats.message_totals(32)).held >= 1

    async def test_a_message_that_the_store_has_lost_is_unaccounted_for(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        await atlas.say(ada)
        seq = await atlas.say(ada)
        assert "messages_unaccounted" not in await banners()
        await atlas.store.client.zrem(f"{atlas.room.prefix}expiring", f"{atlas.room.id}|{seq}")
        assert (await figures()).account.unaccounted == 1  # type: ignore[union-attr]
        assert "messages_unaccounted" in await banners()

    async def test_no_message_is_reported_lost_while_letters_are_being_written(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        seq = await atlas.say(ada)
        await atlas.end(seq)
        await atlas.say(ada)
        letter = await DeadLetter.objects.aget()  # written, and the store has not forgotten its message yet
        await DeadLetter.objects.acreate(
            id="0" * 32,
            **{
                field.attname: getattr(letter, field.attname)
                for field in DeadLetter._meta.concrete_fields
                if field.attname not in ("id", "message_id")
            },
            message_id="another",
        )
        result = (await figures()).account
        assert result is not None
        assert result.unaccounted == -1
        assert "messages_unaccounted" not in await banners()
        with override("en"):
            last = {part.key: part.number for part in overview.account_parts(result)}
        assert (last["twice"], last["unaccounted"]) == ("1", "0")


@pytest.mark.usefixtures("verbs")
class TestOnTheWay:
    @pytest.mark.parametrize("seed", range(4))
    async def test_undelivered_messages_are_those_above_the_cursor_of_another_member(self, seed: int) -> None:
        chance = random.Random(seed)
        people = [await person(name) for name in ("ada", "grace", "bob")]
        atlas = Talking(await room_of(*people), *people)
        top = 0
        for _ in range(40):
            who = chance.choice(people)
            if chance.random() < 0.6:
                only = (
                    tuple(item.pk for item in people if chance.random() < 0.4)
                    if chance.random() < 0.3
                    else ()
                )
                top = await atlas.say(who, only=only, tracked=chance.random() < 0.8)
            elif top:
                await atlas.ack(chance.randint(1, top), who)
            [lacking] = await atlas.store.retries.count_undelivered([atlas.room])
            assert lacking == (await counted_by_hand())["way"]

    async def test_every_message_of_a_far_lagging_member_counts(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        fields = {"room": atlas.room, "user": ada.pk, "name": "ada", "body": "x", "ttl_ms": HOUR_MS}
        await accept(atlas.store, *(Append(id=new_id(), **fields) for _ in range(1_200)))
        assert await atlas.store.retries.count_undelivered([atlas.room]) == [1_200]
        assert await atlas.store.retries.count_undelivered([RoomKey("nowhere", 3)]) == [0]


@pytest.mark.usefixtures("verbs")
class TestCards:
    async def test_cards_count_lagging_and_parked_members_and_ended_messages(self) -> None:
        ada, grace, bob = [await person(name) for name in ("ada", "grace", "bob")]
        atlas = Talking(await room_of(ada, grace, bob))
        store = atlas.store
        await store.presence.report("p1", [ada.pk, grace.pk], 60)
        first = await atlas.say(ada)
        await store.client.hset(
            f"{atlas.room.key}:msg:{first}", "sent_at", await store.now_ms() - 2 * HOUR_MS
        )
        await store.retries.record_attempt(atlas.room, grace.pk, 0, 30.0)
        result = await cards()
        assert {key: result[key].value for key in ("stored", "lagging", "parked", "retrying", "gave_up")} == {
            "stored": "1",
            "lagging": "1",
            "parked": "1",
            "retrying": "1",
            "gave_up": "0",
        }
        assert result["oldest"].value == "2 h"
        assert re.fullmatch(r"next in (29|30) s", result["retrying"].note)
        assert (result["connections"].value, result["connections"].note) == ("2", "on 1 server process")
        assert not result["gave_up"].needs_attention
        await store.presence.report("p1", [ada.pk], 60)
        assert (await cards())["retrying"].note == "next attempt when they reconnect", (
            "nothing is pushed to offline members"
        )
        await store.presence.report("p1", [ada.pk, grace.pk], 60)

        for attempt in range(1, 8):
            await store.retries.record_attempt(atlas.room, grace.pk, attempt, 30.0)
        await atlas.end(first)
        seq = await atlas.say(bob)
        for attempt in range(8):
            await store.retries.record_attempt(atlas.room, grace.pk, attempt, 30.0)
        result = await cards()
        assert (result["letters"].value, result["letters"].needs_attention) == ("1", True)
        assert (result["expired"].value, result["expired"].note) == ("1", "1 missed by someone")
        assert result["gave_up"].value == "1"
        assert result["gave_up"].needs_attention
        await atlas.ack(seq, ada, grace)
        assert (await cards())["gave_up"].value == "0"

    async def test_the_last_day_is_24_hours_to_the_minute(self) -> None:
        store = open_store()
        now = await store.now_ms() // 60_000
        for minutes, number in ((0, 1), (59, 2), (1_439, 4), (1_441, 64), (2_000, 128)):
            key = f"chat:{{{minutes % 64}}}:counts:hour:{(now - minutes) // 60}"
            await store.client.hincrby(key, f"{now - minutes}|expired", number)
            await store.client.hincrby(key, "all|expired", number)
        assert (await store.stats.last_day(["expired"])).expired == 7

    async def test_a_selection_of_the_counts_equals_the_whole(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        seq = await atlas.say(ada)
        await atlas.ack(seq, grace)
        await atlas.end(seq)
        for unit in ("minute", "day"):
            whole = await atlas.store.stats.counts(unit, 3)
            selected = await atlas.store.stats.counts(unit, 3, only=("accepted", "delivered", "expired"))
            assert [(item.accepted, item.delivered, item.expired) for item in selected] == [
                (item.accepted, item.delivered, item.expired) for item in whole
            ]
            assert sum(item.accepted for item in selected) == 1


@pytest.mark.usefixtures("verbs")
class TestBanners:
    async def test_missing_worker_has_a_banner(self) -> None:
        store = open_store()
        assert "worker_never" in await banners()
        never = (await cards())["workers"]
        assert (never.value, never.note) == ("never", "expected every minute")
        for age_s, silent in ((MAX_JOB_GAP_S - 5, False), (MAX_JOB_GAP_S + 5, True)):
            at = await store.now_ms() - int(age_s * 1000)
            await store.client.hset(JOBS_KEY, "retry_undelivered", f'{{"at": {at}}}')
            assert ("worker_silent" in await banners()) is silent
            workers = (await cards())["workers"]
            assert (workers.needs_attention, workers.note) == (silent, "ago (expected every minute)")
        await in_db_thread(jobs.retry_undelivered)
        assert await banners() == {"expiry_never"}, "its job stopped although another one runs"
        await in_db_thread(jobs.process_expired)
        assert await banners() == set()

    @pytest.mark.parametrize(
        ("key", "setting", "wrong", "right"),
        [
            ("store_unlogged", "appendonly", "no", "yes"),
            ("store_evicts", "maxmemory-policy", "allkeys-lru", "noeviction"),
        ],
    )
    async def test_an_unsafe_store_has_a_banner(self, key: str, setting: str, wrong: str, right: str) -> None:
        client = open_store().client
        try:
            await client.config_set(setting, wrong)
            assert key in await banners()
        finally:
            await client.config_set(setting, right)
        assert key not in await banners()

    async def test_a_nearly_full_store_has_a_banner(self) -> None:
        client = open_store().client
        used = int((await client.info("memory"))["used_memory"])
        try:
            for share, full in ((0.5, False), (0.9, True)):
                await client.config_set("maxmemory", int(used / share))
                assert ("store_full" in await banners()) is full
                assert (await cards())["memory"].needs_attention is full
        finally:
            await client.config_set("maxmemory", 0)
        assert "store_full" not in await banners()

    async def test_a_failed_write_to_disk_has_a_banner(self) -> None:
        result = await figures()
        assert result.store is not None
        memory = dataclasses.replace(result.store.memory, written=False)
        failed = dataclasses.replace(result, store=dataclasses.replace(result.store, memory=memory))
        assert {fault.key for fault in failed.faults()} - await banners() == {"store_unwritten"}

    async def test_a_full_disk_has_a_banner_also_while_the_store_is_down(self) -> None:
        full = dataclasses.replace(await figures(), disk_free_bytes=0)
        assert {fault.key for fault in full.faults()} - await banners() == {"disk_full"}
        down = dataclasses.replace(full, store=None, account=None)
        assert [fault.key for fault in down.faults()] == ["disk_full", "store_unreachable"]

    async def test_late_expiry_has_a_banner(self) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        seq = await atlas.say(ada)
        await expire(atlas.store, seq, room=atlas.room)
        for late_s, late in ((170, False), (190, True)):
            due_at = await atlas.store.now_ms() - late_s * 1000
            await atlas.store.client.zadd(f"{atlas.room.prefix}expiring", {f"{atlas.room.id}|{seq}": due_at})
            assert ("expiry_late" in await banners()) is late
        await expiry.process(ExpiryOptions())
        assert "expiry_late" not in await banners()

    async def test_worst_banner_comes_first_in_both_languages(self) -> None:
        result = await figures()
        store = result.store
        assert store is not None
        assert result.account is not None
        worst = dataclasses.replace(
            result,
            store=dataclasses.replace(
                store,
                runs={"retry_undelivered": store.now_ms - DAY_MS},
                memory=dataclasses.replace(
                    store.memory, used=9, limit=10, policy="allkeys-lru", logged=False, written=False
                ),
                overdue=dataclasses.replace(store.overdue, due=1, oldest_s=500.0),
            ),
            account=dataclasses.replace(result.account, accepted=5),
        )
        assert [fault.key for fault in worst.faults()] == [
            "store_evicts",
            "messages_unaccounted",
            "store_unlogged",
            "store_unwritten",
            "worker_silent",
            "expiry_late",
            "store_full",
        ]
        texts = {}
        for language in ("en", "zh-hans"):
            with override(language):
                texts[language] = {(fault.sentence, fault.remedy) for fault in worst.faults()}
        assert not {text for row in texts["en"] for text in row} & {
            text for row in texts["zh-hans"] for text in row
        }

    async def test_a_command_is_shown_as_code(self) -> None:
        staff = await staff_client()
        page = (await in_db_thread(staff.get, "/admin/overview/")).content.decode()
        assert 'data-banner="worker_never"' in page
        assert "Start a worker: <code>manage.py worker</code>." in page
        assert "`" not in page


# ── The page ──


@pytest.fixture
async def lost_store(settings: Any, transactional_db: None) -> AsyncIterator[StoreProcess]:
    """A separate store that the test may kill."""
    process = StoreProcess(Path(tempfile.mkdtemp(prefix="chat-store-")))
    process.start()
    process.wait_until_ready()
    messages = {**settings.CACHES[connections.MESSAGES], "LOCATION": process.url}
    settings.CACHES = {**settings.CACHES, connections.MESSAGES: messages}
    yield process
    process.kill()
    await connections.close()


class TestPage:
    async def test_page_of_a_killed_store_reports_it_and_shows_the_data_of_the_database(
        self, lost_store: StoreProcess
    ) -> None:
        client = await staff_client(is_superuser=True)
        ada, grace = [await person(name) for name in ("ada", "grace")]
        atlas = Talking(await room_of(ada, grace))
        await atlas.end(await atlas.say(ada))
        page = await in_db_thread(client.get, "/admin/overview/")
        assert b"cannot be reached" not in page.content

        lost_store.kill()
        for path in ("/admin/", "/admin/messaging/", "/admin/overview/"):
            page = await in_db_thread(client.get, path)
            text = page.content.decode()
            assert page.status_code == 200
            assert text.count("The store cannot be reached.") == 1
            assert re.search(r'data-card="letters".*?<b>.*?1</b>', text, re.DOTALL)
            assert re.search(r'data-card="rooms".*?<b>1</b>', text, re.DOTALL)
            assert "Unaccounted" not in text

        lost_store.start()
        lost_store.wait_until_ready()
        assert "store_unreachable" not in await banners()

    @pytest.mark.usefixtures("verbs")
    async def test_only_staff_see_the_page(self) -> None:
        plain = Client()
        assert (await in_db_thread(plain.get, "/admin/overview/")).status_code == 403
        assert (await in_db_thread(plain.get, "/admin/")).status_code == 302
        user = await person("ada")
        await in_db_thread(plain.force_login, user, BACKEND)
        assert (await in_db_thread(plain.get, "/admin/overview/")).status_code == 403
        staff = await staff_client()
        page = await in_db_thread(staff.get, "/admin/overview/")
        assert page.status_code == 200
        assert "no-store" in page["Cache-Control"]
        assert (await in_db_thread(staff.post, "/admin/overview/")).status_code == 405

    @pytest.mark.usefixtures("verbs")
    async def test_a_card_links_to_its_list_for_staff_who_may_see_it(self) -> None:
        staff = await staff_client()
        assert b'href="/admin/messaging/' not in (await in_db_thread(staff.get, "/admin/overview/")).content
        user = await User.objects.aget(username="operator")
        await user.user_permissions.aadd(await Permission.objects.aget(codename="view_deadletter"))
        page = (await in_db_thread(staff.get, "/admin/overview/")).content
        assert b'href="/admin/messaging/deadletter/?state__exact=open"' in page
        assert b'href="/admin/messaging/room/' not in page

    @pytest.mark.usefixtures("verbs")
    async def test_every_card_links_to_an_existing_page(self) -> None:
        staff = await staff_client(is_superuser=True)
        page = (await in_db_thread(staff.get, "/admin/overview/")).content.decode()
        result = dict(re.findall(r'data-card="(\w+)"><a class="ops-card" href="([^"]+)"', page))
        assert result.keys() == overview.LISTS.keys() - {"missed", "rooms", "memberships"}
        for name, path in result.items():
            assert (await in_db_thread(staff.get, path)).status_code == 200, name

    @pytest.mark.usefixtures("verbs")
    async def test_page_shows_no_names_and_no_texts(self) -> None:
        staff = await staff_client(is_superuser=True)
        ada, grace = [await person(name) for name in ("zebra-ada", "zebra-grace")]
        atlas = Talking(await room_of(ada, grace, name="zebra-room"))
        await atlas.end(await atlas.say(ada, body="zebra-text"))
        await atlas.say(ada, body="zebra-text")
        for path in ("/admin/", "/admin/overview/"):
            assert b"zebra" not in (await in_db_thread(staff.get, path)).content

    @pytest.mark.usefixtures("verbs")
    @pytest.mark.parametrize(
        ("language", "word"), [("en", "Dead letters open"), ("zh-hans", "待处理的未送达消息")]
    )
    async def test_page_is_in_both_languages_on_the_front_page_and_that_of_the_app(
        self, language: str, word: str
    ) -> None:
        staff = await staff_client(is_superuser=True)
        for path, shown in (("/admin/", 1), ("/admin/messaging/", 1), ("/admin/auth/", 0)):
            page = await in_db_thread(staff.get, path, headers={"accept-language": language})
            assert page.content.decode().count(word) == shown, path


# ── Costs ──


@pytest.mark.usefixtures("verbs")
class TestCost:
    async def test_ten_concurrent_requests_share_one_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(site_figures, "MAX_AGE_S", 60.0)

        def look_together() -> list[Figures]:
            with ThreadPoolExecutor(10) as staff:
                return list(staff.map(lambda _: site_figures.figures(), range(10)))

        result = await asyncio.to_thread(look_together)
        assert len({id(item) for item in result}) == 1

    async def test_figures_are_counted_again_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(site_figures, "MAX_AGE_S", 60.0)
        first = await figures()
        assert await figures() is first
        now_s = time.monotonic()
        monkeypatch.setattr(site_figures.time, "monotonic", lambda: now_s + 61)
        assert await figures() is not first

    async def test_round_trips_do_not_grow_with_rooms_or_messages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        await figures()  # load the scripts
        asked: list[int] = []
        call = connections.PipelinePool.call

        async def counting(self: Any, commands: Any) -> Any:
            asked.append(len(commands))
            return await call(self, commands)

        async def round_trips() -> int:
            asked.clear()
            await figures()
            return len(asked)

        atlas = Talking(await room_of(ada, grace))
        await atlas.say(ada)
        monkeypatch.setattr(connections.PipelinePool, "call", counting)
        few = await round_trips()
        for number in range(site_figures.ROOM_BATCH - 1):
            room = Talking(await room_of(ada, grace, name=f"room {number}"))
            for _ in range(3):
                await room.say(ada)
        assert (await figures()).store.debt.parked == site_figures.ROOM_BATCH  # type: ignore[union-attr]
        assert await round_trips() == few

    async def test_page_reports_rooms_left_out_above_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ada, grace = [await person(name) for name in ("ada", "grace")]
        for number in range(6):
            await Talking(await room_of(ada, grace, name=f"room {number}")).say(ada)
        assert (await cards())["parked"].value == "6"
        monkeypatch.setattr(site_figures, "MAX_ROOMS", 3)
        result = await figures()
        assert result.store is not None
        assert result.account is not None
        debt = result.store.debt
        assert debt.rooms_left_out == 6 - debt.parked >= 3
        assert result.account.cut
        assert result.account.unaccounted == 0
        assert (await cards())["parked"].note == f"a minimum: {debt.rooms_left_out} rooms not counted"

    async def test_the_account_holds_the_store_for_less_than_5_ms(self) -> None:
        store = open_store()
        today = await store.now_ms() // DAY_MS
        pipeline = store.client.pipeline(transaction=False)
        for partition in range(64):
            for day in range(today - 40, today + 1):
                counts = {f"{day}|{what}": 1 for what in COUNTED | {"held", "deleted"}}
                pipeline.hset(f"chat:{{{partition}}}:counts:days:{day // 30}", mapping=counts)
        await pipeline.execute()
        assert (await store.stats.message_totals(30)).accepted == 64 * 30
        await store.client.config_set("slowlog-log-slower-than", 0)
        try:
            took_us = await slowest_us(store, lambda: store.stats.message_totals(30), command=b"EXEC")
        finally:
            await store.client.config_set("slowlog-log-slower-than", 10_000)
        assert took_us < MOST_US


# ── Its look ──


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


@pytest.fixture
def sheet() -> str:
    return without_comments(ROOT / "static" / "admin" / "ops.css")


def test_the_style_sheet_of_the_staff_keeps_the_rules(sheet: str) -> None:
    assert "!important" not in sheet
    assert not [item for item in re.findall(r"([^{};]+)\{", sheet) if "#" in item], "no rule may select an id"
    assert not re.search(r"\b(?:margin|padding|border)-(?:left|right|top|bottom)\b|\b(?:left|right):", sheet)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|\brgb\(", sheet), "colours are those of the admin"
    defined = set(re.findall(r"(--ops-[\w-]+):", sheet))
    assert set(re.findall(r"var\((--ops-[\w-]+)", sheet)) == defined


def test_every_class_of_the_staffs_pages_has_a_rule_and_every_rule_a_use(sheet: str) -> None:
    ruled = set(re.findall(r"\.(ops-[\w-]+)", sheet))
    pages = [*(ROOT / "templates" / "admin").rglob("*.html"), *(ROOT / "messaging").rglob("*.py")]
    texts = "".join(path.read_text() for path in pages)
    used = set(re.findall(r"\b(ops-[\w-]*[\w])", texts))
    parts = {f"ops-fill-{key}" for key in ("all", "on_the_way", "missed", "deleted")}
    assert used - {"ops-fill"} <= ruled | {"ops-banners"}
    assert ruled <= used | parts
