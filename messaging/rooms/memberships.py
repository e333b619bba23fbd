"""Rows of rooms and memberships: creating and changing rooms, lifetimes, and departures. Uses the database only.

Every function is synchronous. It is one transaction, or part of its caller's transaction. `permissions` checks whether a user may make the
change. `actions` calls these functions in a thread, then informs the store and the sockets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Case, QuerySet, Value, When
from django.utils import timezone

from messaging import audit, policy
from messaging.errors import BadTtl, Conflict, NoSuchUser, NotMember
from messaging.models import AuditEntry, LastDeparture, Membership, Room
from messaging.store.records import RoomKey, Shortened

from . import allowances, permissions
from .names import MAX_NAME, find

# An older mark of joining or leaving means that a process died or the store was unavailable.
STUCK = timedelta(minutes=1)
STUCK_BATCH = 500  # joins, and departures, that one sweep finishes

Role = Membership.Role


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A membership that is marked as leaving. `new_owner`: the member who became owner because the last owner left."""

    membership: int
    room: RoomKey
    user: int
    new_owner: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """New values for a room. None keeps the current value."""

    name: str | None = None
    topic: str | None = None
    ttl_s: int | None = None
    ttl_max_s: int | None = None


def key_of(room: Room) -> RoomKey:
    """Return the store's key of a room."""
    return RoomKey(room.id, room.partition)


def room_name_for(room: Room, user: int) -> str:
    """Return a room's name as `user` sees it. A direct room has the name of the other member."""
    if room.kind != Room.Kind.DIRECT:
        return room.name
    others = Membership.objects.filter(room=room).exclude(user_id=user)
    return others.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True).first() or room.name


# ── People, by username ──


def people() -> QuerySet[User]:
    """Return all active users."""
    return get_user_model().objects.filter(is_active=True)


def person(name: str) -> User:
    """Return the active person with this username (`names.find`). Raises NoSuchUser."""
    user = find(people(), name)
    if user is None:
        raise NoSuchUser()
    return user


def _persons(names: Iterable[str]) -> set[int]:
    return {person(name).pk for name in set(names)}


# ── Creating and changing ──
# `by`: the user who makes a membership, within their limits and those of the person who is added (`allowances`); None: the staff.


def insert_room(room: Room, owner: int | None, names: Sequence[str], by: int | None = None) -> list[int]:
    """Insert a room with its owner and the people with these usernames; return the members' ids.

    Raises NoSuchUser; with `by` RateLimited, TooManyRooms, NotAddable.
    """
    with transaction.atomic():
        others = _persons(names) - {owner}
        room.save(force_insert=True)
        rows = [] if owner is None else [Membership(room=room, user_id=owner, role=Role.OWNER)]
        rows += [Membership(room=room, user_id=user, added_by_key=by) for user in sorted(others)]
        Membership.objects.bulk_create(rows)
        users = [row.user_id for row in rows]
        if by is not None:
            allowances.take_memberships(by, users)
    return users


def insert_direct(user: int, name: str, by: int | None = None) -> tuple[Room, list[int]]:
    """Return the direct room of two people, and their ids. Insert it if it does not exist.

    Raises NoSuchUser; with `by` RateLimited, TooManyRooms, NotAddable. Raises Conflict if both are the same user.
    """
    first, second = get_user_model().objects.get(pk=user), person(name)
    if first == second:
        raise Conflict("You cannot open a direct room with yourself.")
    low, high = sorted((first, second), key=lambda member: member.pk)
    site = policy.current()
    values = {
        "name": f"{low.get_username()} · {high.get_username()}"[:MAX_NAME],
        "kind": Room.Kind.DIRECT,
        "ttl_s": site.ttl_default_s,
        "ttl_max_s": site.ttl_max_s,
    }
    with transaction.atomic():
        room, new = Room.objects.get_or_create(pair=f"{low.pk}:{high.pk}", defaults=values)
        users = [low.pk, high.pk]
        rows = [Membership(room=room, user_id=member, added_by_key=_other(by, member)) for member in users]
        Membership.objects.bulk_create(rows, ignore_conflicts=True)
        if new and by is not None:
            allowances.take_memberships(by, users)
    return room, users


def insert_membership(room: Room, user: int, by: int | None) -> bool:
    """Insert a membership, marked as joining; return whether it is new. `by` may be the user themselves.

    Raises NotMember if the room no longer exists; Removed, RateLimited, TooManyRooms, NotAddable.
    """
    values = {"joining_at": timezone.now(), "added_by_key": _other(by, user)}
    try:
        with transaction.atomic():
            _, new = Membership.objects.get_or_create(room=room, user_id=user, defaults=values)
            if new and by is not None:
                permissions.check_return(room, user, by)
                allowances.take_memberships(by, [user])
            return new
    except IntegrityError:
        raise NotMember() from None


