"""Fixtures of all tests: a real store on its own socket, empty at the start of every test that uses it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest
import redis
from django.conf import settings
from django.core.management.commands import flush
from django.db import connection, transaction
from django.utils import timezone, translation
from django_q.models import Schedule

from chatsite import environment
from chatsite.run import embedded_store
from messaging.policy import Policy
from messaging.store import Store, connections, open_store
from tests.support.clients import Client, Wire
from tests.support.conversation import Talk
from tests.support.messages import members_of
from tests.support.people import Events
from tests.support.sites import Neighbour, Person, Site

hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("dev"), derandomize=True, database=None
)
hypothesis.settings.load_profile("dev")

START_DEADLINE_S = 20.0
MAKES_SITE_DATA = """
import django
django.setup()
from django.core.management import call_command
from chatsite.run import assets
call_command("migrate", verbosity=0)
assets.collect()
"""
QUICK = {"receipt_interval_s": 0.1}  # only shorter waits
# For a site that runs on after its test. Its database is also that of later tests, which have another store: it must not compare the two.
NO_LATER_CHECKS = {"position_interval_s": 3_600.0}

# Whether this user may mount a file system in a namespace: containers often forbid it.
CAN_MOUNT = ["sh", "-c", "unshare --map-root-user --mount mount -t tmpfs none /mnt"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the tests of processes: they take longest, and short tests at the end keep all processes busy."""
    items.sort(key=lambda item: "process" not in item.path.parts)
    mounting = [item for item in items if item.get_closest_marker("mount")]
    if mounting and subprocess.run(CAN_MOUNT, capture_output=True).returncode:
        config.hook.pytest_deselected(items=mounting)
        items[:] = [item for item in items if item not in mounting]


@pytest.fixture(autouse=True)
def default_language() -> Iterator[None]:
    """Deactivate the language that a test or a request in its thread has activated."""
    yield
    translation.deactivate()


@pytest.fixture(scope="session")
def site_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of a site that has run: a migrated SQLite database and the collected static files. Copy it.

    All processes of the run share it: it takes six seconds to make.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    data, unfinished = folder / "site-data", folder / "unfinished-site-data"
    with (folder / "site-data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not data.exists():
            unfinished.mkdir(mode=0o700)
            env = {
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "chatsite.settings",
                "DATA_DIR": str(unfinished),
                "DATABASE_URL": f"sqlite:///{unfinished / 'db.sqlite3'}",
            }
            subprocess.run(
                [sys.executable, "-c", MAKES_SITE_DATA], cwd=environment.BASE_DIR, env=env, check=True
            )
            unfinished.rename(data)
    return data


@pytest.fixture(scope="session")
def migrated_database(site_data: Path) -> Path:
    """Return a new SQLite database, migrated; copy it."""
    return site_data / "db.sqlite3"


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Use the copy of a migrated database, which `django_db_modify_db_settings` makes."""
    return connection.vendor == "sqlite"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None, request: pytest.FixtureRequest) -> None:
    if connection.vendor == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_database"), connection.settings_dict["TEST"]["NAME"])


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let every test begin with the rows of a database that was just migrated.

    Django fires `post_migrate` after each test that commits: that takes ten times as long as the rows that it makes.
    """
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        rows = _all_rows()
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_: _insert(rows))
        with django_db_blocker.block():
            yield
        connection.close()
        if connection.vendor == "postgresql":
            # A database with a connection left by a thread cannot be dropped.
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            with connection.cursor() as cursor:
                cursor.execute(others)


Rows = dict[str, list[tuple[Any, ...]]]


def _all_rows() -> Rows:
    """Return the rows of all tables that a flush empties, {table: rows}."""
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    rows_by_table: Rows = {}
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows_by_table[table] = cursor.fetchall()
    return {table: rows for table, rows in rows_by_table.items() if rows}


def _insert(rows_by_table: Rows) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for table, rows in rows_by_table.items():
            values = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {connection.ops.quote_name(table)} VALUES ({values})", rows)
        Schedule.objects.update(next_run=timezone.now())


