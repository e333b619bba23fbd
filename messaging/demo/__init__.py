"""People, rooms and messages to try the chat with.

1. `people` makes the demo of the first run, and any number of fresh people and rooms for tests and benchmarks.
2. `states` makes one message in each state through the same code as real clients.
"""

from .people import (
    BATCH,
    PEOPLE,
    STAFF,
    LogIn,
    Note,
    Person,
    Seeded,
    SeededRoom,
    close,
    kept_note,
    log_in,
    note_path,
    note_states,
    seed_demo,
    seed_first_run,
    seed_fresh,
)

__all__ = [
    "BATCH",
    "PEOPLE",
    "STAFF",
    "LogIn",
    "Note",
    "Person",
    "Seeded",
    "SeededRoom",
    "close",
    "kept_note",
    "log_in",
    "note_path",
    "note_states",
    "seed_demo",
    "seed_first_run",
    "seed_fresh",
]