def _other(by: int | None, user: int) -> int | None:
    """Return `by` unless it is the user themselves."""
    return None if by == user else by


def withdraw_membership(room: Room, user: int) -> None:
    """Mark a new membership as leaving, because the store did not confirm it."""
    membership = Membership.objects.filter(room=room, user_id=user, joining_at__isnull=False).first()
    if membership is not None:
        mark_leaving(membership)


def mark_joined(room_id: str, users: Collection[int]) -> None:
    """Remove the mark of joining: the store has these members. Idempotent."""
    Membership.objects.filter(room=room_id, user__in=users, joining_at__isnull=False).update(joining_at=None)


def stuck_joins() -> list[tuple[RoomKey, int]]:
    """Return (room, user) of memberships that were marked as joining more than a minute ago, oldest first."""
    rows = Membership.objects.filter(joining_at__lt=timezone.now() - STUCK, leaving_at=None)
    fields = rows.order_by("joining_at").values_list("room_id", "room__partition", "user_id")
    return [(RoomKey(room, partition), user) for room, partition, user in fields[:STUCK_BATCH]]


def update_room(
    by: int | None, room_id: str, change: Change, *, now_ms: int, staff: int | None = None
) -> Room:
    """Change a room. In a direct room, only the lifetimes can change.

    The audit entry of a new lifetime names `by`, or `staff` if `by` is None.

    Raises NotMember, Forbidden, BadTtl. Raises Conflict for the name or topic of a direct room.
    """
    with transaction.atomic():
        room = permissions.changeable_room(by, room_id)
        if change.name is not None or change.topic is not None:
            permissions.refuse_direct(room, "A direct room cannot have its own name or topic.")
        room.name = room.name if change.name is None else change.name
        room.topic = room.topic if change.topic is None else change.topic
        if change.ttl_s is not None or change.ttl_max_s is not None:
            before_s = room.ttl_s
            room.ttl_s, room.ttl_max_s = lifetimes(change.ttl_s, change.ttl_max_s, room)
            record_lifetime(room, staff if by is None else by, before_s=before_s, now_ms=now_ms)
        room.save(update_fields=["name", "topic", "ttl_s", "ttl_max_s"])
    return room


