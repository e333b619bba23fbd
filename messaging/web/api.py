"""Rooms and people over HTTP. Sockets carry messages; data that changes rarely is read and changed here.

A handler returns the answer of one address and method; its docstring shows the shape. `endpoint` handles login and errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db.models import Count, Exists, OuterRef, Q
from django.db.models.functions import Lower
from django.http import HttpRequest
from msgspec import Meta, Struct

from messaging import rooms
from messaging.bridge import in_db_thread
from messaging.errors import NoSuchMessage
from messaging.expiry import notice_pages
from messaging.models import Membership, Room, epoch_ms
from messaging.rooms import memberships, permissions
from messaging.store import open_store
from messaging.store.records import Recipient

from .endpoint import Answer, body_of, endpoint, number_of, text_of

MAX_PUBLIC_ROOMS = 100
MAX_PEOPLE = 20
MAX_LIFETIMES = 20
MEMBER_BATCH = 200


class NewRoom(Struct, frozen=True):
    """Lifetimes in seconds; `members` are usernames."""

    name: str
    kind: Literal["public", "private"]
    topic: str = ""
    ttl: int | None = None
    ttl_max: int | None = None
    members: list[str] = []


class RoomChange(Struct, frozen=True):
    """Missing fields keep their present values."""

    name: str | None = None
    topic: str | None = None
    ttl: int | None = None
    ttl_max: int | None = None


class Shortening(Struct, frozen=True):
    """`ttl` in seconds after a message was sent. By default the messages are only counted."""

    ttl: int
    dry_run: bool = True


class RoomIds(Struct, frozen=True):
    """At most 500 rooms."""

    rooms: Annotated[list[Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,32}$")]], Meta(max_length=500)]


class PersonName(Struct, frozen=True):
    """A person, by username."""

    name: str


# ── Rooms ──


async def list_public(user: User, request: HttpRequest) -> Answer:
    """{rooms: [{room, name, topic, members, joined}]}: public rooms whose name or topic contains `q`."""
    return HTTPStatus.OK, {"rooms": await in_db_thread(_public_rooms, user.pk, text_of(request, "q"))}


async def make_room(user: User, request: HttpRequest) -> Answer:
    """{room}"""
    new_room = body_of(request, NewRoom)
    room = await rooms.create_room(
        user.pk,
        new_room.name,
        kind=new_room.kind,
        topic=new_room.topic,
        ttl_s=new_room.ttl,
        ttl_max_s=new_room.ttl_max,
        members=new_room.members,
        by=user.pk,
    )
    return HTTPStatus.CREATED, {"room": room.id}


async def show_room(user: User, request: HttpRequest, room: str) -> Answer:
    """{room, name, kind, topic, ttl, ttl_max, tracked, role, members_total}"""
    return HTTPStatus.OK, await in_db_thread(_details, user.pk, room)


async def change_room(user: User, request: HttpRequest, room: str) -> Answer:
    """As `show_room`, after the change."""
    body = body_of(request, RoomChange)
    change = memberships.Change(name=body.name, topic=body.topic, ttl_s=body.ttl, ttl_max_s=body.ttl_max)
    await rooms.change_room(user.pk, room, change)
    return HTTPStatus.OK, await in_db_thread(_details, user.pk, room)


async def list_lifetimes(user: User, request: HttpRequest, room: str) -> Answer:
    """{lifetimes: [{at, by: {id, name} or null, from, to}]}: the newest 20 changes of the room's lifetime, the oldest first."""
    return HTTPStatus.OK, {"lifetimes": await in_db_thread(_lifetimes, user.pk, room)}


async def shorten(user: User, request: HttpRequest, room: str) -> Answer:
    """{looked, shortened, ended}: messages in the room, those that end sooner, and those of them that end now."""
    body = body_of(request, Shortening)
    result = await rooms.shorten(user.pk, room, body.ttl, dry_run=body.dry_run)
    return HTTPStatus.OK, {"looked": result.looked, "shortened": result.shortened, "ended": result.ended}