@pytest.fixture(scope="session")
def store_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """Run a store at the address in the settings; `everysec`, because these tests simulate no power loss."""
    server = embedded_store.find_server()
    assert server is not None, "no valkey-server: install the requirements"
    folder = tmp_path_factory.mktemp("store")
    socket = Path(urlsplit(settings.STORE_URL).path)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            embedded_store.command(server, folder=folder, socket=socket, appendfsync="everysec"),
            stdout=log,
            stderr=log,
        )
        try:
            ready = embedded_store.wait_until_ready(settings.STORE_URL, deadline_s=START_DEADLINE_S)
            assert ready, (folder / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def redis_url(store_process: subprocess.Popen[bytes]) -> str:
    """Return the URL of an empty store. Its scripts stay loaded, as between two requests."""
    client = redis.Redis.from_url(settings.STORE_URL)
    with client:
        client.flushall()
    return str(settings.STORE_URL)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """Return an empty store in which every room has the three members of `tests.support.messages`."""
    yield Store(connections.async_client(), Policy(), members_of=members_of)
    await connections.close()


@pytest.fixture
async def events(redis_url: str) -> Events:
    """Return the control events that are published from now on."""
    listener = Events()
    await listener.listen()
    return listener


@pytest.fixture
async def verbs(redis_url: str, transactional_db: None) -> AsyncIterator[None]:
    """Let a test call operations on the database and an empty store."""
    yield
    await connections.close()


@pytest.fixture(scope="session")
def shared_site(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Site]:
    """Run one site for all tests that do no damage to it."""
    with django_db_blocker.unblock():
        site = Site(tmp_path_factory.mktemp("site"), **QUICK, **NO_LATER_CHECKS).start()
    yield site
    site.end()


@pytest.fixture
def site(shared_site: Site, transactional_db: None) -> Iterator[Site]:
    """Return the shared site. Its server must log no fault during the test."""
    before = len(shared_site.faults())
    yield shared_site
    shared_site.let_writes_end()
    assert shared_site.faults()[before:] == []


@pytest.fixture(scope="session")
def shared_neighbour(
    shared_site: Site,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: Any,
) -> Iterator[Neighbour]:
    """Run a second server process of the shared site."""
    with django_db_blocker.unblock():
        neighbour = Neighbour(shared_site, tmp_path_factory.mktemp("neighbour")).start()
    yield neighbour
    neighbour.end()


@pytest.fixture
def neighbour(site: Site, shared_neighbour: Neighbour) -> Iterator[Neighbour]:
    """Return the second server process of the shared site, which must log no fault either."""
    before = len(shared_neighbour.faults())
    yield shared_neighbour
    assert shared_neighbour.faults()[before:] == []


@pytest.fixture
async def site_store(site: Site, settings: Any) -> AsyncIterator[Store]:
    """Return the store of the shared site. This process becomes one of the site's: its jobs use that store and channel layer."""
    messages = {**settings.CACHES[connections.MESSAGES], "LOCATION": site.store.url}
    settings.CACHES = {**settings.CACHES, connections.MESSAGES: messages}
    layer = settings.CHANNEL_LAYERS["default"]
    hosts = {**layer["CONFIG"], "hosts": [f"{site.store.url}?db=2"]}
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": hosts}}
    yield open_store()
    await connections.close()


@pytest.fixture
def meet(
    site: Site, neighbour: Neighbour, site_store: Store, open_wire: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that lets people meet in a room, each with two devices: one at each server process."""
    return partial(Talk.begin, (site, neighbour), site_store, open_wire)


@pytest.fixture
def new_site(transactional_db: None) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a separate site with its own policy numbers. The test may damage it."""
    sites: list[Site] = []

    def start(**options: Any) -> Site:
        # Not pytest's folder: the path of a socket has at most 108 bytes.
        sites.append(Site(Path(tempfile.mkdtemp(prefix="chat-site-")), **options))
        return sites[-1].start()

    yield start
    for site in sites:
        site.end()
    faults = [fault for site in sites for fault in site.faults()]
    for site in sites:
        shutil.rmtree(site.folder)
    assert faults == []


@pytest.fixture(scope="session")
def pool(django_db_setup: None, django_db_blocker: Any) -> Iterator[Callable[..., Site]]:
    """Return a function that returns one site for each policy."""
    sites: dict[str, Site] = {}

    def site_of(**policy: Any) -> Site:
        key = json.dumps(policy, sort_keys=True)
        if key not in sites:
            with django_db_blocker.unblock():
                sites[key] = Site(
                    Path(tempfile.mkdtemp(prefix="chat-site-")), **NO_LATER_CHECKS, **policy
                ).start()
        return sites[key]

    yield site_of
    for site in sites.values():
        site.end()
        shutil.rmtree(site.folder)


@pytest.fixture
def pooled_site(pool: Callable[..., Site], transactional_db: None) -> Iterator[Callable[..., Site]]:
    """Return a function that returns a site with its own policy numbers, shared by all tests that do no damage to it."""
    used: list[tuple[Site, int]] = []

    def use(**policy: Any) -> Site:
        site = pool(**policy)
        used.append((site, len(site.faults())))
        return site

    yield use
    for site, _ in used:
        site.let_writes_end()
    assert [fault for site, before in used for fault in site.faults()[before:]] == []


@pytest.fixture
async def open_wire() -> AsyncIterator[Callable[..., Any]]:
    """Return a function that opens a plain socket to a site as a person."""
    wires: list[Wire] = []

    async def open_(site: Site, who: Person | None, *, origin: str | None = None) -> Wire:
        cookie = who.cookie if who else ""
        wires.append(await Wire.open(site.url, cookie=cookie, origin=origin or site.origin))
        return wires[-1]

    yield open_
    for wire in wires:
        await wire.aclose()


@pytest.fixture
async def open_client() -> AsyncIterator[Callable[..., Client]]:
    """Return a function that opens a client that follows the contract."""
    clients: list[Client] = []

    def open_(site: Site, who: Person, **options: Any) -> Client:
        clients.append(Client(site.url, user=who.id, cookie=who.cookie, origin=site.origin, **options))
        return clients[-1]

    yield open_
    for client in clients:
        await client.aclose()
