"""What the database says about who may be here: sessions, users, memberships, as plain data for the sockets.

Read when a connection begins, when a control event says that something changed, and every 60 s in case that event was lost.
Each is one hop to a thread, or a share of one; a `DatabaseError` passes through, for "cannot be checked" is not "no".
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from messaging.bridge import in_database
from messaging.models import Membership, Room
from messaging.store.records import RoomKey

from .connection import MemberRoom, Visitor
from .query_batches import ask


def session_key(headers: Collection[tuple[bytes, bytes]]) -> str:
    """Return the session key of a handshake's cookies, '' without one."""
    # Django's parser, as for pages: the standard one gives up at the first cookie, of whatever site on this host, that is odd.
    given = "; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
    return str(parse_cookie(given).get(settings.SESSION_COOKIE_NAME, ""))


async def visitor(key: str) -> Visitor | None:
    """Return who a session belongs to, None when it is no session or its user is not active."""
    return await ask(_visitors, key) if key and "\0" not in key else None  # no database keeps a NUL


def _visitors(keys: Collection[str]) -> dict[str, Visitor | None]:
    """As `django.contrib.auth.get_user`, but two queries for all: with two for each, 1,000 who came back took a second of them."""
    rows = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    sessions = {row.session_key: row.get_decoded() for row in rows}
    people = get_user_model()._default_manager
    users = people.filter(is_active=True).in_bulk({_pk(data) for data in sessions.values()})
    return {key: _visitor(key, sessions.get(key, {}), users) for key in keys}


def _pk(session: Mapping[str, Any]) -> int:
    """Return whose session it is, 0 where it is nobody's or says what is no number of a user."""
    given = str(session.get(SESSION_KEY, ""))
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else 0


def _visitor(key: str, session: Mapping[str, Any], users: Mapping[int, Any]) -> Visitor | None:
    user = users.get(_pk(session))
    if user is None or session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    hashes = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    if not any(constant_time_compare(session.get(HASH_SESSION_KEY, ""), known) for known in hashes):
        return None
    return Visitor(user.pk, user.get_username(), key, _credential(user.password))


@database_sync_to_async
def still_here(visitors: Collection[Visitor]) -> set[Visitor]:
    """Return those whose session lives, whose user is active and whose password is the same: two queries per 500."""
    remaining = list(visitors)
    here: set[Visitor] = set()
    for at in range(0, len(remaining), 500):
        part = remaining[at : at + 500]
        sessions = set(
            Session.objects.filter(
                session_key__in=[visitor.session for visitor in part], expire_date__gt=timezone.now()
            ).values_list("session_key", flat=True)
        )
        passwords = dict(
            get_user_model()
            .objects.filter(pk__in={visitor.user for visitor in part}, is_active=True)
            .values_list("pk", "password")
        )
        here.update(
            visitor
            for visitor in part
            if visitor.session in sessions
            and _credential(passwords.get(visitor.user, "")) == visitor.credential
        )
    return here


async def rooms_of(user: int) -> list[MemberRoom]:
    """Return the rooms a user is in, by name. A direct room has the other member's name."""
    return await ask(_rooms, user)


async def room_of(user: int, room: str) -> MemberRoom | None:
    """Return a room that a user is in, None when he is not."""
    found = await in_database(_rooms, [user], room)
    return next(iter(found[user]), None)


def _rooms(users: Collection[int], room: str | None = None) -> dict[int, list[MemberRoom]]:
    memberships = Membership.objects.filter(user__in=users, leaving_at=None).select_related("room")
    if room is not None:
        memberships = memberships.filter(room=room)
    rows = list(memberships.order_by("room__name"))
    others = _others({row.room_id for row in rows if row.room.kind == Room.Kind.DIRECT})
    found: dict[int, list[MemberRoom]] = {user: [] for user in users}
    for row in rows:
        names = [name for member, name in others.get(row.room_id, ()) if member != row.user_id]
        found[row.user_id].append(_member_room(row, names[0] if names else None))
    return found


def _others(direct: Collection[str]) -> dict[str, list[tuple[int, str]]]:
    """Return the members of direct rooms: {room: [(user, name)]}."""
    members: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    if direct:
        rows = Membership.objects.filter(room__in=direct)
        for room, user, name in rows.values_list("room", "user", f"user__{get_user_model().USERNAME_FIELD}"):
            members[room].append((user, name))
    return members


@database_sync_to_async
def rooms_of_many(users: Collection[int]) -> dict[int, set[str]]:
    """Return the room ids of many users: what the 60 s check compares."""
    found: dict[int, set[str]] = {user: set() for user in users}
    remaining = list(users)
    for at in range(0, len(remaining), 500):
        rows = Membership.objects.filter(user__in=remaining[at : at + 500], leaving_at=None)
        for user, room in rows.values_list("user_id", "room_id"):
            found[user].add(room)
    return found


@database_sync_to_async
def members_of(room: str) -> list[int]:
    """Return the user ids of a room's members."""
    return list(Membership.objects.filter(room=room, leaving_at=None).values_list("user_id", flat=True))


def _member_room(row: Membership, other: str | None) -> MemberRoom:
    room = row.room
    return MemberRoom(
        key=RoomKey(room.id, room.partition),
        name=other or room.name,
        kind=room.kind,
        role=row.role,
        ttl_s=room.ttl_s,
        ttl_max_s=room.ttl_max_s,
        tracked=room.tracked,
    )


def _credential(password: str) -> str:
    """Stand for a password hash without being one: it stays in the memory of the process."""
    return hashlib.sha256(password.encode()).hexdigest()
