"""One room as one connection receives it: a state machine over the room's log.

                                                complete_read
    NEW ────────────────────────> READING ─────────────────────────> OPEN
                                   │   ^                              │
       complete_read with `more`,  │   │ begin_read                   │ fall_behind,
       refuse_read, end_read,      │   │ (from OPEN too)              │ check_position
       too many held, fall_behind  v   │                              v
                                  BEHIND <────────────────────────────┘

NEW: publications are dropped, because the first read returns them; `complete_read` without a read is legal if there were none.
READING: the store is read for the client; publications are held until the answer. OPEN: publications are sent. BEHIND: publications
are dropped; the client must `sync` first.

Only the methods of this class assign its fields. `hold` and `hold_change` outside READING raise
`IllegalTransition`, as do `complete_read` and `refuse_read` in OPEN.
Knows nothing of sockets or of the store.
"""

from __future__ import annotations

import dataclasses
import enum

from messaging.store.records import MemberPosition, RoomKey, Slice

from .publications import Batch, Change


class FeedState(enum.Enum):
    NEW = enum.auto()
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
    """The client has not acknowledged messages that were pushed. They are checked at `due_s` (the loop's clock).

    If `due_s` is None, no timer checks them; only a sweep does.
    """

    due_s: float | None


class Feed:
    """The state of one room on one connection."""

    __slots__ = (
        "acked",
        "answered_revs",
        "epoch",
        "held",
        "held_changes",
        "joined",
        "last",
        "position_sent",
        "published_after",
        "published_upto",
        "rev",
        "room",
        "silence",
        "state",
    )

    def __init__(self, room: MemberRoom) -> None:
        self.room = room
        self.state = FeedState.NEW
        self.epoch = ""
        self.joined = 0  # the seq after which the user's own history begins
        self.last = 0  # the newest seq sent
        self.acked = 0  # the newest seq acknowledged over this connection
        self.position_sent = (0, 0)  # the last position that was sent to the client: (top, rev)
        self.rev = 0  # the newest change that the client knows
        # Changes with `published_after` < rev <= `published_upto` were published to this client, or sent before as an answer.
        self.published_after = 0
        self.published_upto = 0
        self.answered_revs: frozenset[int] = (
            frozenset()
        )  # changes sent as an answer, before their publication
        self.held: list[Batch] = []
        self.held_changes: list[Change] = []
        self.silence: Silence | None = None  # None: no acknowledgement is awaited

    # Membership and log

    def change_room(self, room: MemberRoom) -> None:
        """Replace the room's fields and the user's role."""
        self.room = room

    def set_position(self, position: MemberPosition) -> None:
        """Set the epoch and the seq after which the user's history begins, as read from the store."""
        self._begin_epoch(position.epoch)
        self.joined = position.joined

    def _begin_epoch(self, epoch: str) -> None:
        """Set the epoch; in a new epoch changes are numbered from 1 again."""
        if epoch != self.epoch:
            self.epoch, self.rev, self.published_after, self.published_upto = epoch, 0, 0, 0
            self.answered_revs = frozenset()

    # Reads of the store

    def begin_read(self) -> None:
        """Hold publications until the read ends. Legal in every state."""
        self.state = FeedState.READING

    def hold(self, batch: Batch, *, limit: int) -> None:
        """Keep a batch that was published during the read; with more than `limit` batches the feed falls behind."""
        if self.state is not FeedState.READING:
            raise IllegalTransition(f"hold: a feed holds while READING, not while {self.state.name}")
        self.held.append(batch)
        if len(self.held) > limit:
            self._leave_reading(FeedState.BEHIND)

    def hold_change(self, change: Change, *, limit: int) -> None:
        """Keep a change that was published during the read.

        If `limit` changes are held already, it is dropped. The client then sees a gap in `rev` and syncs.
        """
        if self.state is not FeedState.READING:
            raise IllegalTransition(f"hold_change: a feed holds while READING, not while {self.state.name}")
        if len(self.held_changes) < limit:
            self.held_changes.append(change)

    def complete_read(self, slice_: Slice) -> tuple[list[Batch], list[Change]]:
        """Take the answer of the read; return the held batches and changes, to be sent next if the feed is now OPEN.

        The feed is BEHIND if the log has more messages or changes than the answer, or if it fell behind during the read.
        """
        if self.state is FeedState.OPEN:
            raise IllegalTransition("complete_read: no read is under way")
        fell_behind = self.state is FeedState.BEHIND
        self._begin_epoch(slice_.epoch)
        self.last = slice_.upto
        self.position_sent = (slice_.top, slice_.rev)
        self._raise_rev(slice_.rev)
        held = self.held, self.held_changes
        self._leave_reading(FeedState.BEHIND if slice_.more or fell_behind else FeedState.OPEN)
        return held

    def refuse_read(self) -> None:
        """End a read that failed: the client must `sync`."""
        if self.state is FeedState.OPEN:
            raise IllegalTransition("refuse_read: no read is under way")
        self._leave_reading(FeedState.BEHIND)

    def end_read(self) -> None:
        """End a read that was neither completed nor refused; otherwise do nothing."""
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
        """Begin a new epoch of the log, after seq `after`."""
        self._begin_epoch(epoch)
        self.last = after

    def sent(self, seq: int) -> None:
        """Record that everything up to `seq` was sent to the client."""
        self.last = seq

    def fall_behind(self, top: int, rev: int) -> None:
        """Drop publications until the client syncs; the caller sends it this position. Legal in every state."""
        self._leave_reading(FeedState.BEHIND)
        self.position_sent = (top, rev)

    def check_position(self, epoch: str, top: int, rev: int) -> bool:
        """Compare the feed with the log's position; fall behind if messages are missing. Return whether to send the position."""
        if self.state in (FeedState.NEW, FeedState.READING):
            return False
        if self.epoch != epoch or self.last < top:
            self.state = FeedState.BEHIND
        elif self.state is FeedState.OPEN and self.position_sent == (top, rev):
            return False
        self.position_sent = (top, rev)
        return True

    # Changes

    def publish_change(self, change: Change) -> bool:
        """Record a published change; return whether to send it to the client.

        It is sent only if the feed is OPEN, the epoch is the same, and the change is new and was not sent as an answer.
        """
        if self.state is not FeedState.OPEN or change.epoch != self.epoch or change.rev <= self.rev:
            return False
        answered = change.rev in self.answered_revs
        self._raise_rev(change.rev)
        if change.rev != self.published_upto + 1:
            self.published_after = change.rev - 1
        self.published_upto = change.rev
        return not answered

    def answer_change(self, change: Change) -> bool:
        """Record the answer to the client that asked for a change; return False if the change was sent when it was published."""
        if change.epoch != self.epoch:
            return True
        if self.published_after < change.rev <= self.published_upto:
            return False
        if change.rev > self.rev:
            # `self.rev` stays as it is: changes with a lower rev may still be published and must then be sent.
            self.answered_revs |= {change.rev}
        return True

    def _raise_rev(self, rev: int) -> None:
        """Record that the client has, or is now being sent, all changes up to `rev`."""
        self.rev = rev
        if self.answered_revs:
            self.answered_revs = frozenset(answered for answered in self.answered_revs if answered > rev)

    # Acknowledgements

    def acknowledged(self, seq: int) -> None:
        """Record an acknowledgement higher than all earlier ones; it ends the silence."""
        self.acked = seq
        self.silence = None

    def begin_silence(self, due_s: float | None) -> None:
        """Record that pushed messages are unacknowledged, to be checked at `due_s`."""
        self.silence = Silence(due_s)

    def end_silence(self, silence: Silence) -> None:
        """End a silence, unless a new one has begun since."""
        if self.silence is silence:
            self.silence = None
