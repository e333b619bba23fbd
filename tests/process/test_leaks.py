"""After a message's expiry and the retention of its text, the text is nowhere: not in store, log on disk, database, logs or answers."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core import serializers
from django.db import connection
from django_q.models import OrmQ, Schedule, Task
from django_q.signing import SignedPackage

from messaging.models import AuditEntry, DeadLetter, Notice
from tests.support.clients import Wire, new_id
from tests.support.sites import Browser, Person, Site, later, people, person, room, until
from tests.support.workers import Worker, enqueue, manage

Open = Callable[..., Any]
SHORT = {"ttl_min_s": 1, "claim_delay_s": 1, "lease_s": 1}
RETENTION_S = 20
WITHIN_S = 40.0
DATABASES = 16  # of a store
COMMANDS = [
    ("messaging_status", "--json"),
    ("doctor", "--json"),
    ("process_expired", "--dry-run", "--json"),
    ("dead_letters", "list", "--json"),
    ("dead_letters", "requeue", "--dry-run", "--json"),
]


class Words:
    """Texts of random words, each word unique: one that is found anywhere is a leak, though the rest was overwritten."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    def text(self) -> str:
        words = [secrets.token_urlsafe(12) for _ in range(6)]
        self.all += map(str.encode, words)
        return " ".join(words)

    def places(self, searched: dict[str, bytes]) -> set[str]:
        """Return in which of the places, {name: what is there}, a word is found."""
        return {name for name, data in searched.items() if any(word in data for word in self.all)}


# ── Everything there is ──


def in_store(site: Site) -> dict[str, bytes]:
    """Return all keys with their values, as they are kept and as they are read, and what the store notes of calls."""
    found: dict[str, bytes] = {}
    for number in range(DATABASES):
        with redis.Redis.from_url(f"{site.store.url}?db={number}") as client:
            for key in client.scan_iter(count=1000):
                dumped = client.dump(key)
                found[f"store: {key.decode()}"] = key + (dumped or b"") + repr(_value(client, key)).encode()
            found["store: slow calls"] = repr(client.slowlog_get(-1)).encode()
            large = client.execute_command("COMMANDLOG", "GET", -1, "large-request")
            found["store: large calls"] = repr(large).encode()
    return found


def _value(client: redis.Redis, key: bytes) -> Any:
    kind = client.type(key).decode()
    if kind == "list":
        packages = client.lrange(key, 0, -1)
        return [SignedPackage.loads(one.decode()) for one in packages] if key.endswith(b":q") else packages
    return {
        "none": lambda: None,
        "string": lambda: client.get(key),
        "hash": lambda: client.hgetall(key),
        "zset": lambda: client.zrange(key, 0, -1, withscores=True),
        "set": lambda: client.smembers(key),
    }[kind]()


def in_files(site: Site) -> dict[str, bytes]:
    """Return the files of store and database, and every log."""
    found = {f"log on disk: {file.name}": file.read_bytes() for file in _log_on_disk(site)}
    for file in (*site.folder.glob("*log"), site.store.folder / "log"):
        found[f"log: {file.name}"] = file.read_bytes()
    if connection.vendor == "sqlite":
        database = Path(str(connection.settings_dict["NAME"]))
        for file in database.parent.glob(f"{database.name}*"):
            # By another process: closing a file of SQLite's ends the locks that this process's connections hold on it.
            read = subprocess.run(["cat", file], capture_output=True, check=False).stdout
            found[f"database: {file.name.removeprefix(database.name)}"] = read
    return found


def _log_on_disk(site: Site) -> Iterator[Path]:
    return (file for file in site.store.folder.rglob("*") if file.is_file() and file.name != "log")


def in_rows() -> dict[str, bytes]:
    """Return the rows that are packed where they are kept, as they are read."""
    models = (Task, OrmQ, DeadLetter, Notice, AuditEntry)
    found = {
        f"rows: {model.__name__}": serializers.serialize("json", model.objects.all()).encode()
        for model in models
    }
    results = [(task.result, task.args, task.kwargs) for task in Task.objects.all()]
    return found | {"rows: results": repr(results).encode()}


