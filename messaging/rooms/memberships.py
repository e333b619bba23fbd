"""Rooms and memberships as rows: who may do what, and the marks that a leaving needs. The database only.

Every function is synchronous and one transaction, or part of its caller's; `rooms` calls them in a thread and then tells the
store and the sockets. The owner, moderators and members of a room rank in this order; a direct room belongs to its two.
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

from .names import NAME_MOST, shows

STUCK_LEAVING = timedelta(
    minutes=1
)  # an older mark is of a process that died on the way, or of a store that was away
LEAVING_AT_ONCE = 500

Role = Membership.Role
_RANK = {Role.OWNER: 0, Role.MODERATOR: 1, Role.MEMBER: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A membership marked as leaving: what finishes it. `heir`: who owns the room from now on, when that changed."""

    membership: int
    room: RoomKey
    user: int
    heir: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to change of a room; None leaves it as it is."""

    name: str | None = None
    topic: str | None = None
    ttl_s: int | None = None
    ttl_max_s: int | None = None


def key_of(room: Room) -> RoomKey:
    """Return what the store needs of a room."""
    return RoomKey(room.id, room.partition)


def membership_of(user: int, room: str) -> Membership:
    """Return the row that lets `user` be in a room, with its room. Raises NotMember."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at=None).select_related("room").first()
    if row is None:
        raise NotMember()
    return row


def public_room(room: str) -> Room:
    """Return a room that anybody may join. Raises NotMember for any other."""
    found = Room.objects.filter(pk=room, kind=Room.Kind.PUBLIC).first()
    if found is None:
        raise NotMember()
    return found


def moderated_room(by: int, room: str) -> Room:
    """Return a room to which `by` may add people. Raises NotMember, Forbidden, Conflict."""
    membership = membership_of(by, room)
    _refuse_direct(membership.room, "A direct room has two people.")
    if not membership.moderates:
        raise Forbidden()
    return membership.room


def room_name_for(room: Room, user: int) -> str:
    """Return a room's name as `user` sees it: a direct room is called after the other one."""
    if room.kind != Room.Kind.DIRECT:
        return room.name
    others = Membership.objects.filter(room=room).exclude(user_id=user)
    return others.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True).first() or room.name


# ── People, by log-in name ──


def people() -> QuerySet[User]:
    """Return those who can be written to."""
    return get_user_model().objects.filter(is_active=True)


def person(name: str) -> User:
    """Return the person of this log-in name, capital letters aside. Raises NoSuchUser."""
    wanted = _normal(name)
    found = list(people().filter(username__iexact=wanted)[:10]) if wanted else []
    if not found:
        raise NoSuchUser()
    return next((one for one in found if one.get_username() == wanted), found[0])


def _persons(names: Iterable[str]) -> set[int]:
    return {person(name).pk for name in set(names)}


def _normal(name: str) -> str:
    """Return a log-in name as it is stored; '' for what none can be, also what PostgreSQL would refuse to compare."""
    normal = get_user_model().normalize_username(name.strip())
    return normal if len(normal) <= 150 and shows(normal) else ""


# ── Making and changing ──


def insert_room(room: Room, owner: int | None, names: Sequence[str]) -> list[int]:
    """Write a new room with its owner and the people named; return the members' ids. Raises NoSuchUser."""
    with transaction.atomic():
        others = _persons(names) - {owner}
        room.save(force_insert=True)
        rows = [] if owner is None else [Membership(room=room, user_id=owner, role=Role.OWNER)]
        rows += [Membership(room=room, user_id=user) for user in sorted(others)]
        Membership.objects.bulk_create(rows)
    return [row.user_id for row in rows]


