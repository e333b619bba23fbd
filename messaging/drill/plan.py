"""What a drill is asked to do."""

from __future__ import annotations

import dataclasses

KINDS = ("server", "worker", "store")
TTL_LOWEST_S = 10  # by the contract
TTL_HIGHEST_S = 600  # a drill waits until everything has expired
NAMED_MOST = 100  # people in one notice, by the contract
NOTICES_MOST = 1_000  # of one person; the site sums up older ones, and a sum names nobody


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`loss` and `duplicate` are shares of 1, of the frames in each direction; `cut`: cuts of each client's connection."""

    clients: int = 20
    messages: int = 5_000
    rooms: int = 5
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    cut: int = 0
    kill: tuple[str, ...] = ()
    seconds: float = 30.0  # over which the messages are offered, cuts and kills among them
    seed: int = 0
    recovery: bool = True
    processes: int = 1
    ttl: tuple[int, int] | None = (
        None  # the shortest and the longest life (s); None: the rooms' own, for the whole drill
    )
    worker: bool = True

    def __post_init__(self) -> None:
        if not self.worker and "worker" in self.kill:
            raise DrillError("With --without-worker there is no worker to kill.")
        if self.ttl is None:
            return
        if self.clients > NAMED_MOST + 1:
            raise DrillError(
                f"With --ttl at most {NAMED_MOST + 1} clients: a notice names at most {NAMED_MOST}."
            )
        if self.messages > NOTICES_MOST * self.clients:
            raise DrillError(
                f"With --ttl at most {NOTICES_MOST} messages for each client: nobody is kept more notices."
            )


class DrillError(Exception):
    """The drill itself cannot go on; the text is a sentence for whoever started it."""
