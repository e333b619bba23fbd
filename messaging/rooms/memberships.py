"""Rows of rooms and memberships: permissions, and the marks of a leaving. Uses the database only.

Every function is synchronous. It is one transaction, or part of its caller's transaction. `actions` calls it in a thread, then
tells the store and the sockets. Ranks: owner, moderator, member. A direct room belongs to its two members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Case, QuerySet, Value, When
from django.utils import timezone

from messaging import audit, policy
from messaging.errors import BadTtl, Conflict, Forbidden, NoSuchUser, NotMember
from messaging.models import AuditEntry, Membership, Room
from messaging.store.records import RoomKey, Shortened

from .names import MAX_NAME, is_visible

STUCK_LEAVING = timedelta(minutes=1)  # an older mark means that a process died or the store was away
LEAVING_BATCH = 500

Role = Membership.Role
_RANK = {Role.OWNER: 0, Role.MODERATOR: 1, Role.MEMBER: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A membership that is marked as leaving. `heir`: the room's new owner, when the owner left."""

    membership: int
    room: RoomKey
    user: int
    heir: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """New values for a room; None keeps the present value."""

    name: str | None = None
    topic: str | None = None
    ttl_s: int | None = None
    ttl_max_s: int | None = None


def key_of(room: Room) -> RoomKey:
    """Return the store's key of a room."""
    return RoomKey(room.id, room.partition)


def membership_of(user: int, room: str) -> Membership:
    """Return a user's membership of a room, with the room. Raises NotMember."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at=None).select_related("room").first()
    if row is None:
        raise NotMember()
    return row


def public_room(room: str) -> Room:
    """Return a public room. Raises NotMember for any other."""
    row = Room.objects.filter(pk=room, kind=Room.Kind.PUBLIC).first()
    if row is None:
        raise NotMember()
    return row


def moderated_room(by: int, room: str) -> Room:
    """Return a room to which `by` may add people. Raises NotMember, Forbidden, Conflict."""
    membership = membership_of(by, room)
    _refuse_direct(membership.room, "A direct room has two people.")
    if not membership.moderates:
        raise Forbidden()
    return membership.room


def room_name_for(room: Room, user: int) -> str:
    """Return a room's name as `user` sees it: a direct room has the other member's name."""
    if room.kind != Room.Kind.DIRECT:
        return room.name
    others = Membership.objects.filter(room=room).exclude(user_id=user)
    return others.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True).first() or room.name


# ── People, by username ──


def people() -> QuerySet[User]:
    """Return all active users."""
    return get_user_model().objects.filter(is_active=True)


def person(name: str) -> User:
    """Return the person with this username; an exact match wins over one in other capitals. Raises NoSuchUser."""
    username = _normal(name)
    users = list(people().filter(username__iexact=username)[:10]) if username else []
    if not users:
        raise NoSuchUser()
    return next((user for user in users if user.get_username() == username), users[0])


def _persons(names: Iterable[str]) -> set[int]:
    return {person(name).pk for name in set(names)}


def _normal(name: str) -> str:
    """Return a username as it is stored; '' for an invalid one, also for text that PostgreSQL refuses to compare."""
    normal = get_user_model().normalize_username(name.strip())
    return normal if len(normal) <= 150 and is_visible(normal) else ""


# ── Creating and changing ──


def insert_room(room: Room, owner: int | None, names: Sequence[str]) -> list[int]:
    """Insert a room with its owner and the named people; return the members' ids. Raises NoSuchUser."""
    with transaction.atomic():
        others = _persons(names) - {owner}
        room.save(force_insert=True)
        rows = [] if owner is None else [Membership(room=room, user_id=owner, role=Role.OWNER)]
        rows += [Membership(room=room, user_id=user) for user in sorted(others)]
        Membership.objects.bulk_create(rows)
    return [row.user_id for row in rows]


