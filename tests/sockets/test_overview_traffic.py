"""The staff's front page after real traffic: each card and each part of the account equals a separate count.

People talk over sockets to a site whose waits are short; the staff and the job do what they do. The expected figures are counted
here, from the ledgers of the sockets, key by key in the store, and with separate SQL in the database.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from django.db import connection
from django.utils.translation import override

from messaging.admin import overview
from messaging.admin.formatting import age
from messaging.bridge import in_db_thread
from messaging.expiry import job as expiry
from messaging.expiry import letters, requeue
from messaging.expiry.job import ExpiryOptions
from messaging.jobs import schedules as jobs
from messaging.models import DeadLetter
from messaging.monitoring import site_figures
from messaging.monitoring.site_figures import Figures
from messaging.store import connections, open_store
from tests.support.clients import Frame, Wire
from tests.support.expired_records import with_policy
from tests.support.sites import Person, Site, later, people, room, until

MOST = 8  # attempts
QUICK = {
    "ack_timeout_s": 0.1,
    "backoff_cap_s": 0.1,
    "silences_to_close": 99,
    "ttl_min_s": 1,
    "claim_delay_s": 1,
}
BRIEF_S = 1


@dataclasses.dataclass
class Ledger:
    """The frames of the sockets and the actions of the staff, as the test keeps them."""

    accepted: int = 0
    held: int = 0  # ended when everybody had them
    missed: int = 0
    deleted: int = 0


@dataclasses.dataclass
class Everybody:
    """A site's people by name, their rooms and open sockets."""

    site: Site
    open: Callable[..., Any]
    people: dict[str, Person]
    ledger: Ledger
    wires: dict[str, Wire] = dataclasses.field(default_factory=dict)
    epochs: dict[str, str] = dataclasses.field(default_factory=dict)

    async def come(self, *names: str) -> None:
        for name in names:
            self.wires[name] = await self.open(self.site, self.people[name])
            welcome = await self.wires[name].hello()
            self.epochs |= {entry["room"]: entry["epoch"] for entry in welcome["rooms"]}

    async def go(self, name: str) -> None:
        await self.wires.pop(name).aclose()

    async def say(self, name: str, room: str, **fields: Any) -> int:
        sent: Frame = await self.wires[name].post(room, "hello", **fields)
        self.ledger.accepted += 1
        return int(sent["seq"])

    async def hold(self, room: str, seq: int, *names: str) -> None:
        for name in names:
            await self.wires[name].ack(room, self.epochs[room], delivered=seq)

    async def silent(self, name: str, room: str, attempts: int) -> None:
        """Wait until somebody was pushed to so often."""
        await self.wires[name].next("message", within_s=20, room=room, attempt=attempts)


