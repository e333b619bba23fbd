"""What all clients of a drill count together, so that it knows when it is over. The judge trusts the ledgers only."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

Place = tuple[str, str, int]  # room, epoch, seq


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """What anybody has heard of an accepted message. `sender` is a user."""

    sender: int
    expires_at: int


@dataclasses.dataclass(slots=True)
class Tally:
    """`recipients` of each message. Who got what and who was named is kept only where lives are `short`."""

    recipients: int = 0
    short: bool = False
    accepted: int = 0
    refused: int = 0
    held: int = 0
    named: int = 0
    holders: Counter[Place] = dataclasses.field(default_factory=Counter)  # recipients whom it reached
    closes: Counter[int] = dataclasses.field(default_factory=Counter)  # connections, by how they ended
    lives: dict[Place, Life] = dataclasses.field(default_factory=dict)
    explained: defaultdict[Place, set[int]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    ended: set[Place] = dataclasses.field(default_factory=set)  # the site said that they expired

    def heard(self, place: Place, sender: int, expires_at: int) -> None:
        """Note that a message is accepted."""
        if self.short:
            self.lives[place] = Life(sender, expires_at)

    def reached(self, place: Place, user: int) -> None:
        """Note that a message came to a recipient, in time to be shown or not."""
        self.holders[place] += 1
        if self.short:
            self.explained[place].add(user)

    def missed(self, place: Place, users: Iterable[int]) -> None:
        """Note whom a notice names."""
        before = len(self.explained[place])
        self.explained[place].update(users)
        self.named += len(self.explained[place]) - before

    def unexplained(self) -> Iterator[Life]:
        """Yield the messages that some recipient neither got nor is named for."""
        for place, life in self.lives.items():
            if len(self.explained[place]) < self.recipients:
                yield life

    @property
    def last_expires_at(self) -> int:
        return max((life.expires_at for life in self.lives.values()), default=0)
