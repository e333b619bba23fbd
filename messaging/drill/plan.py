"""The settings of a drill."""

from __future__ import annotations

import dataclasses

KINDS = ("server", "worker", "store")
MIN_TTL_S = 10  # by the contract
MAX_TTL_S = 600  # a drill waits until everything has expired
MAX_NAMED = 100  # people in one notice, by the contract
MAX_NOTICES = 1_000  # for one user; older ones become a summary, which names nobody


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`loss` and `duplicate` are shares of 1, of the frames in each direction; `cut` is the number of cuts for each client."""

    clients: int = 20
    messages: int = 5_000
    rooms: int = 5
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    cut: int = 0
    kill: tuple[str, ...] = ()
    seconds: float = 30.0  # in which messages are offered, connections cut and processes killed
    seed: int = 0
    recovery: bool = True
    processes: int = 1
    ttl: tuple[int, int] | None = (
        None  # shortest and longest (s); None: that of the room, longer than the drill
    )
    worker: bool = True

    def __post_init__(self) -> None:
        if not self.worker and "worker" in self.kill:
            raise DrillError("With --without-worker there is no worker to kill.")
        if self.ttl is None:
            return
        if self.clients > MAX_NAMED + 1:
            raise DrillError(
                f"With --ttl at most {MAX_NAMED + 1} clients: a notice names at most {MAX_NAMED}."
            )
        if self.messages > MAX_NOTICES * self.clients:
            raise DrillError(
                f"With --ttl at most {MAX_NOTICES} messages for each client: the site keeps no more notices for one user."
            )


class DrillError(Exception):
    """The drill cannot continue. The text is a sentence for the operator."""