def insert_direct(user: int, name: str) -> tuple[Room, list[int]]:
    """Return the room of a pair and its two, written unless it is there. Raises NoSuchUser, Conflict for oneself."""
    one, other = get_user_model().objects.get(pk=user), person(name)
    if one == other:
        raise Conflict("A direct room has two people.")
    low, high = sorted((one, other), key=lambda member: member.pk)
    site = policy.current()
    values = {
        "name": f"{low.get_username()} · {high.get_username()}"[:NAME_MOST],
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
    """Write a membership; say whether it is new. Raises NotMember when the room is gone."""
    try:
        with transaction.atomic():
            return Membership.objects.get_or_create(room=room, user_id=user)[1]
    except IntegrityError:
        raise NotMember() from None


def changeable_room(by: int | None, room_id: str) -> Room:
    """Return a room, locked, that `by` may change: owner and moderators, either one of a direct room; None is the staff.

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
    """Change a room: of a direct one only the lifetimes. Another lifetime is written down, in the name of `by`, else `staff`.

    Raises NotMember, Forbidden, BadTtl.
    """
    with transaction.atomic():
        room = changeable_room(by, room_id)
        if change.name is not None or change.topic is not None:
            _refuse_direct(room, "A direct room has no name or topic of its own.")
        room.name = room.name if change.name is None else change.name
        room.topic = room.topic if change.topic is None else change.topic
        if change.ttl_s is not None or change.ttl_max_s is not None:
            before_s = room.ttl_s
            room.ttl_s, room.ttl_max_s = lifetimes(change.ttl_s, change.ttl_max_s, room)
            note_lifetime(room, staff if by is None else by, before_s=before_s, now_ms=now_ms)
        room.save(update_fields=["name", "topic", "ttl_s", "ttl_max_s"])
    return room


def note_lifetime(room: Room, by: int | None, *, before_s: int, now_ms: int) -> None:
    """Write down who changed a room's lifetime, if it is another one: its timeline shows it."""
    if room.ttl_s == before_s:
        return
    detail = {"from": before_s, "to": room.ttl_s}
    audit.note(audit.Verb.LIFETIME, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetime_changes(user: int, room_id: str, most: int) -> list[AuditEntry]:
    """Return the newest changes of a room's lifetime, the oldest of them first. Raises NotMember.

    As with messages, only a public room shows what was before one's joining.
    """
    membership = membership_of(user, room_id)
    found = AuditEntry.objects.filter(room_key=room_id, verb=audit.Verb.LIFETIME)
    if membership.room.kind != Room.Kind.PUBLIC:
        found = found.filter(at__gte=membership.joined_at)
    return list(found.order_by("-at", "-pk")[:most])[::-1]


def shortenable_room(by: int | None, room_id: str, ttl_s: int) -> Room:
    """Return a room whose messages `by` may give another lifetime. Raises NotMember, Forbidden, BadTtl."""
    with transaction.atomic():
        room = changeable_room(by, room_id)
    lifetimes(ttl_s, None)
    return room


def note_shortening(room: Room, by: int | None, ttl_s: int, done: Shortened, *, now_ms: int) -> None:
    """Write down who shortened the lives of a room's messages, and of how many."""
    detail = {"ttl": ttl_s, "looked": done.looked, "shortened": done.shortened, "ended": done.ended}
    audit.note(audit.Verb.SHORTEN, now_ms=now_ms, user=by, room_key=room.id, detail=detail)


def lifetimes(ttl_s: int | None, ttl_max_s: int | None, room: Room | None = None) -> tuple[int, int]:
    """Return a room's lifetime and the longest one in seconds; what is not given is the room's, else the site's.

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
    """Mark one's own row. Raises NotMember, Conflict."""
    with transaction.atomic():
        membership = membership_of(user, room)
        _refuse_direct(membership.room, "A direct room cannot be left.")
        return mark_leaving(membership)


def mark_removed(by: int, room: str, user: int) -> Departure:
    """Mark the row of somebody of lower rank. Raises NotMember, Forbidden, Conflict, NoSuchUser."""
    with transaction.atomic():
        mine = membership_of(by, room)
        _refuse_direct(mine.room, "A direct room has two people.")
        try:
            theirs = membership_of(user, room)
        except NotMember:
            raise NoSuchUser("They are not a member of this room.") from None
        if by != user and _RANK[Role(mine.role)] >= _RANK[Role(theirs.role)]:
            raise Forbidden()
        return mark_leaving(theirs)


def mark_leaving(membership: Membership) -> Departure:
    """Mark a row: its user is out from now on. The last owner's room goes to the oldest moderator, else member."""
    with transaction.atomic():
        # One at a time: of two owners who leave at once each would see the other stay, and an heir might be on the way out.
        Room.objects.select_for_update().get(pk=membership.room_id)
        membership.refresh_from_db(fields=["role"])
        membership.leaving_at = timezone.now()
        membership.save(update_fields=["leaving_at"])
        heir = _hand_over(membership.room) if membership.role == Role.OWNER else None
    return Departure(membership.pk, key_of(membership.room), membership.user_id, heir)


def mark_user_leaving(user: int) -> list[Departure]:
    """Mark all rows of a user who is about to be deleted."""
    rows = Membership.objects.filter(user_id=user, leaving_at=None).select_related("room")
    rows = rows.order_by("room_id")  # so that two deletions wait for each other and not in a ring
    return [mark_leaving(row) for row in rows]


def departure_of(room: Room, user: int) -> Departure | None:
    """Return the unfinished departure of a user from a room, if there is one."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at__isnull=False).first()
    return None if row is None else Departure(row.pk, key_of(room), user)


def stuck_departures() -> list[Departure]:
    """Return departures that were marked more than a minute ago, the oldest first."""
    rows = Membership.objects.filter(leaving_at__lt=timezone.now() - STUCK_LEAVING).order_by("leaving_at")
    fields = rows.values_list("pk", "room_id", "room__partition", "user_id")[:LEAVING_AT_ONCE]
    return [Departure(pk, RoomKey(room, partition), user) for pk, room, partition, user in fields]


def delete_marked(departure: Departure) -> None:
    """Delete the row of a departure that the store knows of. Idempotent."""
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
