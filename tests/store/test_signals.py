"""Changes of accounts reach open sockets after the commit. A deleted user leaves every room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone

from messaging import control
from messaging.bridge import in_db_thread
from messaging.models import Membership, Room
from messaging.rooms import actions as rooms
from messaging.rooms.memberships import STUCK
from messaging.store.members import Members
from tests.support.people import Events, in_store, person, room_of, rows_of, unavailable

pytestmark = pytest.mark.usefixtures("verbs")
PASSWORD = "a-good-one-4711"


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


async def test_logout_ends_only_its_session(ada: User, events: Events) -> None:
    here, there = await in_db_thread(logged_in, ada), await in_db_thread(logged_in, ada)
    key = here.session.session_key
    assert key is not None

    await in_db_thread(here.post, "/accounts/logout/")

    await events.until(type="session_ended", session=control.session_digest(key))
    assert (await in_db_thread(there.get, "/ws/chat/check/")).status_code == 204


async def test_the_session_key_itself_is_never_announced(ada: User, events: Events) -> None:
    client = await in_db_thread(logged_in, ada)
    key = client.session.session_key
    assert key is not None
    await in_db_thread(client.logout)
    assert key not in str(await events.until(session=control.session_digest(key)))


async def test_a_flushed_and_an_expired_session_end_too(ada: User, events: Events) -> None:
    client = await in_db_thread(logged_in, ada)
    await in_db_thread(client.session.flush)
    await events.until(type="session_ended")

    store = SessionStore()
    await in_db_thread(store.create)
    await Session.objects.aupdate(expire_date=timezone.now())
    await in_db_thread(call_command, "clearsessions")
    await events.until(type="session_ended", session=control.session_digest(store.session_key or ""))


async def test_connections_of_a_deactivated_user_end(ada: User, events: Events) -> None:
    ada.is_active = False
    await ada.asave()
    assert await events.next() == {"type": "user_ended", "user": ada.pk}


async def test_deactivation_is_in_the_database_before_it_is_announced(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[bool] = []

    async def look(*_: object, **fields: int) -> None:
        states.append((await User.objects.aget(pk=fields["user"])).is_active)

    monkeypatch.setattr(control, "publish", look)
    ada.is_active = False
    await ada.asave()

    assert states == [False]


async def test_another_password_is_announced_so_that_old_sessions_end(ada: User, events: Events) -> None:
    ada.set_password(PASSWORD)
    await ada.asave(update_fields=["password"])
    assert await events.next() == {"type": "user_ended", "user": ada.pk}


def _another_address(user: User) -> None:
    user.email = "ada@example.org"
    user.save()


def _log_in_again(user: User) -> None:
    user.last_login = timezone.now()
    user.save(update_fields=["last_login"])


def _create_another(user: User) -> None:
    User.objects.create_user("grace", password=PASSWORD)


@pytest.mark.parametrize("change", [_another_address, _log_in_again, _create_another])
async def test_other_changes_of_a_user_end_nothing(
    ada: User, events: Events, change: Callable[[User], None]
) -> None:
    await in_db_thread(change, ada)
    await control.announce("room_changed", room="after")
    assert (await events.next())["type"] == "room_changed"


async def test_rolled_back_change_is_not_announced(ada: User, events: Events) -> None:
    def change_then_roll_back() -> None:
        with transaction.atomic():
            ada.is_active = False
            ada.save()
            transaction.set_rollback(True)

    await in_db_thread(change_then_roll_back)
    await control.announce("room_changed", room="after")
    assert (await events.next())["type"] == "room_changed"


async def test_deleted_user_leaves_every_room_and_their_ownership_is_passed_on(
    ada: User, events: Events
) -> None:
    grace = await person("grace")
    room = await room_of(ada, grace)
    ada_id = ada.pk

    await ada.adelete()

    assert await rows_of(room) == {"grace": "owner"}
    assert not await Membership.objects.filter(user_id=ada_id).aexists()
    ada.pk = ada_id
    assert not await in_store(room, ada)
    await events.until(type="user_ended", user=ada_id)
    await events.until(type="membership_changed", user=ada_id)


async def test_user_deleted_while_the_store_is_down_is_out_and_the_sweep_finishes_it(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await room_of(ada)
    ada_id = ada.pk

    with monkeypatch.context() as context:
        context.setattr(Members, "leave", unavailable)
        await ada.adelete()
    left = await Membership.objects.aget(user_id=ada_id)
    assert left.leaving_at is not None
    assert str(ada_id) in await in_db_thread(str, left)

    await Membership.objects.aupdate(leaving_at=left.leaving_at - STUCK)
    await rooms.finish_leaving()

    assert not await Membership.objects.aexists()
    ada.pk = ada_id
    assert not await in_store(room, ada)


async def test_the_deletion_of_a_user_that_is_rolled_back_changes_nothing(ada: User) -> None:
    room = await room_of(ada)

    def delete_then_roll_back() -> None:
        with transaction.atomic():
            User.objects.get(pk=ada.pk).delete()
            transaction.set_rollback(True)

    await in_db_thread(delete_then_roll_back)

    assert await rows_of(room) == {"ada": "owner"}
    assert await in_store(room, ada)


async def test_a_deleted_room_ends_all_memberships(ada: User, events: Events) -> None:
    room = await room_of(ada)
    await events.next()

    await Room.objects.filter(pk=room.pk).adelete()

    assert await events.next() == {"type": "membership_changed", "room": room.id, "user": ada.pk}
    assert not await in_store(room, ada)
