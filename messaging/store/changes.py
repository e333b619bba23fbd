"""The operations that change a live message: edit, delete, extend, shorten."""

from __future__ import annotations

from typing import Any

from messaging.errors import Forbidden, NoSuchMessage, NotMember, TooLate

from .calls import NOT_MEMBER, Calls, text
from .members import Members
from .records import Changed, RoomKey, Shortened

_REFUSED = {NOT_MEMBER: NotMember, -4: NoSuchMessage, -5: Forbidden, -6: TooLate}
SHORTEN_BATCH = 100  # messages in one script call, so that no call takes longer than 5 ms


class Changes:
    """Changes of live messages. Edit, delete and extend raise NotMember, NoSuchMessage, Forbidden (another user's message) and TooLate
    (it has expired).

    `staff`: the user need not be a member. `epoch` None is the present epoch; a message of another epoch raises NoSuchMessage.
    """

    def __init__(self, calls: Calls, members: Members) -> None:
        self._calls = calls
        self._members = members

    async def edit(
        self, room: RoomKey, user: int, epoch: str | None, seq: int, body: str, *, open_history: bool
    ) -> Changed:
        """Replace the text of the user's own message; its expiry does not change. A repeated call is another edit with the same text."""
        return await self._change("edit", room, user, epoch, seq, open_history, body)

    async def delete(
        self,
        room: RoomKey,
        user: int,
        epoch: str | None,
        seq: int,
        *,
        open_history: bool,
        moderates: bool = False,
        staff: bool = False,
    ) -> Changed:
        """Delete the user's own message; moderators and staff delete any message. Nobody is reported to have missed it.

        A repeated call returns the same change, without the message's id.
        """
        return await self._change("delete", room, user, epoch, seq, open_history, _right(moderates, staff))

    async def extend(
        self,
        room: RoomKey,
        user: int,
        epoch: str | None,
        seq: int,
        ttl_ms: int,
        *,
        open_history: bool,
        moderates: bool = False,
        staff: bool = False,
    ) -> Changed:
        """Extend the life of the user's own message to now + `ttl_ms`; moderators and staff extend any message. Never shorten it."""
        return await self._change(
            "extend",
            room,
            user,
            epoch,
            seq,
            open_history,
            _right(moderates, staff),
            ttl_ms,
            self._calls.policy.grace_s * 1000,
        )

    async def shorten(self, room: RoomKey, ttl_s: int, *, dry_run: bool = False) -> Shortened:
        """Limit the life of the room's live messages to `ttl_s` after they were sent; older messages end now.

        With `dry_run` only count. Members who miss a message that ends early are reported as usual.
        """
        looked = shortened = ended = 0
        last_seq = "0"
        while True:
            answer = await self._members.run_in_log(
                "shorten",
                room,
                ttl_s * 1000,
                last_seq,
                SHORTEN_BATCH,
                self._calls.policy.grace_s * 1000,
                "1" if dry_run else "",
            )
            looked, shortened, ended = looked + answer[0], shortened + answer[1], ended + answer[2]
            last_seq = text(answer[3])
            if answer[0] < SHORTEN_BATCH:
                return Shortened(looked, shortened, ended)

    async def _change(
        self,
        script: str,
        room: RoomKey,
        user: int,
        epoch: str | None,
        seq: int,
        open_history: bool,
        *args: Any,
    ) -> Changed:
        visible_from = "0" if open_history else ""
        answer = await self._members.run_in_log(script, room, user, epoch or "", seq, visible_from, *args)
        if isinstance(answer, int):
            raise _REFUSED[answer]()
        present_epoch, rev, id_, expires_at, edited_at = map(text, answer)
        return Changed(
            present_epoch, int(float(rev)), seq, id_, int(expires_at), int(edited_at) if edited_at else None
        )


def _right(moderates: bool, staff: bool) -> str:
    """Return the right to change another user's message, as the scripts name it."""
    return "staff" if staff else "1" if moderates else ""
