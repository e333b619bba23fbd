"""Rooms and their members: the rights to read and write in a room.

1. A row in the database makes a user a member (`memberships`). The rules for adding and removing are in `permissions`, the limits of a user
   and of the people they add in `allowances`.
2. Each action changes the row, then the store, then informs open sockets by a control event (`actions`).
3. Joining and leaving are marked on the row first. The mark is removed, or the row is deleted, after the store has changed.
4. A crash between these steps is repaired by the sweep, or by the next `hello` (joining).
5. Changes to accounts reach rooms and open sockets through signals (`signals`).

Knows nothing of sockets, frames and pages.
"""

from .actions import (
    MAX_INITIAL_MEMBERS,
    add_member,
    change_room,
    create_room,
    finish,
    finish_all,
    finish_joining,
    finish_leaving,
    join_room,
    leave_room,
    leave_rooms,
    open_direct,
    remove_member,
    settle_joining,
    settle_leaving,
    settle_new,
    shorten,
)

__all__ = [
    "MAX_INITIAL_MEMBERS",
    "add_member",
    "change_room",
    "create_room",
    "finish",
    "finish_all",
    "finish_joining",
    "finish_leaving",
    "join_room",
    "leave_room",
    "leave_rooms",
    "open_direct",
    "remove_member",
    "settle_joining",
    "settle_leaving",
    "settle_new",
    "shorten",
]