async def open_direct(user: User, request: HttpRequest) -> Answer:
    """{room}"""
    room = await rooms.open_direct(user.pk, body_of(request, PersonName).name)
    return HTTPStatus.OK, {"room": room.id}


async def join(user: User, request: HttpRequest, room: str) -> Answer:
    """{room}"""
    joined = await rooms.join_room(user.pk, room)
    return HTTPStatus.OK, {"room": joined.id}


async def leave(user: User, request: HttpRequest, room: str) -> Answer:
    """Nothing."""
    await rooms.leave_room(user.pk, room)
    return HTTPStatus.NO_CONTENT, {}


async def leave_many(user: User, request: HttpRequest) -> Answer:
    """{left: [room]}: the rooms that the user left. Direct rooms are kept; rooms of which they are no member are ignored."""
    return HTTPStatus.OK, {"left": await rooms.leave_rooms(user.pk, body_of(request, RoomIds).rooms)}


# ── Members and people ──


async def list_members(user: User, request: HttpRequest, room: str) -> Answer:
    """{members: [{user, name, role}], total}: by user id, 200 at a time, those after the id in `after`."""
    return HTTPStatus.OK, await in_db_thread(_members, user.pk, room, number_of(request, "after"))


async def add_member(user: User, request: HttpRequest, room: str) -> Answer:
    """{user}; 201 when it is a new member, else 200."""
    member, new = await rooms.add_member(user.pk, room, body_of(request, PersonName).name)
    return HTTPStatus.CREATED if new else HTTPStatus.OK, {"user": member}


async def remove_member(user: User, request: HttpRequest, room: str, member: int) -> Answer:
    """Nothing."""
    await rooms.remove_member(user.pk, room, member)
    return HTTPStatus.NO_CONTENT, {}


async def list_people(user: User, request: HttpRequest) -> Answer:
    """{people: [{user, name}]}: people in a room of the user whose name begins with `q`, and the person with exactly this name."""
    return HTTPStatus.OK, {"people": await in_db_thread(_people, user.pk, text_of(request, "q"))}


async def list_recipients(user: User, request: HttpRequest, room: str, seq: int) -> Answer:
    """{seq, id, total, delivered, read, recipients: [{user, name, state, attempts, next_at, reason}]}

    For the sender, and for the room's moderators if they can read the message. Other users get `no_such_message`.
    """
    membership = await in_db_thread(permissions.membership_of, user.pk, room)
    store = open_store()
    delivery = await store.cursors.recipients(
        memberships.key_of(membership.room),
        seq,
        reader=user.pk,
        open_history=membership.room.kind == Room.Kind.PUBLIC,
    )
    if delivery.sender != user.pk and not membership.moderates:
        raise NoSuchMessage()
    names = await in_db_thread(_names, [member.user for member in delivery.members])
    online: set[int] = set().union(*(await store.presence.online()).values())
    return HTTPStatus.OK, {
        "seq": seq,
        "id": delivery.id,
        "total": delivery.total,
        "delivered": delivery.delivered,
        "read": delivery.read,
        "recipients": [
            {
                "user": member.user,
                "name": names.get(member.user, ""),
                "state": member.state,
                "attempts": member.attempts,
                "next_at": member.next_at_ms,
                "reason": _reason(member, online),
            }
            for member in delivery.members
        ],
    }


async def list_notices(user: User, request: HttpRequest) -> Answer:
    """{notices: [as the frame `notice`], next}: the user's notices, waiting and dismissed, the newest first, at most `limit` (100).

    `next` is the `before` of the following page, null on the last. Notices that a summary stands for are included.
    """
    before, limit = text_of(request, "before"), number_of(request, "limit") or notice_pages.MAX_NOTICES
    return HTTPStatus.OK, await in_db_thread(notice_pages.notices_before, user.pk, before, limit)


async def list_missing(user: User, request: HttpRequest, notice: str) -> Answer:
    """{missing: [{user, name, reason, attempts}], total}: by user id, 200 at a time, those after the id in `after`."""
    after = number_of(request, "after")
    return HTTPStatus.OK, await in_db_thread(notice_pages.missing_after, user.pk, notice, after)