@pytest.fixture
async def everybody(
    new_site: Callable[..., Site],
    open_wire: Callable[..., Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Everybody]:
    """Start a site of the test's own, and make this process one of its: its jobs and its staff's pages."""
    site = await asyncio.to_thread(new_site, **QUICK)
    settings.CACHES = {
        **settings.CACHES,
        connections.MESSAGES: {**settings.CACHES[connections.MESSAGES], "LOCATION": site.store.url},
    }
    layer = settings.CHANNEL_LAYERS["default"]
    hosts = {**layer["CONFIG"], "hosts": [f"{site.store.url}?db=2"]}
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": hosts}}
    with_policy(monkeypatch, **QUICK)
    named = {one.name: one for one in await later(people)("ada", "grace", "bob", "carol", "dora")}
    yield Everybody(site, open_wire, named, Ledger())
    await connections.close()


async def test_every_figure_equals_an_independent_count(everybody: Everybody) -> None:
    here, ledger = everybody, everybody.ledger
    ada, grace, bob, carol, dora = here.people.values()
    atlas = await later(room)(ada, grace, bob, carol)
    pair = await later(room)(ada, grace, name="pair", kind="private")
    away = await later(room)(ada, dora, name="away", kind="private")
    await here.come("ada", "grace", "bob")

    # One ends with everybody; three without carol, who is away, and bob, who is silent.
    held = await here.say("ada", pair, ttl=BRIEF_S)
    await here.hold(pair, held, "grace")
    for _ in range(3):
        last = await here.say("ada", atlas, ttl=BRIEF_S)
    await here.hold(atlas, last, "grace")
    await end_of(here, {pair: held, atlas: last})
    assert (ledger.held, ledger.missed) == (1, 3)
    again, dropped, _ = [letter.pk async for letter in DeadLetter.objects.order_by("seq")]
    [sent_again] = await requeue.requeue([again], by=None)
    assert sent_again.result == "done"
    ledger.accepted += 1
    await in_db_thread(letters.discard, [dropped], None, await open_store().now_ms())

    # Live messages: deleted, with everybody, parked, not shown, given up, still tried.
    gone = await here.say("grace", pair)
    await here.wires["grace"].send({"type": "delete", "room": pair, "epoch": here.epochs[pair], "seq": gone})
    await here.wires["grace"].next("deleted", room=pair, seq=gone)
    ledger.deleted += 1
    await here.hold(pair, await here.say("ada", pair), "grace")
    await here.say("ada", away)
    unshown = await here.say("ada", atlas)
    await here.wires["grace"].send(
        {
            "type": "reject",
            "room": atlas,
            "epoch": here.epochs[atlas],
            "seq": unshown,
            "reason": "cannot be shown",
        }
    )
    await here.wires["grace"].fence()
    await here.hold(atlas, unshown, "grace")
    await here.silent("bob", atlas, MOST)
    await here.wires["grace"].fence()
    await here.say("ada", pair)
    await here.silent("grace", pair, 2)
    await here.go("grace")
    await until(lambda: online(here.site) == {ada.id, bob.id}, what="grace's going")
    await in_db_thread(jobs.retry_undelivered)
    await compare(here)


def online(site: Site) -> set[int]:
    with redis.Redis.from_url(site.store.url, decode_responses=True) as client:
        return set().union(*(online_in(client, one) for one in client.zrange("chat:online", 0, -1)))


# ── The separate account ──


@dataclasses.dataclass
class Found:
    """The contents of the store, read key by key, and of the database."""

    stored: int = 0
    on_the_way: int = 0
    oldest_at: int = 0
    owing: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)  # {(room, user): attempts}
    online: dict[str, set[int]] = dataclasses.field(default_factory=dict)
    beat_at: int = 0
    used: int = 0

    def pairs(self, wanted: Callable[[int, int], bool]) -> int:
        return sum(wanted(user, attempts) for (_, user), attempts in self.owing.items())


def count_keys(site: Site) -> Found:
    found = Found()
    with redis.Redis.from_url(site.store.url, decode_responses=True) as client:
        for key in client.scan_iter("*:live"):
            _count_room(client, key.removesuffix(":live"), found)
        found.online = {one: online_in(client, one) for one in client.zrange("chat:online", 0, -1)}
        found.beat_at = max(json.loads(beat)["at"] for beat in client.hvals("chat:jobs"))
        found.used = client.info("memory")["used_memory"]
    return found


def _count_room(client: redis.Redis, room: str, found: Found) -> None:
    now_ms = client.time()[0] * 1000
    cursors = {
        int(user): int(seq) for user, seq in client.zrange(f"{room}:delivered", 0, -1, withscores=True)
    }
    unshown = {tuple(map(int, row.split("|")[:2])) for row in client.zrange(f"{room}:outcome", 0, -1)}
    attempts = {
        int(user): int(value.split("|")[0]) for user, value in client.hgetall(f"{room}:attempts").items()
    }
    for row, _ in client.zrange(f"{room}:live", 0, -1, withscores=True):
        seq, sender = map(int, row.split("|")[:2])
        message = client.hgetall(f"{room}:msg:{seq}")
        assert int(message["expires_at"]) > now_ms
        only = client.hget(f"{room}:only", seq)
        meant = set(cursors) if only is None else {int(user) for user in only.split(",")}
        below = {user for user in meant - {sender} if cursors[user] < seq}
        lacking = {user for user in below if (seq, user) not in unshown}
        found.stored += 1
        found.on_the_way += bool(below)
        found.owing |= {(room, user): attempts.get(user, 0) for user in lacking}
        if lacking:
            found.oldest_at = min(found.oldest_at or 1 << 60, int(message["sent_at"]))