def in_answers(site: Site) -> dict[str, bytes]:
    """Return what the commands, the metrics and the staff's export say."""
    shown = [
        ("dead_letters", "show", str(key), "--json")
        for key in DeadLetter.objects.values_list("pk", flat=True)
    ]
    found = {}
    for words in (*COMMANDS, *shown[:1]):
        done = manage(site, *words)
        assert done.stdout or words[0] == "dead_letters", done.stderr
        found[f"answer: {' '.join(words[:2])}"] = (done.stdout + done.stderr).encode()
    with urllib.request.urlopen(f"{site.origin}/metrics") as answer:
        found["answer: metrics"] = answer.read()
    return found | {"answer: export": exported(site)}


def exported(site: Site) -> bytes:
    """Return all dead letters as a member of the staff takes them away."""
    staff = person("staff")
    User.objects.filter(pk=staff.id).update(is_staff=True, is_superuser=True)
    answer = Browser(site, staff).submit("/admin/messaging/deadletter/export/")
    assert answer.headers["Content-Type"].startswith("text/csv")
    return bytes(answer.read())


def everywhere(site: Site) -> dict[str, bytes]:
    found = in_store(site) | in_files(site) | in_rows() | in_answers(site)
    assert all(
        found[name] for name in found if name.startswith(("log: log", "log: worker", "answer", "rows: r"))
    )
    return found


# ── The way of some texts ──


async def converse(words: Words, room_id: str, ada: Wire, grace: Wire) -> None:
    """Let everything be said and done that a text can be in: all of it is over two seconds later."""
    first = await ada.post(room_id, words.text(), ttl=2)
    place = {"room": room_id, "epoch": first["epoch"]}
    await ada.post(room_id, words.text(), ttl=2, reply_to=first["seq"])
    edited = await ada.post(room_id, words.text(), ttl=2)
    await ada.send({"type": "edit", **place, "seq": edited["seq"], "body": words.text()})
    await ada.next("edited")
    deleted = await ada.post(room_id, words.text(), ttl=2)
    await ada.send({"type": "delete", **place, "seq": deleted["seq"]})
    await ada.next("deleted")
    rejected = await ada.post(room_id, words.text(), ttl=2)
    await grace.next("message", seq=rejected["seq"])
    await grace.send({"type": "reject", **place, "seq": rejected["seq"], "reason": "too_long"})
    await grace.ack(room_id, first["epoch"], delivered=rejected["seq"])
    for refused in (
        {"type": "send", "id": "x", "room": room_id, "body": words.text()},
        {
            "type": "send",
            "id": new_id(),
            "room": room_id,
            "body": words.text(),
            "ttl": 10**9,
        },
        {"type": words.text(), "body": words.text()},
    ):
        await ada.send(refused)
        await ada.next("error")
    await ada.say(f"{{{words.text()}")
    await ada.next("error")


async def run(site: Site, job: str) -> None:
    """Let the site's worker run a job once."""
    before = await later(Task.objects.count)()
    await asyncio.to_thread(enqueue, site, job)
    await _until_true(later(lambda: Task.objects.count() > before), f"{job} has not run")


async def run_until(site: Site, condition: Callable[[], Any], what: str) -> None:
    async def ran() -> Any:
        await run(site, "process_expired")
        return await later(condition)()

    await _until_true(ran, what, every_s=0.3)


async def until_due(site: Site, most: int) -> str:
    """Wait until `most` messages are due; return the output of the dry run."""
    dry_run = ("process_expired", "--dry-run", "--json")
    async with asyncio.timeout(WITHIN_S):
        while len(json.loads(shown := (await asyncio.to_thread(manage, site, *dry_run)).stdout)) < most:
            await asyncio.sleep(0.05)
    return shown


async def _until_true(condition: Callable[[], Any], what: str, *, every_s: float = 0.05) -> None:
    ends_s = time.monotonic() + WITHIN_S
    while not await condition():
        assert time.monotonic() < ends_s, what
        await asyncio.sleep(every_s)


async def rewrite_log(site: Site) -> None:
    """Run the hourly job and wait until the store has finished its work."""

    def parts() -> set[str]:
        return {file.name for file in _log_on_disk(site)} - {"appendonly.aof.manifest"}

    before = parts()
    await run(site, "rewrite_log")
    await until(lambda: before.isdisjoint(parts()), what="the store has rewritten its log")