def insert_direct(user: int, name: str) -> tuple[Room, list[int]]:
    """Return the direct room of two people and their ids; insert it when missing. Raises NoSuchUser, Conflict for oneself."""
    first, second = get_user_model().objects.get(pk=user), person(name)
    if first == second:
        raise Conflict("A direct room has two people.")
    low, high = sorted((first, second), key=lambda member: member.pk)
    site = policy.current()
    values = {
        "name": f"{low.get_username()} · {high.get_username()}"[:MAX_NAME],
        "kind": Room.Kind.DIRECT,
        "ttl_s": site.ttl_default_s,
        "ttl_max_s": site.ttl_max_s,
    }
    with transaction.atomic():
        room, _ = Room.objects.get_or_create(pair=f"{low.pk}:{high.pk}", defaults=values)
        rows = [Membership(room=room, user_id=member.pk) for member in (low, high)]
        Membership.objects.bulk_create(rows, ignore_conflicts=True)
    return room, [low.pk, high.pk]


def insert_membership(room: Room, user: int) -> bool:
    """Insert a membership; return whether it is new. Raises NotMember when the room no longer exists."""
    try:
        with transaction.atomic():
            return Membership.objects.get_or_create(room=room, user_id=user)[1]
    except IntegrityError:
        raise NotMember() from None


def changeable_room(by: int | None, room_id: str) -> Room:
    """Return and lock a room that `by` may change: owners, moderators, both members of a direct room; None is a staff action.

    Part of its caller's transaction. Raises NotMember, Forbidden.
    """
    room = Room.objects.select_for_update().filter(pk=room_id).first()
    if room is None:
        raise NotMember()
    if by is not None and not membership_of(by, room_id).moderates and room.kind != Room.Kind.DIRECT:
        raise Forbidden()
    return room


def update_room(
    by: int | None, room_id: str, change: Change, *, now_ms: int, staff: int | None = None
) -> Room:
    """Change a room; of a direct room only the lifetimes. A new lifetime is recorded for `by`, or else for `staff`.

    Raises NotMember, Forbidden, BadTtl.
    """
    with transaction.atomic():
        room = changeable_room(by, room_id)
        if change.name is not None or change.topic is not None:
            _refuse_direct(room, "A direct room cannot have its own name or topic.")
        room.name = room.name if change.name is None else change.name
        room.topic = room.topic if change.topic is None else change.topic
        if change.ttl_s is not None or change.ttl_max_s is not None:
            before_s = room.ttl_s
            room.ttl_s, room.ttl_max_s = lifetimes(change.ttl_s, change.ttl_max_s, room)
            record_lifetime(room, staff if by is None else by, before_s=before_s, now_ms=now_ms)
        room.save(update_fields=["name", "topic", "ttl_s", "ttl_max_s"])
    return room


