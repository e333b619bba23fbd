"""Due messages of every kind under fixed keys and times, the job as a process, and all stored data, to compare runs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.models import Model

from messaging.bridge import in_db_thread, run_async
from messaging.expiry import job as expiry
from messaging.expiry.job import ExpiryOptions
from messaging.models import DeadLetter, Membership, MissedRecipient, Notice, Room
from messaging.rooms.memberships import key_of
from messaging.store import Store, open_store
from messaging.store.records import Append, RoomKey
from messaging.store.stats import JOBS_KEY
from tests.support.expired_records import with_policy
from tests.support.kill_points import Fate
from tests.support.messages import HOUR_MS, accept, acknowledge
from tests.support.sites import POLL_S, _database_url

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
# Short leases. Batches and transactions are so small that a few messages need several.
SHORT = {"lease_s": 1, "claim_delay_s": 1, "claim_max": 3}
NAMES_BATCH = 3
QUIET = Fate(names_batch=NAMES_BATCH, runs=9)

ADA, GRACE, ALAN, EDSGER = 101, 102, 103, 104
PEOPLE = {ADA: "ada", GRACE: "grace", ALAN: "alan", EDSGER: "edsger"}
MISSED = {  # {(room, seq): {user: reason}}: all that must be reported
    ("atlas", 2): {ALAN: "offline", EDSGER: "left_room"},
    ("atlas", 3): {ALAN: "offline", EDSGER: "left_room", GRACE: "client_rejected"},
    ("atlas", 4): {ALAN: "offline"},
    ("atlas", 6): {ALAN: "offline", EDSGER: "left_room"},
    ("borealis", 1): {ALAN: "no_ack"},
}
DUE = 8  # rows, one of them of a deleted message
LIVE = ("atlas", 7)
COUNTED = {"expired": 7, "expired_to_all": 2, "expired_missed": 5}


@cache
def expired_at() -> int:
    """Return when the messages of all runs expired (epoch ms): a minute before the first run."""
    return round(time.time() * 1000) - 60_000


async def seed() -> None:
    """Write people, rooms and messages: to all, missed for each reason, for some, deleted, still alive."""
    atlas, borealis = await in_db_thread(_rows)
    store = open_store()
    for room in (atlas, borealis):
        await store.members.create_log(room)
        await store.client.hset(room.key, "epoch", "e1")
    await accept(store, *(_message(atlas, number, ADA) for number in range(1, 4)))
    for user in (GRACE, ALAN, EDSGER):
        await acknowledge(store, user, 1, room=atlas)
    await store.cursors.reject(atlas, GRACE, "e1", 3)
    await accept(store, _message(atlas, 4, ADA, only=(GRACE, ALAN), resends=1))
    await accept(store, _message(atlas, 5, ADA))
    await store.changes.delete(atlas, ADA, "e1", 5, open_history=False)
    await accept(store, _message(atlas, 6, GRACE))
    for user in (ADA, GRACE):
        await acknowledge(store, user, 6, room=atlas)
    await store.members.leave(atlas, EDSGER)
    await accept(store, _message(atlas, 7, ADA))
    await accept(store, _message(borealis, 1, GRACE), _message(borealis, 2, ALAN))
    await store.retries.record_attempt(borealis, ALAN, 0, 5.0)
    await store.client.hset(f"{borealis.key}:attempts", ALAN, f"1|{expired_at()}|{expired_at()}|waiting")
    await acknowledge(store, GRACE, 2, room=borealis)
    for room, seqs in ((atlas, range(1, 7)), (borealis, range(1, 3))):
        for seq in seqs:
            await _end(store, room, seq, expired_at() + seq)
    await _end(store, atlas, LIVE[1], expired_at() + HOUR_MS)


def _rows() -> tuple[RoomKey, RoomKey]:
    for key, name in PEOPLE.items():
        User.objects.create(pk=key, username=name)
    rooms = []
    for name, members in (("atlas", (ADA, GRACE, ALAN, EDSGER)), ("borealis", (GRACE, ALAN))):
        room = Room.objects.create(id=name, name=name, kind="private")
        Membership.objects.bulk_create([Membership(room=room, user_id=user) for user in members])
        rooms.append(key_of(room))
    return rooms[0], rooms[1]


def _message(room: RoomKey, number: int, user: int, **fields: Any) -> Append:
    name, id_ = PEOPLE[user], str(uuid5(NAMESPACE_OID, f"{room.id} {number}"))
    return Append(room=room, user=user, name=name, id=id_, body="hello", ttl_ms=HOUR_MS, **fields)


async def _end(store: Store, room: RoomKey, seq: int, expires_at: int) -> None:
    """Fix a message's times, so that two runs can be compared."""
    key = f"{room.key}:msg:{seq}"
    if await store.client.exists(key):
        await store.client.hset(key, mapping={"sent_at": expires_at - 2 * HOUR_MS, "expires_at": expires_at})
    await store.client.zadd(f"{room.prefix}expiring", {f"{room.id}|{seq}": expires_at}, xx=True)