@pytest.fixture
async def begin(new_site: Open) -> AsyncIterator[Callable[..., Any]]:
    """Return what starts a site with a worker which runs what a test queues, and nothing else."""
    workers: list[Worker] = []

    async def start(**policy: Any) -> Site:
        site: Site = await later(new_site)(**SHORT, **policy)
        with redis.Redis.from_url(site.store.url) as client:
            # The worst case: nothing packed away by compression, every call noted as a slow one.
            client.config_set("rdbcompression", "no")
            client.config_set("slowlog-log-slower-than", 0)
            client.config_set("slowlog-max-len", 100_000)
            client.config_set("commandlog-request-larger-than", 0)
            client.config_set("commandlog-large-request-max-len", 100_000)
        await later(Schedule.objects.all().delete)()
        workers.append(Worker(site).start())
        await until(workers[-1].has_run, within_s=WITHIN_S, what="the worker has started")
        return site

    yield start
    for worker in workers:
        worker.end()


async def enter(site: Site, open_wire: Open, who: Person) -> Wire:
    wire = await open_wire(site, who)
    await wire.hello()
    await wire.next("resumed")
    return wire


@pytest.mark.proof
async def test_text_is_nowhere_after_its_expiry_and_retention(begin: Open, open_wire: Open) -> None:
    site = await begin(dead_letter_retention_s=RETENTION_S)
    words = Words()
    ada, grace, bob = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(ada, grace, bob)
    wires = [await enter(site, open_wire, who) for who in (ada, grace)]
    await converse(words, atlas, *wires)

    # The search finds it where it is: in store and log while it lives, then in the database, then in both.
    alive = words.places(in_store(site) | in_files(site))
    assert {
        f"store: chat:{{{await _partition(atlas)}}}:room:{atlas}:msg:1",
        "store: slow calls",
        "store: large calls",
    } <= alive
    assert any(place.startswith("log on disk") for place in alive)
    assert not [place for place in alive if place.startswith(("database", "log: "))]

    shown = await until_due(site, 5)
    assert words.places({"the dry run": shown.encode()}) == set()
    await run_until(site, lambda: DeadLetter.objects.count() == 4, "what bob missed is not reported")
    reported = words.places(in_store(site) | in_files(site) | await later(in_rows)())
    assert "rows: DeadLetter" in reported
    assert any(place.startswith("database") for place in reported) or connection.vendor != "sqlite"
    assert not [place for place in reported if place.startswith("store: chat")], "the store has forgotten it"

    await wires[0].send({"type": "resend", "room": atlas, "seq": 1, "id": new_id(), "ttl": 1})
    sent = await wires[0].next("sent")
    assert [place for place in words.places(in_store(site)) if place.endswith(f":msg:{sent['seq']}")]

    await run_until(
        site,
        lambda: DeadLetter.objects.count() == 5 and not DeadLetter.objects.exclude(body=None),
        "the texts are kept too long",
    )
    await rewrite_log(site)
    assert words.places(await later(everywhere)(site)) == set()
    back = [await enter(site, open_wire, who) for who in (ada, bob)]
    await back[0].next("notice")
    assert words.places({wire: "".join(wire.texts).encode() for wire in back}) == set()


@pytest.mark.proof
async def test_text_without_retention_is_nowhere_as_soon_as_it_has_expired(
    begin: Open, open_wire: Open
) -> None:
    site = await begin(dead_letter_retention_s=0)
    words = Words()
    ada, grace, bob = await later(people)("ada", "grace", "bob")
    atlas = await later(room)(ada, grace, bob)
    wires = [await enter(site, open_wire, who) for who in (ada, grace)]
    await converse(words, atlas, *wires)
    assert words.places(in_store(site))

    await run_until(site, lambda: DeadLetter.objects.count() == 4, "what bob missed is not reported")
    await wires[0].send({"type": "resend", "room": atlas, "seq": 1, "id": new_id()})
    await wires[0].next("error", code="too_late")
    await rewrite_log(site)
    assert words.places(await later(everywhere)(site)) == set()


async def _partition(room_id: str) -> int:
    from messaging.models import Room

    return (await Room.objects.aget(pk=room_id)).partition
