"""The shared counts of all clients, which show when the drill is over. The judge uses the ledgers only."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator

Place = tuple[str, str, int]  # room, epoch, seq


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """An accepted message. `sender` is a user."""

    sender: int
    expires_at: int


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts of messages and frames. `recipients`: of each message. `lives` and `explained` are kept only if lifetimes are `short`."""

    recipients: int = 0
    short: bool = False
    accepted: int = 0
    refused: int = 0
    held: int = 0
    named: int = 0
    holders: Counter[Place] = dataclasses.field(
        default_factory=Counter
    )  # the number of recipients it reached
    closes: Counter[int] = dataclasses.field(default_factory=Counter)  # connections, by close code
    lives: dict[Place, Life] = dataclasses.field(default_factory=dict)
    explained: defaultdict[Place, set[int]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    ended: set[Place] = dataclasses.field(default_factory=set)  # expired, according to the site

    def heard(self, place: Place, sender: int, expires_at: int) -> None:
        """Record an accepted message."""
        if self.short:
            self.lives[place] = Life(sender, expires_at)

    def reached(self, place: Place, user: int) -> None:
        """Record that a message reached a recipient, before or after expiry."""
        self.holders[place] += 1
        if self.short:
            self.explained[place].add(user)

    def missed(self, place: Place, users: Iterable[int]) -> None:
        """Record the recipients that a notice names."""
        self.ended.add(place)
        before = len(self.explained[place])
        self.explained[place].update(users)
        self.named += len(self.explained[place]) - before

    def unexplained(self, *, away: Container[int] = ()) -> Iterator[Place]:
        """Yield the messages that a recipient neither got nor is named for, except those of offline senders."""
        for place, life in self.lives.items():
            if len(self.explained[place]) < self.recipients and life.sender not in away:
                yield place

    def untold(self, before_ms: int) -> set[int]:
        """Return the senders of unexplained messages that expired before a time, or that the site reported as expired."""
        return {
            self.lives[place].sender
            for place in self.unexplained()
            if place in self.ended or self.lives[place].expires_at < before_ms
        }

    def tops(self) -> dict[str, int]:
        """Return {room: the newest known seq}."""
        tops: dict[str, int] = {}
        for room, _, seq in self.lives:
            tops[room] = max(seq, tops.get(room, 0))
        return tops

    def all_ended(self) -> bool:
        """Return whether the last message of each room has expired. Others may have no `expired` frame: these frames are hints."""
        last: dict[str, Place] = {}
        for place, life in self.lives.items():
            if place[0] not in last or life.expires_at > self.lives[last[place[0]]].expires_at:
                last[place[0]] = place
        return self.ended >= set(last.values())

    @property
    def last_expires_at(self) -> int:
        return max((life.expires_at for life in self.lives.values()), default=0)
