"""The members who missed a message, computed from a room's cursors and exceptions for many of its messages at once. No I/O.

A member owes a message that is not their own, was accepted after they joined, and is for them. They miss it if their cursor is
below it. An exception (`outcome`) names a member who does not hold the message, even if their cursor is above it. A member who
left owes the messages up to the room's top at that moment.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence

from .entries import Leaver, Outcome
from .records import Missed

# The order of a member's exceptions: the last one is reported.
_RANKS = {"late": 0, "offline": 1, "no_ack": 2, "client_rejected": 3}


class MissedCalculator:
    """A room's members with their cursors: `joined` and `cursors` are seqs by user, `attempts` counts by user."""

    def __init__(
        self,
        joined: Mapping[int, int],
        cursors: Mapping[int, int],
        attempts: Mapping[int, int],
        left: Sequence[Leaver] = (),
    ) -> None:
        self._joined = joined
        self._attempts = attempts
        self._left = left
        self._users = sorted(joined, key=lambda user: (cursors.get(user, joined[user]), user))
        self._cursors = [cursors.get(user, joined[user]) for user in self._users]
        self._joinings = sorted(joined.values())
        self._shared: dict[tuple[object, ...], tuple[Missed, ...]] = {}
        # One object for each user, shared by all senders: without that, 500 senders in a room of 10,000 needed 350 MB.
        self._by_user: dict[int, Missed] = {}

    def for_message(
        self, seq: int, sender: int, *, only: frozenset[int] | None = None, outcome: Iterable[str] = ()
    ) -> tuple[int, tuple[Missed, ...]]:
        """Return the number of members who owed a message, and those who missed it.

        Messages that the same members missed share one tuple.
        """
        behind = self._behind(seq, sender)
        total = bisect.bisect_left(self._joinings, seq) - self._owes(sender, seq)
        if only is not None:
            behind = tuple(missed for missed in behind if missed.user in only)
            total = sum(self._owes(user, seq) for user in only if user != sender)
        exceptions = self._exceptions(seq, sender, only, outcome)
        if not exceptions:
            return total, behind
        total += sum(not self._owes(user, seq) for user in exceptions)
        # A member who left a large room is an exception of each of its messages: these share a tuple too.
        key = *self._place(seq, sender), only, *exceptions.values()
        if key not in self._shared:
            by_user = {missed.user: missed for missed in behind} | exceptions
            self._shared[key] = tuple(by_user.values())
        return total, self._shared[key]

    def _owes(self, user: int, seq: int) -> bool:
        return self._joined.get(user, math.inf) < seq

    def _place(self, seq: int, sender: int) -> tuple[int, int, int]:
        """Return the number of cursors below a seq, the number of joinings below it, and its sender.

        Messages for which these are equal have the same members behind them.
        """
        return bisect.bisect_left(self._cursors, seq), bisect.bisect_left(self._joinings, seq), sender

    def _behind(self, seq: int, sender: int) -> tuple[Missed, ...]:
        key = below, *_ = self._place(seq, sender)
        if key not in self._shared:
            owing = (user for user in self._users[:below] if user != sender and self._joined[user] < seq)
            self._shared[key] = tuple(self._missed(user) for user in owing)
        return self._shared[key]

    def _missed(self, user: int) -> Missed:
        if user not in self._by_user:
            attempts = self._attempts.get(user, 0)
            self._by_user[user] = Missed(user, "no_ack" if attempts else "offline", attempts)
        return self._by_user[user]

    def _exceptions(
        self, seq: int, sender: int, only: frozenset[int] | None, outcome: Iterable[str]
    ) -> dict[int, Missed]:
        exceptions: dict[int, Missed] = {}
        for user, joined, cursor, top in self._left:
            if joined < seq <= top and cursor < seq and user != sender and (only is None or user in only):
                exceptions[user] = Missed(user, "left_room", 0)
        for row in sorted(map(Outcome.parse, outcome), key=lambda row: _RANKS.get(row.reason, 0)):
            exceptions[row.user] = Missed(row.user, row.reason, row.attempts)
        return exceptions