def record_lifetime(room: Room, by: int | None, *, before_s: int, now_ms: int) -> None:
    """Record a change of a room's lifetime, with the user who made it. The room's timeline shows it."""
    if room.ttl_s == before_s:
        return
    detail = {"from": before_s, "to": room.ttl_s}
    audit.note(audit.Verb.LIFETIME, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetime_changes(user: int, room_id: str, limit: int) -> list[AuditEntry]:
    """Return the newest `limit` changes of a room's lifetime, oldest first. Raises NotMember.

    Changes from before the user joined are returned only for a public room, as with messages.
    """
    membership = permissions.membership_of(user, room_id)
    entries = AuditEntry.objects.filter(room_key=room_id, verb=audit.Verb.LIFETIME)
    if membership.room.kind != Room.Kind.PUBLIC:
        entries = entries.filter(at__gte=membership.joined_at)
    return list(entries.order_by("-at", "-pk")[:limit])[::-1]


def shortenable_room(by: int | None, room_id: str, ttl_s: int) -> Room:
    """Return a room in which `by` may shorten the lifetime of existing messages. Raises NotMember, Forbidden, BadTtl."""
    with transaction.atomic():
        room = permissions.changeable_room(by, room_id)
    lifetimes(ttl_s, None)
    return room


def record_shortening(room: Room, by: int | None, ttl_s: int, shortened: Shortened, *, now_ms: int) -> None:
    """Record that a user shortened the lifetime of a room's messages, with the counts."""
    detail = {
        "ttl": ttl_s,
        "looked": shortened.looked,
        "shortened": shortened.shortened,
        "ended": shortened.ended,
    }
    audit.note(audit.Verb.SHORTEN, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetimes(ttl_s: int | None, ttl_max_s: int | None, room: Room | None = None) -> tuple[int, int]:
    """Return a room's lifetime and its longest lifetime in seconds.

    None stands for the value of `room`, or of the site without a room. It is lowered to what the site and `ttl_max_s` allow.

    Raises BadTtl unless site minimum <= lifetime <= longest <= site maximum.
    """
    site = policy.current()
    longest_s = ttl_max_s
    if longest_s is None:
        longest_s = min(room.ttl_max_s, site.ttl_max_s) if room else site.ttl_max_s
    if not site.ttl_min_s <= longest_s <= site.ttl_max_s:
        raise BadTtl(f"The longest lifetime must be between {site.ttl_min_s} and {site.ttl_max_s} seconds.")
    if ttl_s is None:
        ttl_s = room.ttl_s if room else min(site.ttl_default_s, longest_s)
    if not site.ttl_min_s <= ttl_s <= longest_s:
        raise BadTtl(f"The lifetime must be between {site.ttl_min_s} and {longest_s} seconds.")
    return ttl_s, longest_s


# ── Leaving ──


def mark_own_leaving(user: int, room: str) -> Departure:
    """Mark a user's own membership as leaving. Raises NotMember. Raises Conflict for a direct room."""
    with transaction.atomic():
        return mark_leaving(permissions.leavable_membership(user, room), removed=False)


def mark_all_own_leaving(user: int, rooms: Collection[str]) -> list[Departure]:
    """Mark a user's own memberships as leaving. Omit direct rooms, and rooms of which they are no member."""
    with transaction.atomic():
        rows = Membership.objects.filter(user_id=user, room__in=rooms, leaving_at=None)
        rows = rows.exclude(room__kind=Room.Kind.DIRECT).select_related("room")
        return [mark_leaving(row, removed=False) for row in rows.order_by("room_id")]


def mark_removed(by: int, room: str, user: int) -> Departure:
    """Mark the membership of a member with a lower rank than `by`, or of `by` themselves, as leaving.

    Raises NotMember, Forbidden, NoSuchUser. Raises Conflict for a direct room.
    """
    with transaction.atomic():
        return mark_leaving(permissions.removable_membership(by, room, user), removed=by != user)


def mark_leaving(membership: Membership, *, removed: bool | None = None) -> Departure:
    """Mark a membership as leaving. It gives no access from now on.

    `removed`: whether another user or the staff ended it, which limits how the user becomes a member again; None: neither this nor
    that they left is recorded.

    If the last owner leaves, the moderator who joined first becomes owner; without moderators, the member who joined first.
    """
    with transaction.atomic():
        # One departure at a time. Otherwise two owners who leave at once would each see the other stay, or the new owner might
        # be leaving too.
        Room.objects.select_for_update().get(pk=membership.room_id)
        membership.refresh_from_db(fields=["role"])
        membership.leaving_at = timezone.now()
        membership.save(update_fields=["leaving_at"])
        if removed is not None:
            _record_departure(membership, removed=removed)
        new_owner = _appoint_owner(membership.room) if membership.role == Role.OWNER else None
    return Departure(membership.pk, key_of(membership.room), membership.user_id, new_owner)


def _record_departure(membership: Membership, *, removed: bool) -> None:
    """Record how a membership ends. If the user had left before and was put back, record the time of that too."""
    last, new = LastDeparture.objects.get_or_create(
        room_id=membership.room_id, user_id=membership.user_id, defaults={"removed": removed}
    )
    if new:
        return
    if membership.added_by_key is not None and not last.removed:
        last.put_back_at = membership.joined_at
    last.removed = removed
    last.save(update_fields=["removed", "put_back_at"])


def mark_user_leaving(user: int) -> list[Departure]:
    """Mark all memberships of a user as leaving, before the user is deleted."""
    rows = Membership.objects.filter(user_id=user, leaving_at=None).select_related("room")
    rows = rows.order_by("room_id")  # always in the same order, so that two deletions cannot deadlock
    return [mark_leaving(row) for row in rows]


def departure_of(room: Room, user: int) -> Departure | None:
    """Return the unfinished departure of a user from a room, or None."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at__isnull=False).first()
    return None if row is None else Departure(row.pk, key_of(room), user)


def stuck_departures() -> list[Departure]:
    """Return departures that were marked more than a minute ago, oldest first."""
    rows = Membership.objects.filter(leaving_at__lt=timezone.now() - STUCK).order_by("leaving_at")
    fields = rows.values_list("pk", "room_id", "room__partition", "user_id")[:STUCK_BATCH]
    return [Departure(pk, RoomKey(room, partition), user) for pk, room, partition, user in fields]


def delete_marked(departure: Departure) -> None:
    """Delete the row of a departure that is finished in the store. Idempotent."""
    Membership.objects.filter(pk=departure.membership, leaving_at__isnull=False).delete()


def _appoint_owner(room: Room) -> int | None:
    """Make a member the owner of a room that has none. Return the user id, None if there is an owner or no member."""
    staying = Membership.objects.filter(room=room, leaving_at=None)
    if staying.filter(role=Role.OWNER).exists():
        return None
    new_owner = staying.order_by(
        Case(When(role=Role.MODERATOR, then=Value(0)), default=Value(1)), "joined_at", "pk"
    ).first()
    if new_owner is None:
        return None
    new_owner.role = Role.OWNER
    new_owner.save(update_fields=["role"])
    return new_owner.user_id
