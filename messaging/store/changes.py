"""The operations that change a live message: edit, delete, extend, shorten."""

from __future__ import annotations

from typing import Any

from messaging.errors import Forbidden, NoSuchMessage, NotMember, TooLate

from .calls import NOT_MEMBER, Calls, text
from .members import Members
from .records import Changed, RoomKey, Shortened

_REFUSED = {NOT_MEMBER: NotMember, -4: NoSuchMessage, -5: Forbidden, -6: TooLate}
SHORTEN_BATCH = 100  # messages in one call: no call over 5 ms


class Changes:
    """Changes of live messages. Each raises NotMember, NoSuchMessage, Forbidden for another user's message, TooLate after its expiry.

    `staff`: the user need not be a member. `epoch` None is the present one; a seq of another epoch is not found.
    """

    def __init__(self, calls: Calls, members: Members) -> None:
        self._calls = calls
        self._members = members

    async def edit(
        self, room: RoomKey, user: int, epoch: str | None, seq: int, body: str, *, open_history: bool
    ) -> Changed:
        """Replace the text of the user's own message; its expiry stays. A repeat is another edit with the same text."""
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
        """Delete the user's own message, or as a moderator or staff any message: nobody misses it. A repeat returns the same, without the id."""
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
        """Extend the life of the user's own message, or as a moderator or staff of any message, to now + `ttl_ms`; never shorten it."""
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
        """Limit the life of the room's live messages to `ttl_s` after they were sent; those that are older end now.

        With `dry_run` only count. Members who miss a message that ends so are reported as usual.
        """
        looked = shortened = ended = 0
        last = "0"
        while True:
            answer = await self._members.run_in_log(
                "shorten",
                room,
                ttl_s * 1000,
                last,
                SHORTEN_BATCH,
                self._calls.policy.grace_s * 1000,
                "1" if dry_run else "",
            )
            looked, shortened, ended = looked + answer[0], shortened + answer[1], ended + answer[2]
            last = text(answer[3])
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
        found_epoch, rev, id_, expires_at, edited_at = map(text, answer)
        return Changed(
            found_epoch, int(float(rev)), seq, id_, int(expires_at), int(edited_at) if edited_at else None
        )


def _right(moderates: bool, staff: bool) -> str:
    """Return the right to change another user's message, as the scripts name it."""
    return "staff" if staff else "1" if moderates else ""
