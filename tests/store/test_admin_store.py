"""Lists of staff over the store: undelivered rooms and members with reasons, live messages; in constant round trips."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import redis.asyncio
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from messaging.admin import undelivered_members
from messaging.bridge import in_db_thread
from messaging.expiry.job import ExpiryOptions, process
from messaging.models import DeadLetter, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store, scripts
from messaging.store.lists import Lists
from messaging.store.records import AckRow
from tests.support.messages import HOUR_MS, accept, acknowledge, cursors, due, expire, message
from tests.support.people import person, room_of

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
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


async def get(staff: Client, path: str, wanted: int = 200, **query: str) -> str:
    answer = await in_db_thread(staff.get, f"{PAGES}/{path}", query)
    assert answer.status_code == wanted, answer.content.decode()[:2000]
    return str(answer.content.decode())


async def send(room: Room, sender: User, *bodies: str, ttl_ms: int = HOUR_MS) -> list[Any]:
    rows = [message(body, user=sender.pk, room=key_of(room), ttl_ms=ttl_ms) for body in bodies]
    await accept(open_store(), *rows)
    return rows


async def test_lists_show_why_a_message_did_not_reach_a_member(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, alan = people
    room = await room_of(ada, grace, alan, name="Atlas")
    store = open_store()
    _first, second = await send(room, ada, SECRET, SECRET)
    [place] = await store.log.positions([key_of(room)])
    assert place is not None
    await store.cursors.acknowledge([AckRow(key_of(room), place.epoch, alan.pk, place.top, None)])

    rooms = await get(staff, "undeliveredroom/")
    assert f"?room={room.pk}" in rooms
    assert "grace" in rooms
    members = await get(staff, "undeliveredmember/", room=room.pk)
    assert "grace" in members
    assert "alan" not in members
    assert "offline" in members

    for query in (f"{room.pk}:{place.top}", second.id, second.id.upper()):
        answer = await in_db_thread(staff.get, f"{PAGES}/storedmessage/", {"q": query})
        assert answer["Location"] == f"{PAGES}/storedmessage/{room.pk}:{place.top}/change/"
    page = await get(staff, f"storedmessage/{room.pk}:{place.top}/change/")
    assert "offline: sent when they reconnect" in page
    assert page.index("grace") < page.index("alan")
    for shown in (rooms, members, page, await get(staff, "storedmessage/")):
        assert SECRET not in shown


async def test_rooms_are_found_by_name_and_by_member(staff: Client, people: tuple[User, User, User]) -> None:
    ada, grace, _ = people
    atlas, field = await room_of(ada, grace, name="Atlas"), await room_of(ada, name="Field")
    await send(atlas, ada, SECRET)
    for query, wanted in (("atl", True), (atlas.pk, True), ("user:grace", True), ("user:alan", False)):
        assert (f"?room={atlas.pk}" in await get(staff, "undeliveredroom/", q=query)) is wanted
    assert f"?room={field.pk}" not in await get(staff, "undeliveredroom/", q="user:grace")


async def test_an_expired_message_is_not_shown(staff: Client, people: tuple[User, User, User]) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    [row] = await send(room, ada, SECRET)
    store = open_store()
    await store.scripts.pipeline([("HSET", f"{key_of(room).key}:msg:1", "expires_at", 1)])
    await get(staff, f"storedmessage/{room.pk}:1/change/", 404)
    assert row.id not in await get(staff, "storedmessage/", room=room.pk)
    for key in ("nonsense", f"{room.pk}:x", f"gone:{10**15}", f"{room.pk}:0"):
        await get(staff, f"storedmessage/{key}/change/", 404)


async def test_every_page_takes_the_same_number_of_round_trips(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace, alan = people
    rooms = [await room_of(ada, grace, alan, name=f"room {number}") for number in range(3)]
    for room in rooms:
        await send(room, ada, *(f"{SECRET} {number}" for number in range(100)))
    trips: list[str] = []
    execute = scripts.Scripts._execute

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        trips.append("trip")
        return await execute(self, *args, **kwargs)

    monkeypatch.setattr(scripts.Scripts, "_execute", counted)
    costs = []
    for query in ({}, {"p": "2"}, {"p": "3"}):
        trips.clear()
        shown, queries = await in_db_thread(_counted_get, staff, query)
        assert shown.count("/change/") >= 100
        costs.append((len(trips), queries))
    assert max(trips for trips, _ in costs) - min(trips for trips, _ in costs) <= 2  # the rest of a search
    assert len({queries for _, queries in costs}) == 1


def _counted_get(staff: Client, query: dict[str, str]) -> tuple[str, int]:
    with CaptureQueriesContext(connection) as queries:
        answer = staff.get(f"{PAGES}/storedmessage/", query)
    assert answer.status_code == 200
    return answer.content.decode(), len(queries)


@pytest.mark.parametrize("page", ["undeliveredroom/", "undeliveredmember/?room=x", "storedmessage/"])
async def test_lists_need_their_permission(verbs: None, page: str) -> None:
    for fields, wanted in (({"is_staff": True}, 403), ({}, 302)):
        user = await person(f"somebody{wanted}", **fields)
        client = Client()
        await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
        answer = await in_db_thread(client.get, f"{PAGES}/{page}")
        assert answer.status_code == wanted


async def test_an_empty_list_explains_itself(staff: Client, people: tuple[User, User, User]) -> None:
    assert "No undelivered messages." in await get(staff, "undeliveredroom/")
    assert "No live messages." in await get(staff, "storedmessage/")
    assert "No dead letters." in await get(staff, "deadletter/")
    assert "No notices." in await get(staff, "notice/")
    assert "No results for" in await get(staff, "storedmessage/", q="no such room")
    room = await room_of(people[0])
    assert "No undelivered messages in this room." in await get(staff, "undeliveredmember/", room=room.pk)


async def test_a_sender_does_not_owe_their_own_message(
    staff: Client, people: tuple[User, User, User]
) -> None:
    """The cursor of a sender who was lagging is below their own message; they owe only the messages of others."""
    ada, grace, alan = people
    room = await room_of(ada, grace, alan)
    key = key_of(room)
    store = open_store()
    await send(room, grace, SECRET)
    await send(room, ada, SECRET, SECRET)
    assert await cursors(store, ada.pk, room=key) == (0, 0)

    members = await get(staff, "undeliveredmember/", room=room.pk)
    assert not_received(members) == {"ada": "1 message", "grace": "2 messages", "alan": "3 messages"}
    assert "not received by 3" not in await get(staff, "storedmessage/", room=room.pk)

    await acknowledge(store, alan.pk, 3, room=key)
    await acknowledge(store, grace.pk, 3, room=key)
    await acknowledge(store, ada.pk, 1, room=key)
    assert not_received(await get(staff, "undeliveredmember/", room=room.pk)) == {}
    assert "nobody" in await get(staff, "undeliveredroom/")
    reach = await get(staff, "storedmessage/", room=room.pk)
    assert reach.count("received by all") == 3


async def test_a_message_for_others_is_not_owed(staff: Client, people: tuple[User, User, User]) -> None:
    ada, grace, alan = people
    room = await room_of(ada, grace, alan)
    key = key_of(room)
    resend = message(SECRET, user=ada.pk, room=key)
    await accept(open_store(), msgspec.structs.replace(resend, only=(grace.pk,), resends=1))
    [first] = await open_store().lists.live(0, 1, key)
    assert first.behind == 1
    assert not_received(await get(staff, "undeliveredmember/", room=room.pk)) == {"grace": "1 message"}
    await send(room, ada, SECRET)
    assert not_received(await get(staff, "undeliveredmember/", room=room.pk)) == {
        "grace": "2 messages",
        "alan": "1 message",
    }


async def test_a_message_that_could_not_be_displayed_is_not_received_by_all(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    key, store = key_of(room), open_store()
    await send(room, ada, SECRET, SECRET)
    [place] = await store.log.positions([key])
    assert place is not None
    await store.cursors.reject(key, grace.pk, place.epoch, 1)
    await acknowledge(store, grace.pk, 1, room=key)
    listed = await get(staff, "storedmessage/", room=room.pk)
    assert "not displayed for 1" in listed
    assert "could not be displayed" in await get(staff, f"storedmessage/{room.pk}:1/change/")
    assert not_received(await get(staff, "undeliveredmember/", room=room.pk)) == {"grace": "1 message"}


async def test_an_expired_message_is_no_longer_owed_before_it_is_reported(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    await send(room, ada, SECRET, SECRET)
    await expire(open_store(), 1, room=key_of(room))
    members = await get(staff, "undeliveredmember/", room=room.pk)
    assert not_received(members) == {"grace": "1 message"}
    assert f"{room.pk}:2/change/" in members


async def test_a_large_room_is_paged_in_the_store(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is listed where the members are not checked one by one; their row shows that they owe nothing."""
    ada, grace, alan = people
    room = await room_of(ada, grace, alan)
    key = key_of(room)
    await send(room, grace, SECRET)
    await acknowledge(open_store(), alan.pk, 0, room=key)
    monkeypatch.setattr(undelivered_members, "MAX_CHECKED_MEMBERS", 1)
    await send(room, ada, SECRET)
    await acknowledge(open_store(), ada.pk, 1, room=key)
    shown = not_received(await get(staff, "undeliveredmember/", room=room.pk))
    assert shown == {
        "grace": "1 message",
        "alan": "2 messages",
        "ada": "nothing: own messages, or sent to others only",
    }
    monkeypatch.setattr(undelivered_members, "CHECKED_MESSAGES", 1)
    assert not_received(await get(staff, "undeliveredmember/", room=room.pk))["alan"] == "at most 2 messages"