def online_in(client: redis.Redis, process: str) -> set[int]:
    return {int(user) for user in client.smembers(f"chat:online:{process}")}


def count_rows() -> dict[str, int]:
    """Return {state or `all`: dead letters}."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state, count(*) FROM messaging_deadletter GROUP BY state")
        by_state = dict(cursor.fetchall())
    return by_state | {"all": sum(by_state.values())}


async def compare(here: Everybody) -> None:
    found, rows = count_keys(here.site), await in_db_thread(count_rows)
    figures: Figures = await in_db_thread(site_figures.count)
    store, account, ledger = figures.store, figures.account, here.ledger
    assert store is not None
    assert account is not None
    with override("en"):
        cards = {card.key: card for card in overview.cards(figures)}
        parts = {part.key: part.number for part in overview.account_parts(account)}
    online = set().union(*found.online.values())
    expected = {
        "stored": found.stored,
        "lagging": found.pairs(lambda user, _: user in online),
        "parked": found.pairs(lambda user, _: user not in online),
        "retrying": found.pairs(lambda _, attempts: 0 < attempts < MOST),
        "gave_up": found.pairs(lambda _, attempts: attempts >= MOST),
        "letters": rows["open"],
        "expired": ledger.held + ledger.missed,
        "connections": len(here.wires),
    }
    assert all(expected.values()), "each state is there"
    assert {key: cards[key].value for key in expected} == {key: str(value) for key, value in expected.items()}
    assert cards["expired"].note == f"{ledger.missed} missed by someone"
    assert cards["connections"].note == f"on {len(found.online)} server process"
    assert store.debt.oldest_at == found.oldest_at
    assert cards["oldest"].value == age((store.now_ms - found.oldest_at) / 1000)
    assert store.last_run_at == found.beat_at
    assert cards["workers"].value == age((store.now_ms - found.beat_at) / 1000)
    assert abs(store.memory.used - found.used) < found.used / 20
    assert expected.keys() | {"oldest", "workers", "memory"} == cards.keys(), "every card was counted"

    assert (account.accepted, rows["all"]) == (ledger.accepted, ledger.missed)
    assert parts == {
        "all": str(ledger.held + found.stored - found.on_the_way),
        "on_the_way": str(found.on_the_way),
        "missed": str(rows["all"]),
        "deleted": str(ledger.deleted),
        "unaccounted": "0",
    }
    assert all(number != "0" for key, number in parts.items() if key != "unaccounted"), "each part is there"
    [hour, days] = store.minutes, store.days
    assert sum(one.accepted for one in days) == ledger.accepted
    assert sum(one.expired_missed for one in days) == ledger.missed
    assert len(hour) == 60


async def end_of(here: Everybody, seqs: dict[str, int]) -> None:
    """Wait until messages have expired, and have the job report them."""

    def over() -> bool:
        with redis.Redis.from_url(here.site.store.url, decode_responses=True) as client:
            seconds, _ = client.time()
            keys = [key for room, seq in seqs.items() for key in client.scan_iter(f"*:room:{room}:msg:{seq}")]
            return all(int(client.hget(key, "expires_at") or 0) < seconds * 1000 for key in keys)

    await until(over, what="the end of what lives a second")
    ends_s = time.monotonic() + 20
    while not await in_db_thread(_reported, 3):
        assert time.monotonic() < ends_s
        done = await expiry.process(ExpiryOptions())
        here.ledger.held += done.expired - done.missed
        here.ledger.missed += done.missed
        await asyncio.sleep(0.05)


def _reported(wanted: int) -> bool:
    return DeadLetter.objects.count() == wanted
