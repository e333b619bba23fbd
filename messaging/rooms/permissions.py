"""Permissions in rooms: who is a member, who may join, add and remove people, and change a room. Uses the database only.

| action | permitted to |
|---|---|
| join a room | everybody, if it is public and they were not removed from it |
| add people | owners and moderators; somebody who left, at most once a day; somebody who was removed, at any time |
| remove people | members with a higher rank |
| leave a room | every member |
| change a room, shorten the lifetimes of its messages | owners and moderators; the staff |

Ranks: owner, moderator, member. A direct room belongs to its two members: both may change its lifetimes and shorten those
of its messages. Nobody can join it, leave it or be removed from it.

Every function is synchronous. `memberships` writes the rows.
"""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from messaging import policy
from messaging.errors import Conflict, Forbidden, NoSuchUser, NotMember, Removed
from messaging.models import LastDeparture, Membership, Room

from . import allowances

Role = Membership.Role
_RANK = {Role.OWNER: 0, Role.MODERATOR: 1, Role.MEMBER: 2}


def membership_of(user: int, room: str) -> Membership:
    """Return a user's membership of a room, with the room. Raises NotMember."""
    row = Membership.objects.filter(room=room, user_id=user, leaving_at=None).select_related("room").first()
    if row is None:
        raise NotMember()
    return row


def public_room(room: str) -> Room:
    """Return a room that everybody may join. Raises NotMember if it is not public or does not exist."""
    row = Room.objects.filter(pk=room, kind=Room.Kind.PUBLIC).first()
    if row is None:
        raise NotMember()
    return row


def check_return(room: Room, user: int, by: int) -> None:
    """Check the last departure of a user whom `by`, perhaps the user themselves, makes a member again.

    Raises Removed if they join a room from which they were removed. Raises NotAddable if they left the room again after they had
    been put back into it, within `put_back_interval_s`.
    """
    last = LastDeparture.objects.filter(room=room, user_id=user).first()
    if last is None:
        return
    if by == user:
        if last.removed:
            raise Removed()
        return
    interval = timedelta(seconds=policy.current().put_back_interval_s)
    if not last.removed and last.put_back_at and last.put_back_at > timezone.now() - interval:
        raise allowances.not_addable([user])


def moderated_room(by: int, room: str) -> Room:
    """Return a room to which `by` may add people. Raises NotMember, Forbidden, Conflict for a direct room."""
    membership = membership_of(by, room)
    refuse_direct(membership.room, "Nobody can be added to a direct room.")
    if not membership.moderates:
        raise Forbidden()
    return membership.room


def changeable_room(by: int | None, room_id: str) -> Room:
    """Return and lock a room that `by` may change. `by` None: a staff action.

    Part of its caller's transaction. Raises NotMember, Forbidden.
    """
    room = Room.objects.select_for_update().filter(pk=room_id).first()
    if room is None:
        raise NotMember()
    if by is not None and not membership_of(by, room_id).moderates and room.kind != Room.Kind.DIRECT:
        raise Forbidden()
    return room


def leavable_membership(user: int, room: str) -> Membership:
    """Return a membership that its user may end. Raises NotMember, Conflict for a direct room."""
    membership = membership_of(user, room)
    refuse_direct(membership.room, "A direct room cannot be left.")
    return membership


def removable_membership(by: int, room: str, user: int) -> Membership:
    """Return the membership of `user` if `by` may end it: `by` has a higher rank than `user`, or is `user`.

    Raises NotMember, Forbidden, Conflict for a direct room, NoSuchUser.
    """
    own = membership_of(by, room)
    refuse_direct(own.room, "Nobody can be removed from a direct room.")
    try:
        membership = membership_of(user, room)
    except NotMember:
        raise NoSuchUser("They are not a member of this room.") from None
    if by != user and _RANK[Role(own.role)] >= _RANK[Role(membership.role)]:
        raise Forbidden()
    return membership


def refuse_direct(room: Room, reason: str) -> None:
    """Raise Conflict with this reason if a room is direct."""
    if room.kind == Room.Kind.DIRECT:
        raise Conflict(reason)
