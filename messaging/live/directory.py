"""Sessions, users and memberships from the database, as plain data for the sockets.

They are read when a connection begins, when a control event reports a change, and every 60 s in case an event was lost. Each read is
a call in the database thread, and many sockets may share one. A `DatabaseError` is raised to the caller: a session that cannot be
checked is not an invalid session.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.models import Session
from django.db.models import Q
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from messaging.models import Membership, Room
from messaging.store.records import RoomKey

from .connection import Visitor
from .feed import MemberRoom
from .query_batches import batch_query

QUERY_BATCH = 500  # users or sessions in one query

Member = tuple[str, int]  # room id, user
Rights = tuple[str | int | bool, ...]  # role, lifetime, longest lifetime, whether messages are tracked


def session_key(headers: Collection[tuple[bytes, bytes]]) -> str:
    """Return the session key in a handshake's cookies, or ''."""
    # Django's parser, as for pages: the standard one stops at the first invalid cookie, of any site on this host.
    cookies = "; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
    return str(parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME, ""))


async def authenticate(key: str) -> Visitor | None:
    """Return the user of a session; None if there is no such session or its user is not active."""
    if not key or "\0" in key:  # a database cannot store a NUL
        return None
    return await batch_query(_visitors, key)


def _visitors(keys: Collection[str]) -> dict[str, Visitor | None]:
    """Do what `django.contrib.auth.get_user` does, but with two queries for all keys.

    With two queries for each key, a reconnect of 1,000 sockets took a second.
    """
    rows = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    sessions = {row.session_key: row.get_decoded() for row in rows}
    people = get_user_model()._default_manager
    users = people.filter(is_active=True).in_bulk({_pk(data) for data in sessions.values()})
    return {key: _visitor(key, sessions.get(key, {}), users) for key in keys}


def _pk(session: Mapping[str, Any]) -> int:
    """Return the user id in a session, or 0 if there is no valid one."""
    value = str(session.get(SESSION_KEY, ""))
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 19 else 0


def _visitor(key: str, session: Mapping[str, Any], users: Mapping[int, Any]) -> Visitor | None:
    user = users.get(_pk(session))
    if user is None or session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    hashes = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    if not any(constant_time_compare(session.get(HASH_SESSION_KEY, ""), known) for known in hashes):
        return None
    return Visitor(user.pk, user.get_username(), key, _credential(user.password))


@database_sync_to_async
def still_authorized(visitors: Collection[Visitor]) -> set[Visitor]:
    """Return the visitors whose session exists, whose user is active and whose password has not changed.

    Two queries for each batch.
    """
    remaining = list(visitors)
    authorized: set[Visitor] = set()
    for start in range(0, len(remaining), QUERY_BATCH):
        chunk = remaining[start : start + QUERY_BATCH]
        sessions = set(
            Session.objects.filter(
                session_key__in=[visitor.session for visitor in chunk], expire_date__gt=timezone.now()
            ).values_list("session_key", flat=True)
        )
        passwords = dict(
            get_user_model()
            .objects.filter(pk__in={visitor.user for visitor in chunk}, is_active=True)
            .values_list("pk", "password")
        )
        authorized.update(
            visitor
            for visitor in chunk
            if visitor.session in sessions
            and _credential(passwords.get(visitor.user, "")) == visitor.credential
        )
    return authorized


async def rooms_of(user: int) -> list[MemberRoom]:
    """Return the rooms of a user, sorted by name. A direct room has the name of the other member."""
    return await batch_query(_rooms, user)


def _rooms(users: Collection[int]) -> dict[int, list[MemberRoom]]:
    rooms: dict[int, list[MemberRoom]] = {user: [] for user in users}
    for user, room in _member_rooms(Q(user__in=users)):
        rooms[user].append(room)
    return rooms


@database_sync_to_async
def rooms_of_members(members: Collection[Member]) -> dict[Member, MemberRoom]:
    """Return the rooms of members, each a (room id, user) pair, without the pairs that are no members. One query for all.

    The thread answers in the order of the calls: a caller that uses the answer at once never replaces a newer one.
    """
    query = Q()
    for room_id, of_room in groupby(sorted(members), key=itemgetter(0)):
        query |= Q(room=room_id, user__in=[user for _, user in of_room])
    return {(room.key.id, user): room for user, room in _member_rooms(query)}


def _member_rooms(query: Q) -> list[tuple[int, MemberRoom]]:
    """Return (user, room) of memberships, sorted by the room's name."""
    memberships = Membership.objects.filter(query, leaving_at=None).select_related("room")
    rows = list(memberships.order_by("room__name"))
    others = _others({row.room_id for row in rows if row.room.kind == Room.Kind.DIRECT})
    rooms = []
    for row in rows:
        names = [name for member, name in others.get(row.room_id, ()) if member != row.user_id]
        rooms.append((row.user_id, _member_room(row, names[0] if names else None)))
    return rooms


def _others(direct: Collection[str]) -> dict[str, list[tuple[int, str]]]:
    """Return the members of direct rooms: {room: [(user, name)]}."""
    members: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    if direct:
        rows = Membership.objects.filter(room__in=direct)
        for room, user, name in rows.values_list("room", "user", f"user__{get_user_model().USERNAME_FIELD}"):
            members[room].append((user, name))
    return members


@database_sync_to_async
def rights_of_many(users: Collection[int]) -> dict[int, dict[str, Rights]]:
    """Return {user: {room id: rights}} of many users, for the check every 60 s."""
    rights: dict[int, dict[str, Rights]] = {user: {} for user in users}
    remaining = list(users)
    fields = ("role", "room__ttl_s", "room__ttl_max_s", "room__tracked")
    for start in range(0, len(remaining), QUERY_BATCH):
        chunk = remaining[start : start + QUERY_BATCH]
        rows = Membership.objects.filter(user__in=chunk, leaving_at=None)
        for user, room, *values in rows.values_list("user_id", "room_id", *fields):
            rights[user][room] = tuple(values)
    return rights


def rights_of(room: MemberRoom) -> Rights:
    """Return the rights that an open connection uses."""
    return room.role, room.ttl_s, room.ttl_max_s, room.tracked


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
        moderates=row.moderates,
        ttl_s=room.ttl_s,
        ttl_max_s=room.ttl_max_s,
        tracked=room.tracked,
    )


def _credential(password: str) -> str:
    """Return a digest of a password hash, so that the hash itself does not stay in the memory of the process."""
    return hashlib.sha256(password.encode()).hexdigest()