def record_lifetime(room: Room, by: int | None, *, before_s: int, now_ms: int) -> None:
    """Record a change of a room's lifetime, and its author. The room's timeline shows it."""
    if room.ttl_s == before_s:
        return
    detail = {"from": before_s, "to": room.ttl_s}
    audit.note(audit.Verb.LIFETIME, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetime_changes(user: int, room_id: str, limit: int) -> list[AuditEntry]:
    """Return the newest `limit` changes of a room's lifetime, oldest first. Raises NotMember.

    As with messages, only a public room shows changes from before the user joined.
    """
    membership = membership_of(user, room_id)
    entries = AuditEntry.objects.filter(room_key=room_id, verb=audit.Verb.LIFETIME)
    if membership.room.kind != Room.Kind.PUBLIC:
        entries = entries.filter(at__gte=membership.joined_at)
    return list(entries.order_by("-at", "-pk")[:limit])[::-1]


def shortenable_room(by: int | None, room_id: str, ttl_s: int) -> Room:
    """Return a room whose existing messages `by` may shorten. Raises NotMember, Forbidden, BadTtl."""
    with transaction.atomic():
        room = changeable_room(by, room_id)
    lifetimes(ttl_s, None)
    return room


def record_shortening(room: Room, by: int | None, ttl_s: int, done: Shortened, *, now_ms: int) -> None:
    """Record a shortening of a room's messages: its author and the numbers."""
    detail = {"ttl": ttl_s, "looked": done.looked, "shortened": done.shortened, "ended": done.ended}
    audit.note(audit.Verb.SHORTEN, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetimes(ttl_s: int | None, ttl_max_s: int | None, room: Room | None = None) -> tuple[int, int]:
    """Return a room's lifetime and its longest lifetime in seconds; None takes the room's value, or else the site's.

    Raises BadTtl unless site minimum <= lifetime <= longest <= site maximum.
    """
    site = policy.current()
    longest_s = ttl_max_s
    if longest_s is None:
        longest_s = min(room.ttl_max_s, site.ttl_max_s) if room else site.ttl_max_s
    if not site.ttl_min_s <= longest_s <= site.ttl_max_s:
        raise BadTtl(f"The longest lifetime is between {site.ttl_min_s} and {site.ttl_max_s} seconds.")
    if ttl_s is None:
        ttl_s = room.ttl_s if room else min(site.ttl_default_s, longest_s)
    if not site.ttl_min_s <= ttl_s <= longest_s:
        raise BadTtl(f"The lifetime is between {site.ttl_min_s} and {longest_s} seconds.")
    return ttl_s, longest_s


# ── Leaving ──


def mark_own_leaving(user: int, room: str) -> Departure:
    """Mark a user's own membership. Raises NotMember, Conflict."""
    with transaction.atomic():
        membership = membership_of(user, room)
        _refuse_direct(membership.room, "A direct room cannot be left.")
        return mark_leaving(membership)


def mark_removed(by: int, room: str, user: int) -> Departure:
    """Mark the membership of a member with a lower rank. Raises NotMember, Forbidden, Conflict, NoSuchUser."""
    with transaction.atomic():
        own = membership_of(by, room)
        _refuse_direct(own.room, "A direct room has two people.")
        try:
            membership = membership_of(user, room)
        except NotMember:
            raise NoSuchUser("They are not a member of this room.") from None
        if by != user and _RANK[Role(own.role)] >= _RANK[Role(membership.role)]:
            raise Forbidden()
        return mark_leaving(membership)


def mark_leaving(membership: Membership) -> Departure:
    """Mark a membership: it gives no access from now on. When the last owner leaves, the oldest moderator, or else member, becomes owner."""
    with transaction.atomic():
        # One at a time: two owners who leave at once would each see the other stay, and an heir might be leaving too.
        Room.objects.select_for_update().get(pk=membership.room_id)
        membership.refresh_from_db(fields=["role"])
        membership.leaving_at = timezone.now()
        membership.save(update_fields=["leaving_at"])
        heir = _hand_over(membership.room) if membership.role == Role.OWNER else None
    return Departure(membership.pk, key_of(membership.room), membership.user_id, heir)


def mark_user_leaving(user: int) -> list[Departure]:
    """Mark all memberships of a user who is about to be deleted."""
    rows = Membership.objects.filter(user_id=user, leaving_at=None).select_related("room")
    rows = rows.order_by("room_id")  # one order of locks, so that two deletions cannot deadlock
    return [mark_leaving(row) for row in rows]


def departure_of(room: Room, user: int) -> Departure | None:
    """Return the unfinished departure of a user from a room, or None."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at__isnull=False).first()
    return None if row is None else Departure(row.pk, key_of(room), user)


def stuck_departures() -> list[Departure]:
    """Return departures that were marked more than a minute ago, oldest first."""
    rows = Membership.objects.filter(leaving_at__lt=timezone.now() - STUCK_LEAVING).order_by("leaving_at")
    fields = rows.values_list("pk", "room_id", "room__partition", "user_id")[:LEAVING_BATCH]
    return [Departure(pk, RoomKey(room, partition), user) for pk, room, partition, user in fields]


def delete_marked(departure: Departure) -> None:
    """Delete the row of a departure that is finished in the store. Idempotent."""
    Membership.objects.filter(pk=departure.membership, leaving_at__isnull=False).delete()


def _hand_over(room: Room) -> int | None:
    staying = Membership.objects.filter(room=room, leaving_at=None)
    if staying.filter(role=Role.OWNER).exists():
        return None
    heir = staying.order_by(
        Case(When(role=Role.MODERATOR, then=Value(0)), default=Value(1)), "joined_at", "pk"
    ).first()
    if heir is None:
        return None
    heir.role = Role.OWNER
    heir.save(update_fields=["role"])
    return heir.user_id


def _refuse_direct(room: Room, why: str) -> None:
    if room.kind == Room.Kind.DIRECT:
        raise Conflict(why)
