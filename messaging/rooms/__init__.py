"""Rooms and their members: who may read and write where.

1. A row in the database decides who is a member (`memberships`).
2. Each action changes the row, then the store, then tells open sockets by a control event (`actions`).
3. A leaving is marked on the row first. The row is deleted once the store has finished the leave.
4. A crash between these steps is repaired by the next `hello` (joining) or by the sweep (leaving).
5. Changes to accounts reach rooms and open sockets through signals (`signals`).

Knows nothing of sockets, of frames and of pages.
"""

from .actions import (
    MAX_INITIAL_MEMBERS,
    add_member,
    change_room,
    create_room,
    finish,
    finish_all,
    finish_leaving,
    join_room,
    leave_room,
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
    "finish_leaving",
    "join_room",
    "leave_room",
    "open_direct",
    "remove_member",
    "settle_joining",
    "settle_leaving",
    "settle_new",
    "shorten",
]
