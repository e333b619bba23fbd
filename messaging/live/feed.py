"""One room as one connection receives it: a state machine over the room's log.

                begin_read                        complete_read
    (new) ──────────────────────> READING ─────────────────────────> OPEN
                                   │   ^                              │
       complete_read with `more`,  │   │ begin_read                   │ fall_behind,
       refuse_read, end_read,      │   │ (from OPEN too)              │ check_position
       too many held, fall_behind  v   │                              v
                                  BEHIND <────────────────────────────┘

READING: the store is read for the client; publications are held until the answer. A new feed begins here.
OPEN: publications are sent. BEHIND: publications are dropped, the client must `sync` first.

Only the methods of this class assign its fields. A transition that the diagram does not have raises `IllegalTransition`.
Knows nothing of sockets or of the store.
"""

from __future__ import annotations

import dataclasses
import enum

from messaging.store.records import MemberPosition, RoomKey, Slice

from .publications import Batch, Change


class FeedState(enum.Enum):
    READING = enum.auto()
    OPEN = enum.auto()
    BEHIND = enum.auto()


class IllegalTransition(RuntimeError):
    """A feed was asked for a transition that its state does not have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemberRoom:
    """A membership as its connections know it: the room's fields and the user's role."""

    key: RoomKey
    name: str
    kind: str
    role: str
    moderates: bool
    ttl_s: int
    ttl_max_s: int
    tracked: bool

    @property
    def open_history(self) -> bool:
        return self.kind == "public"


@dataclasses.dataclass(slots=True)
class Silence:
    """Messages pushed over a connection are unacknowledged; checked at `due_s` (the loop's clock), never again when None."""

    due_s: float | None


class Feed:
    """The state of one room on one connection."""

    __slots__ = (
        "acked",
        "answered",
        "epoch",
        "held",
        "held_changes",
        "joined",
        "last",
        "rev",
        "rev_told",
        "room",
        "silence",
        "state",
        "told",
        "told_after",
    )

    def __init__(self, room: MemberRoom) -> None:
        self.room = room
        self.state = FeedState.READING
        self.epoch = ""
        self.joined = 0  # the seq at which the user's own history begins
        self.last = 0  # the newest seq sent
        self.acked = 0  # the newest seq acknowledged over this connection
        self.told = (0, 0)  # the position, (top, rev), that the client was sent last
        self.rev = 0  # the newest change that the client knows
        self.told_after = 0  # above this, up to `rev_told`: changes sent when they were published
        self.rev_told = 0
        self.answered: frozenset[int] = frozenset()  # changes sent as an answer, before their publication
        self.held: list[Batch] = []
        self.held_changes: list[Change] = []
        self.silence: Silence | None = None  # None while nothing is unacknowledged

    # Membership and log

    def change_room(self, room: MemberRoom) -> None:
        """Take the room's new fields or the user's new role."""
        self.room = room

    def locate(self, position: MemberPosition) -> None:
        """Take from the store which log this is and where the user's history in it begins."""
        self._begin_epoch(position.epoch)
        self.joined = position.joined

    def _begin_epoch(self, epoch: str) -> None:
        """Note which life of the log this is about; in another one changes are numbered from 1 again."""
        if epoch != self.epoch:
            self.epoch, self.rev, self.told_after, self.rev_told = epoch, 0, 0, 0
            self.answered = frozenset()

    # Reads of the store

    def begin_read(self) -> None:
        """Hold publications until the read ends. Legal in every state."""
        self.state = FeedState.READING

    def hold(self, batch: Batch, *, limit: int) -> None:
        """Keep a batch that was published during the read; a client that would get more than `limit` falls behind."""
        if self.state is not FeedState.READING:
            raise IllegalTransition(f"hold: a feed holds while READING, not while {self.state.name}")
        self.held.append(batch)
        if len(self.held) > limit:
            self._leave_reading(FeedState.BEHIND)

    def hold_change(self, change: Change, *, limit: int) -> None:
        """Keep a change that was published during the read; above `limit` the next `rev` reveals it."""
        if self.state is not FeedState.READING:
            raise IllegalTransition(f"hold_change: a feed holds while READING, not while {self.state.name}")
        if len(self.held_changes) < limit:
            self.held_changes.append(change)

    def complete_read(self, slice_: Slice) -> tuple[list[Batch], list[Change]]:
        """Take the answer of the read; return what was held, which the client gets next if the feed is OPEN now.

        The feed is BEHIND where the log has more than the answer, or where it fell behind during the read.
        """
        if self.state is FeedState.OPEN:
            raise IllegalTransition("complete_read: no read is under way")
        fell_behind = self.state is FeedState.BEHIND
        self._begin_epoch(slice_.epoch)
        self.last = slice_.upto
        self.told = (slice_.top, slice_.rev)
        self._client_knows(slice_.rev)
        held = self.held, self.held_changes
        self._leave_reading(FeedState.BEHIND if slice_.more or fell_behind else FeedState.OPEN)
        return held

    def refuse_read(self) -> None:
        """End the read without an answer that the client can go on from."""
        if self.state is FeedState.OPEN:
            raise IllegalTransition("refuse_read: no read is under way")
        self._leave_reading(FeedState.BEHIND)

    def end_read(self) -> None:
        """End a read that was neither completed nor refused; else do nothing."""
        if self.state is FeedState.READING:
            self._leave_reading(FeedState.BEHIND)

    def _leave_reading(self, state: FeedState) -> None:
        self.state = state
        if self.held:
            self.held = []
        if self.held_changes:
            self.held_changes = []

    # Messages

    def restart(self, epoch: str, after: int) -> None:
        """Begin another life of the log, from `after`."""
        self._begin_epoch(epoch)
        self.last = after

    def sent(self, seq: int) -> None:
        """Note that the client was sent everything up to `seq`."""
        self.last = seq

    def fall_behind(self, top: int, rev: int) -> None:
        """Drop publications until the client syncs; it is told this position. Legal in every state."""
        self._leave_reading(FeedState.BEHIND)
        self.told = (top, rev)

    def check_position(self, epoch: str, top: int, rev: int) -> bool:
        """Compare the feed with the log's position; fall behind where messages are missing. Return whether to tell the client."""
        if self.state is FeedState.READING:
            return False
        if self.epoch != epoch or self.last < top:
            self.state = FeedState.BEHIND
        elif self.state is FeedState.OPEN and self.told == (top, rev):
            return False
        self.told = (top, rev)
        return True

    # Changes

    def publish_change(self, change: Change) -> bool:
        """Note a published change; return whether the client is to be sent it: neither old nor sent as an answer."""
        if self.state is not FeedState.OPEN or change.epoch != self.epoch or change.rev <= self.rev:
            return False
        answered = change.rev in self.answered
        self._client_knows(change.rev)
        if change.rev != self.rev_told + 1:
            self.told_after = change.rev - 1
        self.rev_told = change.rev
        return not answered

    def answer_change(self, change: Change) -> bool:
        """Note a change as answered to the client that asked for it; return False where its publication was quicker."""
        if change.epoch != self.epoch:
            return True
        if self.told_after < change.rev <= self.rev_told:
            return False
        if change.rev > self.rev:  # changes before it may still be on their way: they are sent after it
            self.answered |= {change.rev}
        return True

    def _client_knows(self, rev: int) -> None:
        """Note that the client knows all changes up to `rev`, or is about to."""
        self.rev = rev
        if self.answered:
            self.answered = frozenset(answered for answered in self.answered if answered > rev)

    # Acknowledgements

    def acknowledged(self, seq: int) -> None:
        """Note an acknowledgement above all before it; it ends the silence."""
        self.acked = seq
        self.silence = None

    def begin_silence(self, due_s: float | None) -> None:
        """Note that pushed messages are unacknowledged, to be checked at `due_s`."""
        self.silence = Silence(due_s)

    def end_silence(self, silence: Silence) -> None:
        """End a silence, unless another one has begun since."""
        if self.silence is silence:
            self.silence = None
