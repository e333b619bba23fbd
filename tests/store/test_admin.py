"""Rooms and memberships on the staff's pages: changes are made as on the page of the chat."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from messaging.bridge import in_db_thread
from messaging.errors import Removed
from messaging.models import Membership, Room
from messaging.rooms import actions as rooms
from messaging.rooms.memberships import lifetime_changes
from tests.support.people import Events, in_store, person, room_of, rows_of

pytestmark = pytest.mark.usefixtures("verbs")
ROOM = {"name": "Atlas", "topic": "", "kind": "private", "ttl_s": 60, "ttl_max_s": 600, "tracked": "on"}


@pytest.fixture
async def staff(verbs: None) -> Client:
    user = await person("staff", is_staff=True, is_superuser=True)
    client = Client()
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


async def post(staff: Client, path: str, data: dict[str, Any]) -> int:
    answer = await in_db_thread(staff.post, f"/admin/messaging/{path}", data)
    return answer.status_code


async def test_a_room_is_created_and_changed(staff: Client, events: Events) -> None:
    assert await post(staff, "room/add/", ROOM) == 302
    room = await Room.objects.aget()
    assert (room.name, room.kind) == ("Atlas", "private")

    assert await post(staff, f"room/{room.pk}/change/", ROOM | {"name": "Borealis"}) == 302
    await events.until(type="room_changed", room=room.pk)


async def test_the_staff_who_changed_a_lifetime_are_named_to_its_room(staff: Client, ada: User) -> None:
    room = await room_of(ada, ttl_s=60, ttl_max_s=600)
    assert await post(staff, f"room/{room.pk}/change/", ROOM | {"topic": "the same lifetime"}) == 302
    assert await post(staff, f"room/{room.pk}/change/", ROOM | {"ttl_s": 120}) == 302

    [change] = await in_db_thread(lifetime_changes, ada.pk, room.pk, 20)

    assert (change.user_name, change.detail) == ("staff", {"from": 60, "to": 120})


@pytest.mark.parametrize(
    "wrong", [{"name": "a\u202eb"}, {"ttl_s": 9}, {"ttl_s": 601}, {"ttl_max_s": 10**9}, {"kind": "direct"}]
)
async def test_the_rules_of_rooms_hold_here_too(staff: Client, wrong: dict[str, Any]) -> None:
    assert await post(staff, "room/add/", ROOM | wrong) == 200  # the form with an error
    assert not await Room.objects.aexists()


async def test_the_kind_of_a_room_with_members_does_not_change(staff: Client, ada: User) -> None:
    room = await room_of(ada)
    await post(staff, f"room/{room.pk}/change/", ROOM | {"kind": "public"})
    await room.arefresh_from_db()
    assert room.kind == "private"


async def test_a_member_added_by_staff_is_in_the_store_and_announced(
    staff: Client, ada: User, events: Events
) -> None:
    grace = await person("grace")
    room = await room_of(ada)

    assert (
        await post(staff, "membership/add/", {"room": room.pk, "user": grace.pk, "role": "moderator"}) == 302
    )

    assert (await rows_of(room))["grace"] == "moderator"
    assert await in_store(room, grace)
    await events.until(type="membership_changed", room=room.id, user=grace.pk)


async def test_another_role_is_announced(staff: Client, ada: User, events: Events) -> None:
    room = await room_of(ada)
    await events.next()
    row = await Membership.objects.aget()

    assert await post(staff, f"membership/{row.pk}/change/", {"role": "member"}) == 302

    assert await rows_of(room) == {"ada": "member"}
    await events.until(type="membership_changed", user=ada.pk)


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_member_removed_by_staff_leaves_the_store_and_is_announced(
    staff: Client, ada: User, events: Events, at_once: bool
) -> None:
    grace = await person("grace")
    room = await room_of(ada, grace)
    row = await Membership.objects.aget(user=grace)

    if at_once:
        data = {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
        assert await post(staff, "membership/", data) == 302
    else:
        assert await post(staff, f"membership/{row.pk}/delete/", {"post": "yes"}) == 302

    assert await rows_of(room) == {"ada": "owner"}
    assert not await in_store(room, grace)
    for _ in range(2):
        await events.until(type="membership_changed", user=grace.pk)


async def test_member_removed_by_staff_from_a_public_room_cannot_join_it_again(
    staff: Client, ada: User
) -> None:
    grace = await person("grace")
    room = await room_of(ada, grace, kind="public")
    row = await Membership.objects.aget(user=grace)
    await post(staff, f"membership/{row.pk}/delete/", {"post": "yes"})
    with pytest.raises(Removed):
        await rooms.join_room(grace.pk, room.id)
    await post(staff, "membership/add/", {"room": room.pk, "user": grace.pk, "role": "member"})
    await rooms.leave_room(grace.pk, room.id)
    await rooms.join_room(grace.pk, room.id)
    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_members_of_a_direct_room_cannot_be_changed(staff: Client, ada: User) -> None:
    await person("grace")
    bob = await person("bob")
    room = await rooms.open_direct(ada.pk, "grace")
    row = await Membership.objects.aget(user=ada)

    assert await post(staff, "membership/add/", {"room": room.pk, "user": bob.pk, "role": "member"}) == 200
    assert await post(staff, f"membership/{row.pk}/delete/", {"post": "yes"}) == 403

    assert set(await rows_of(room)) == {"ada", "grace"}


async def test_the_lists_show_rooms_and_members(staff: Client, ada: User) -> None:
    await room_of(ada, name="<b>Atlas</b>")
    for path in ("room/", "membership/", "room/?q=atlas", "membership/?q=ada"):
        answer = await in_db_thread(staff.get, f"/admin/messaging/{path}")
        assert answer.status_code == 200
        assert b"&lt;b&gt;Atlas" in answer.content
        assert b"<b>Atlas" not in answer.content
