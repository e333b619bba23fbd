"""What a drill is asked to do."""

from __future__ import annotations

import dataclasses

KINDS = ("server", "worker", "store")


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
    nets: bool = True
    processes: int = 1


class DrillError(Exception):
    """The drill itself cannot go on; the text is a sentence for whoever started it."""