async def test_an_expired_message_redirects_to_its_dead_letter(
    staff: Client, people: tuple[User, User, User]
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    [row] = await send(room, ada, SECRET)
    await expire(open_store(), 1, room=key_of(room))
    await due(open_store(), 1, room=key_of(room))
    await process(ExpiryOptions(room=key_of(room)))
    letter = await DeadLetter.objects.aget()
    for query in (f"{room.pk}:1", row.id):
        answer = await in_db_thread(staff.get, f"{PAGES}/storedmessage/", {"q": query}, follow=True)
        assert answer.redirect_chain[-1][0] == f"{PAGES}/deadletter/{letter.pk}/change/"
        assert "grace" in answer.content.decode()


async def test_lists_have_the_order_of_the_questions(staff: Client) -> None:
    answer = await in_db_thread(staff.get, "/admin/")
    apps = {app["app_label"]: app for app in answer.context["app_list"]}
    assert next(iter(apps)) == "messaging"
    names = [str(model["name"]) for model in apps["messaging"]["models"]]
    assert names == [
        *("Undelivered", "Messages", "Dead letters", "Notices"),
        *("Rooms", "Memberships", "Bulk actions", "Audit entries"),
    ]


def not_received(page: str) -> dict[str, str]:
    """Return {member: the text of the list for the messages not received}."""
    names = re.findall(r'class="ops-state" data-kind="o\w+">(\w+)<', page)
    return dict(zip(names, re.findall(r'class="field-waiting[^"]*">([^<]*)<', page), strict=True))


async def test_unavailable_store_is_reported_on_every_page(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace, _ = people
    room = await room_of(ada, grace)
    nowhere = redis.asyncio.Redis(unix_socket_path="/nowhere/store.sock")
    monkeypatch.setattr(open_store()._calls, "scripts", scripts.Scripts(nowhere, deadline_s=0.5))
    for page in ("undeliveredroom/", f"undeliveredmember/?room={room.pk}", "storedmessage/"):
        assert "The store does not answer." in await get(staff, page, 503)
    assert "does not answer" in await get(staff, f"storedmessage/{room.pk}:1/change/", 503)


async def test_more_rooms_and_members_on_a_page_take_no_more_reads(
    staff: Client, people: tuple[User, User, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither round trips nor queries grow with the rows."""
    ada, grace, alan = people
    small = await room_of(ada, grace, name="small")
    large = await room_of(ada, grace, alan, *[await person(f"reader{number}") for number in range(9)])
    await send(small, ada, SECRET)
    before = await costs(staff, monkeypatch, "undeliveredroom/")
    members = await costs(staff, monkeypatch, f"undeliveredmember/?room={small.pk}")
    await send(large, ada, SECRET, SECRET, SECRET)
    for number in range(9):
        await send(await room_of(grace, alan, name=f"room {number}"), grace, SECRET)
    assert await costs(staff, monkeypatch, "undeliveredroom/") == before
    assert await costs(staff, monkeypatch, f"undeliveredmember/?room={large.pk}") == members


async def costs(staff: Client, monkeypatch: pytest.MonkeyPatch, page: str) -> tuple[int, int]:
    """Return the numbers of round trips and queries of a page, without the search for its beginning."""
    trips: list[str] = []
    execute = scripts.Scripts._execute

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        trips.append("trip")
        return await execute(self, *args, **kwargs)

    def get_page() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert staff.get(f"{PAGES}/{page}").status_code == 200
        return len(queries)

    with monkeypatch.context() as patched:
        patched.setattr(scripts.Scripts, "_execute", counted)
        # Finding the scores of a page takes more steps when they are further apart.
        patched.setattr(Lists, "_scores_at", ends_of)
        queries = await in_db_thread(get_page)
        assert trips
        return len(trips), queries


async def ends_of(self: Any, keys: list[str], ranks: tuple[int, int]) -> list[int]:
    return [0, 2**52]
