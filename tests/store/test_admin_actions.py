"""Actions of staff on undelivered rooms and members, messages, rooms and memberships, on their pages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from messaging.bridge import in_db_thread
from messaging.models import Membership, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support.messages import accept, message
from tests.support.people import Events, person, room_of

pytestmark = pytest.mark.usefixtures("verbs")
PAGES = "/admin/messaging"
SECRET = "see you at nine"


@pytest.fixture
async def people(verbs: None) -> tuple[User, User]:
    return await person("ada"), await person("grace")


@pytest.fixture
async def room(people: tuple[User, User]) -> Room:
    """A room of the two, with two messages that ada sent a minute ago."""
    made = await room_of(*people)
    store, key = open_store(), key_of(made)
    await accept(store, *(message(SECRET, user=people[0].pk, room=key) for _ in range(2)))
    for seq in (1, 2):
        await store.client.hset(f"{key.key}:msg:{seq}", "sent_at", await store.now_ms() - 60_000)
    return made


@pytest.fixture
async def staff(verbs: None) -> Client:
    user = await person("staff", is_staff=True, is_superuser=True)
    client = Client(headers={"accept-language": "en"})
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


async def post(staff: Client, path: str, **data: Any) -> Any:
    answer = await in_db_thread(staff.post, f"{PAGES}/{path}", data, follow=True)
    assert answer.status_code == 200, answer.content.decode()[:2000]
    assert SECRET not in answer.content.decode()
    return answer


def shown_messages(answer: Any) -> str:
    page = answer.content.decode()
    return " ".join(re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', page, re.DOTALL))


async def act(staff: Client, path: str, action: str, *keys: Any, **given: Any) -> tuple[str, str]:
    """Choose rows and an action on a list, and confirm; return the confirmation page, and the messages of the list after it."""
    asked = await post(staff, path, action=action, _selected_action=[str(key) for key in keys], **given)
    assert not await LogEntry.objects.filter(change_message=action).aexists()
    data = {"action": action, "chosen": asked.context["chosen"], "confirmed": "yes", **given}
    return asked.content.decode(), shown_messages(await post(staff, path, **data))


async def logged() -> list[tuple[str, str]]:
    return [(entry.object_id, entry.change_message) async for entry in LogEntry.objects.order_by("pk")]


async def test_undelivered_messages_are_retried_for_a_room_and_for_a_member(
    staff: Client, room: Room, people: tuple[User, User], events: Events
) -> None:
    _, grace = people
    await open_store().presence.report("process", [grace.pk], 60)
    asked, shown = await act(staff, "undeliveredroom/", "retry", room.pk)
    assert "1 room will be swept now" in asked
    assert shown == "Swept: 1, skipped: 0, failed: 0."
    await events.until(type="sweep", room=room.pk)

    members, place = f"undeliveredmember/?room={room.pk}", f"{room.pk}:{grace.pk}"
    asked, shown = await act(staff, members, "retry", place)
    assert "sent again now to 1 member, if connected" in asked
    assert shown == "Retried: 1, skipped: 0, failed: 0."
    await events.until(type="sweep", room=room.pk)
    _, shown = await act(staff, members, "reset", place)
    assert shown == "Reset: 0, skipped: 1, failed: 0. Why: no attempts counted (1)."
    assert await logged() == [
        (room.pk, "retried undelivered messages"),
        (place, "retried undelivered messages"),
    ]


async def test_messages_are_deleted_and_extended_by_staff_who_are_no_members(
    staff: Client, room: Room
) -> None:
    asked = await post(staff, "storedmessage/", action="extend", _selected_action=[f"{room.pk}:2"])
    assert "Minimum lifetime from now, in seconds" in asked.content.decode()
    for wrong in ("9", "x", "", "99999999"):
        again = await post(
            staff, "storedmessage/", action="extend", chosen=f"{room.pk}:2", confirmed="yes", ttl=wrong
        )
        assert "errorlist" in again.content.decode()
    asked, shown = await act(staff, "storedmessage/", "extend", f"{room.pk}:2", ttl=86_400)
    assert "1 message will live at least 86,400 seconds from now." in asked
    assert shown == "Extended: 1, skipped: 0, failed: 0."

    asked, shown = await act(staff, "storedmessage/", "delete", f"{room.pk}:1", f"{room.pk}:2")
    assert "2 messages will be removed permanently from every screen" in asked
    assert shown == "Deleted: 2, skipped: 0, failed: 0."
    assert await open_store().lists.live(0, 10, key_of(room)) == []
    assert len(await logged()) == 3


async def test_a_text_is_shown_after_a_reason_and_the_access_is_logged_without_it(
    staff: Client, room: Room
) -> None:
    page = f"{PAGES}/storedmessage/{room.pk}:1/"
    shown = await in_db_thread(staff.get, f"{page}change/")
    assert "Show text" in shown.content.decode()
    for reason in ("", "   ", "x" * 201):
        answer = await in_db_thread(staff.post, f"{page}text/", {"reason": reason})
        assert answer.status_code == 400
        assert SECRET not in answer.content.decode()
    assert SECRET not in (await in_db_thread(staff.get, f"{page}text/")).content.decode()
    assert await logged() == []

    answer = await in_db_thread(staff.post, f"{page}text/", {"reason": "reported by grace"})
    assert SECRET in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert await logged() == [(f"{room.pk}:1", "viewed the text: reported by grace")]

    await open_store().scripts.pipeline([("HSET", f"{key_of(room).key}:msg:1", "expires_at", 1)])
    gone = await in_db_thread(staff.post, f"{page}text/", {"reason": "again"})
    assert gone.status_code == 404
    assert SECRET not in gone.content.decode()


async def test_the_page_of_a_message_has_its_actions(staff: Client, room: Room) -> None:
    answer = await in_db_thread(staff.get, f"{PAGES}/storedmessage/{room.pk}:1/change/")
    for name in ("extend", "delete"):
        assert f'name="action" value="{name}"' in answer.content.decode()
    asked = await post(staff, "storedmessage/", action="delete", chosen=f"{room.pk}:1")
    assert "Atlas, seq 1, from " in asked.content.decode()
    assert len(await open_store().lists.live(0, 10, key_of(room))) == 2


async def test_a_lifetime_is_changed_after_the_page_has_counted_the_messages_that_expire(
    staff: Client, room: Room
) -> None:
    asked, shown = await act(staff, "room/", "lifetime", room.pk, ttl=30, shorten="on")
    assert "New messages in 1 room will live 30 seconds. Rooms whose lifetime changes: 1." in asked
    assert "Of 2 existing messages, 2 will expire sooner, 2 of them immediately." in asked
    assert shown == "Changed: 1, skipped: 0, failed: 0."
    assert await open_store().lists.live(0, 10, key_of(room)) == []

    asked, shown = await act(staff, "room/", "lifetime", room.pk, ttl=60)
    assert "Existing messages keep their expiry." in asked
    await room.arefresh_from_db()
    assert room.ttl_s == 60


async def test_the_connections_of_a_user_are_closed(
    staff: Client, room: Room, people: tuple[User, User], events: Events
) -> None:
    _, grace = people
    await open_store().presence.report("process", [grace.pk], 60)
    rows = [membership.pk async for membership in Membership.objects.all()]
    asked, shown = await act(staff, "membership/", "close", *rows)
    assert "All connections of 2 people will be closed." in asked
    assert shown == "Closed: 1, skipped: 1, failed: 0. Why: not connected (1)."
    await events.until(type="close_user", user=grace.pk)
