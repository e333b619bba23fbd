"""Inform the open sockets of changes to accounts: ended sessions, deactivated and deleted users.

| change in the database                                | control event, after the commit                  |
|-------------------------------------------------------|---------------------------------------------------|
| a session is deleted: logout, flush, a new key         | session_ended                                     |
| a user is deactivated, or has a new password           | user_ended                                        |
| a user is deleted                                      | user_ended; memberships are marked, then finished |
|                                                        | (the same transaction saves the name)             |
| a room is deleted                                      | membership_changed for each member                |

The sockets check every 60 s. This finds changes that send no Django signal, for example an UPDATE in SQL.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save
from django.dispatch import receiver
from django.utils import timezone

from messaging import control
from messaging.bridge import run_async
from messaging.models import FormerUser, Membership, Room

from . import actions as rooms
from . import memberships
from .memberships import Departure


@receiver(post_delete, sender=Session)
def end_session(instance: Session, **_: Any) -> None:
    """Inform the sockets of a deleted session."""
    _announce_after_commit("session_ended", session=control.session_digest(instance.session_key))


@receiver(pre_save, sender=get_user_model())
def remember_ending_sessions(
    instance: User, update_fields: Collection[str] | None = None, raw: bool = False, **_: Any
) -> None:
    """Note on the instance whether a save ends the user's sessions. After the save, the old values are lost."""
    instance._ends_sessions = not raw and _ends_sessions(instance, update_fields)  # type: ignore[attr-defined]


@receiver(post_save, sender=get_user_model())
def end_user(instance: User, **_: Any) -> None:
    """Inform the sockets of a user who was deactivated or has a new password."""
    if instance._ends_sessions:  # type: ignore[attr-defined]
        _announce_after_commit("user_ended", user=instance.pk)


@receiver(pre_delete, sender=get_user_model())
def delete_user(instance: User, **_: Any) -> None:
    """Mark a user's memberships. After the commit of the deletion, inform the store and the sockets."""
    FormerUser.objects.update_or_create(
        user_key=instance.pk, defaults={"name": instance.get_username(), "deleted_at": timezone.now()}
    )
    departures = memberships.mark_user_leaving(instance.pk)
    _announce_after_commit("user_ended", user=instance.pk)
    if departures:
        transaction.on_commit(partial(run_async, rooms.finish_all, departures), robust=True)


@receiver(pre_delete, sender=Room)
def delete_room(instance: Room, **_: Any) -> None:
    """End the memberships of a deleted room. Its messages stay in the store until they expire, and all members then count as leavers."""
    rows = Membership.objects.filter(room=instance).values_list("pk", "user_id")
    departures = [Departure(pk, memberships.key_of(instance), user) for pk, user in rows]
    if departures:
        transaction.on_commit(partial(run_async, rooms.finish_all, departures), robust=True)


def _announce_after_commit(kind: str, **fields: str | int) -> None:
    transaction.on_commit(partial(run_async, control.announce, kind, **fields), robust=True)


def _ends_sessions(user: User, update_fields: Collection[str] | None) -> bool:
    if user._state.adding or (
        update_fields is not None and {"is_active", "password"}.isdisjoint(update_fields)
    ):
        return False
    before = get_user_model().objects.filter(pk=user.pk).values_list("is_active", "password").first()
    return before is not None and before[0] and before != (user.is_active, user.password)