async def spoil(room: str, seq: int, **fields: Any) -> None:
    """Write a value into a message that fits no table."""
    key = key_of(await Room.objects.aget(pk=room)).key
    await open_store().client.hset(f"{key}:msg:{seq}", mapping=fields)


async def end_leases() -> None:
    """End the lease of every claim, without waiting."""
    client = open_store().client
    async for key in client.scan_iter("*:expiring"):
        for row, due_at in await client.zrange(key, 0, -1, withscores=True):
            if due_at != expired_at() + HOUR_MS:
                await client.zadd(key, {row: 1})


async def now_ms() -> int:
    return await open_store().now_ms()


async def clear() -> None:
    """Delete all data."""
    await open_store().client.flushdb()
    await in_db_thread(call_command, "flush", interactive=False, verbosity=0)


# The job


def start(fate: Fate = QUIET, *, url: str | None = None, **policy: Any) -> subprocess.Popen[str]:
    """Start the job as a process on this test run's store and database, or that of `url`."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.server_settings",
        "DATABASE_URL": url or _database_url(Path(str(connection.settings_dict["NAME"]))),
        "MESSAGING_FOR_TESTS": json.dumps(SHORT | policy),
    }
    words = json.dumps(dataclasses.asdict(fate))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.kill_points", words],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(fate: Fate = QUIET, **options: Any) -> tuple[int, str, str]:
    """Run the job as a process; return its exit code, stdout and stderr."""
    process = start(fate, **options)
    out, err = process.communicate(timeout=WITHIN_S)
    return process.returncode, out, err


def finish(monkeypatch: pytest.MonkeyPatch, *, left: int = 1, **policy: Any) -> None:
    """Run the job repeatedly, as its schedule does, until only `left` rows are not processed. Leases end in the meantime."""
    with_policy(monkeypatch, **SHORT | policy)
    ends_s = time.monotonic() + WITHIN_S
    while run_async(_rows_left) > left:
        assert time.monotonic() < ends_s, "claimed rows are not due again"
        run_async(expiry.process, ExpiryOptions())
        time.sleep(10 * POLL_S)


async def _rows_left() -> int:
    client = open_store().client
    return sum([await client.zcard(key) async for key in client.scan_iter("*:expiring")])


# Stored data


def kept() -> dict[str, Any]:
    """Return all data of database and store, except clocks and leases."""
    return {
        "letters": _table(DeadLetter, "id", without="processed_at"),
        "recipients": _table(MissedRecipient, "dead_letter_id", "user_key", without="id"),
        "notices": _table(Notice, "id", without="at"),
        "store": _store(),
    }


def _table(model: type[Model], *order: str, without: str) -> list[dict[str, Any]]:
    names = [field.attname for field in model._meta.concrete_fields if field.attname != without]
    return list(model._default_manager.order_by(*order).values(*names))


def _store() -> dict[str, Any]:
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    with redis.Redis.from_url(settings.STORE_URL, decode_responses=True) as client:
        for key in client.scan_iter():
            if ":counts:days:" in key:
                for name, number in client.hgetall(key).items():
                    counts[name.partition("|")[2]] += int(number)
            elif ":counts:" in key or ":claim:" in key or key == JOBS_KEY:
                continue
            elif ":sent:" in key or key.endswith("unacked"):
                found[key] = "there"  # its value is a time
            else:
                found[key] = _value(client, key)
    return found | {"counts": counts}


def _value(client: redis.Redis, key: str) -> Any:
    kind = client.type(key)
    return client.hgetall(key) if kind == "hash" else dict(client.zrange(key, 0, -1, withscores=True))


def reported() -> dict[tuple[str, int], dict[int, str]]:
    """Return {(room, seq): {user: reason}} of all notices; each letter must have a notice with the same members."""
    letters = {
        (row.room_key, row.seq): {missed.user_key: missed.reason for missed in row.missed_recipients.all()}
        for row in DeadLetter.objects.prefetch_related("missed_recipients")
    }
    notices = {
        (data["room"], data["seq"]): {person["user"]: person["reason"] for person in data["missing"]}
        for data in Notice.objects.values_list("data", flat=True)
    }
    assert (DeadLetter.objects.count(), Notice.objects.count()) == (len(letters), len(notices))
    assert letters == notices
    return notices


def unaccounted() -> set[tuple[str, int]]:
    """Return missed messages that are neither in the store nor reported. There must be none at any time."""
    with redis.Redis.from_url(settings.STORE_URL, decode_responses=True) as client:
        held = {
            (key.split(":")[-2], int(seq))
            for key in client.scan_iter("*:live")
            for _, seq in client.zrange(key, 0, -1, withscores=True)
        }
    return set(MISSED) - held - set(reported())
