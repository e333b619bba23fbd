"""The staff's lists over the store: what waits, who is behind and why, one message's fate; in a constant number of readings."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from messaging import scripts
from messaging.crossing import in_database
from messaging.models import Room
from messaging.records import AckRow
from messaging.roster import key_of
from messaging.store import open_store
from tests.messages import HOUR_MS, accept, message
from tests.people import person, room_of

pytestmark = pytest.mark.usefixtures("verbs")
PAGES = "/admin/messaging"
SECRET = "see you at nine"


@pytest.fixture
async def people(verbs: None) -> tuple[User, User, User]:
    return await person("ada"), await person("grace"), await person("alan")


@pytest.fixture
async def staff(verbs: None) -> Client:
    user = await person("staff", is_staff=True, is_superuser=True)
    client = Client()
    await in_database(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


async def get(staff: Client, path: str, wanted: int = 200, **query: str) -> str:
    answer = await in_database(staff.get, f"{PAGES}/{path}", query)
    assert answer.status_code == wanted, answer.content.decode()[:2000]
    return str(answer.content.decode())


async def said(room: Room, sender: User, *bodies: str, ttl_ms: int = HOUR_MS) -> list[Any]:
    rows = [message(body, user=sender.pk, room=key_of(room), ttl_ms=ttl_ms) for body in bodies]
    await accept(open_store(), *rows)
    return rows


async def test_why_one_message_did_not_reach_one_person(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, alan = people
    room = await room_of(ada, grace, alan, name="Atlas")
    store = open_store()
    _first, second = await said(room, ada, SECRET, SECRET)
    [place] = await store.places([key_of(room)])
    assert place is not None
    await store.acknowledge([AckRow(key_of(room), place.epoch, alan.pk, place.top, None)])

    rooms = await get(staff, "undeliveredroom/")
    assert f"?room={room.pk}" in rooms
    assert "grace" in rooms
    members = await get(staff, "undeliveredmember/", room=room.pk)
    assert "grace" in members
    assert "alan" not in members
    assert "offline" in members

    for query in (f"{room.pk}:{place.top}", second.id):
        found = await get(staff, "storedmessage/", q=query)
        assert f"{room.pk}:{place.top}" in found
    page = await get(staff, f"storedmessage/{room.pk}:{place.top}/change/")
    assert "offline: sent as soon as they are back" in page
    assert page.index("grace") < page.index("alan")
    for shown in (rooms, members, page, await get(staff, "storedmessage/")):
        assert SECRET not in shown


async def test_rooms_are_found_by_name_and_by_who_is_in_them(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, _ = people
    atlas, field = await room_of(ada, grace, name="Atlas"), await room_of(ada, name="Field")
    await said(atlas, ada, SECRET)
    for query, wanted in (("atl", True), (atlas.pk, True), ("user:grace", True), ("user:alan", False)):
        assert (f"?room={atlas.pk}" in await get(staff, "undeliveredroom/", q=query)) is wanted
    assert f"?room={field.pk}" not in await get(staff, "undeliveredroom/", q="user:grace")


async def test_of_a_message_that_is_over_nothing_is_shown(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    [row] = await said(room, ada, SECRET)
    store = open_store()
    await store.scripts.pipeline([("HSET", f"{key_of(room).key}:msg:1", "expires_at", 1)])
    await get(staff, f"storedmessage/{room.pk}:1/change/", 404)
    assert row.id not in await get(staff, "storedmessage/", room=room.pk)
    for odd in ("nonsense", f"{room.pk}:x", f"gone:{10**15}", f"{room.pk}:0"):
        await get(staff, f"storedmessage/{odd}/change/", 404)


async def test_a_page_costs_the_same_wherever_it_is(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace, alan = people
    rooms = [await room_of(ada, grace, alan, name=f"room {number}") for number in range(3)]
    for room in rooms:
        await said(room, ada, *(f"{SECRET} {number}" for number in range(100)))
    trips: list[str] = []
    execute = scripts.Scripts._execute

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        trips.append("trip")
        return await execute(self, *args, **kwargs)

    monkeypatch.setattr(scripts.Scripts, "_execute", counted)
    costs = []
    for query in ({}, {"p": "2"}, {"p": "3"}):
        trips.clear()
        shown, queries = await in_database(_counted_get, staff, query)
        assert shown.count("/change/") >= 100
        costs.append((len(trips), queries))
    assert (
        max(trips for trips, _ in costs) - min(trips for trips, _ in costs) <= 2
    )  # what a search narrows to
    assert len({queries for _, queries in costs}) == 1


def _counted_get(staff: Client, query: dict[str, str]) -> tuple[str, int]:
    with CaptureQueriesContext(connection) as queries:
        answer = staff.get(f"{PAGES}/storedmessage/", query)
    assert answer.status_code == 200
    return answer.content.decode(), len(queries)


@pytest.mark.parametrize("page", ["undeliveredroom/", "undeliveredmember/?room=x", "storedmessage/"])
async def test_only_those_who_may_see_the_lists(verbs: None, page: str) -> None:
    for fields, wanted in (({"is_staff": True}, 403), ({}, 302)):
        user = await person(f"somebody{wanted}", **fields)
        client = Client()
        await in_database(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
        answer = await in_database(client.get, f"{PAGES}/{page}")
        assert answer.status_code == wanted


async def test_nothing_waits(staff: Client) -> None:
    for page in ("undeliveredroom/", "storedmessage/"):
        assert "0 " in await get(staff, page)


async def test_the_store_is_away(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    nowhere = redis.asyncio.Redis(unix_socket_path="/nowhere/store.sock")
    monkeypatch.setattr(open_store(), "scripts", scripts.Scripts(nowhere, deadline_s=0.5))
    for page in ("undeliveredroom/", f"undeliveredmember/?room={room.pk}", "storedmessage/"):
        assert "The store does not answer just now." in await get(staff, page, 503)
    assert "does not answer" in await get(staff, f"storedmessage/{room.pk}:1/change/", 503)