# ── Queries ──


def _public_rooms(user: int, text: str) -> list[dict[str, Any]]:
    own = Membership.objects.filter(room=OuterRef("pk"), user_id=user, leaving_at=None)
    matching = Room.objects.filter(kind=Room.Kind.PUBLIC).filter(
        Q(name__icontains=text) | Q(topic__icontains=text)
    )
    counted = matching.annotate(
        members=Count("memberships", filter=Q(memberships__leaving_at=None)), joined=Exists(own)
    )
    rows = counted.order_by(Lower("name"), "pk").values_list("pk", "name", "topic", "members", "joined")
    keys = ("room", "name", "topic", "members", "joined")
    return [dict(zip(keys, row, strict=True)) for row in rows[:MAX_PUBLIC_ROOMS]]


def _details(user: int, room_id: str) -> dict[str, Any]:
    membership = permissions.membership_of(user, room_id)
    room = membership.room
    return {
        "room": room.id,
        "name": memberships.room_name_for(room, user),
        "kind": room.kind,
        "topic": room.topic,
        "ttl": room.ttl_s,
        "ttl_max": room.ttl_max_s,
        "tracked": room.tracked,
        "role": membership.role,
        "members_total": Membership.objects.filter(room=room, leaving_at=None).count(),
    }


def _lifetimes(user: int, room: str) -> list[dict[str, Any]]:
    return [
        {
            "at": epoch_ms(entry.at),
            "by": None if entry.user_key is None else {"id": entry.user_key, "name": entry.user_name},
            "from": entry.detail["from"],
            "to": entry.detail["to"],
        }
        for entry in memberships.lifetime_changes(user, room, MAX_LIFETIMES)
    ]


def _members(user: int, room: str, after: int) -> dict[str, Any]:
    permissions.membership_of(user, room)
    present = Membership.objects.filter(room=room, leaving_at=None)
    rows = present.filter(user_id__gt=after).order_by("user_id")
    fields = rows.values_list("user_id", f"user__{get_user_model().USERNAME_FIELD}", "role")[:MEMBER_BATCH]
    members = [{"user": member, "name": name, "role": role} for member, name, role in fields]
    return {"members": members, "total": present.count()}


def _people(user: int, text: str) -> list[dict[str, Any]]:
    """Return the people that `user` may find. Strangers are found by their full name only, so that nobody can list all accounts."""
    rooms_of_user = Membership.objects.filter(user_id=user, leaving_at=None).values("room")
    known = Membership.objects.filter(user=OuterRef("pk"), room__in=rooms_of_user, leaving_at=None)
    findable = (
        memberships.people()
        .exclude(pk=user)
        .filter(Q(username__iexact=text) | Q(Exists(known), username__istartswith=text))
    )
    rows = findable.order_by("username").values_list("pk", "username")[:MAX_PEOPLE]
    return [{"user": person, "name": name} for person, name in rows]


def _reason(member: Recipient, online: set[int]) -> str | None:
    """Return why a message was not delivered; None while it is in flight to a connected member."""
    if member.state != "waiting" or member.reason or member.user in online:
        return member.reason
    return "offline"


def _names(users: Iterable[int]) -> dict[int, str]:
    model = get_user_model()
    return dict(model.objects.filter(pk__in=users).values_list("pk", model.USERNAME_FIELD))


# ── Views ──

public_rooms_view = endpoint(GET=list_public)
rooms_view = endpoint(POST=make_room)
room_view = endpoint(GET=show_room, PATCH=change_room)
join_view = endpoint(POST=join)
leave_view = endpoint(POST=leave)
leave_many_view = endpoint(POST=leave_many)
lifetimes_view = endpoint(GET=list_lifetimes)
shorten_view = endpoint(POST=shorten)
members_view = endpoint(GET=list_members, POST=add_member)
member_view = endpoint(DELETE=remove_member)
direct_view = endpoint(POST=open_direct)
people_view = endpoint(GET=list_people)
recipients_view = endpoint(GET=list_recipients)
notices_view = endpoint(GET=list_notices)
missing_view = endpoint(GET=list_missing)
