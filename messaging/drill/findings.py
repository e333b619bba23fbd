"""The promises that a drill looks at, and how often it found each of them broken."""

from __future__ import annotations

from collections import defaultdict

EXAMPLES = 5

# Each is a promise broken, in the order in which they are shown.
FINDINGS = {
    "lost": "accepted, and not in the room's log any more",
    "unexpected": "held or stored, and never offered like that",
    "twice": "accepted, stored or held twice",
    "out_of_order": "held in another order than it was sent in",
    "disagreeing": "at one place in the order for one and at another for others",
    "acknowledged_never_held": "the site counts it as delivered to somebody who does not hold it",
    "undelivered": "accepted, and not held by somebody though everyone is connected",
    "unacknowledged": "held, and the site does not know it",
    "unaccepted": "offered, and never answered",
    "refused": "offered, and refused for good",
    "unexplained": "expired, not held by somebody who owed it, and its sender was not told so",
    "named_twice": "named twice as missing one message",
    "named_falsely": "named as missing what he had acknowledged well before it expired",
    "misreported": "a notice that contradicts what was sent, the receipts or itself",
    "after_expiry": "its text came after its life had ended",
    "before_expiry": "taken off the screen before its life had ended",
    "disagreed": "the site contradicted itself",
}


class Findings:
    """Counts by kind, with the first examples."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(FINDINGS, 0)
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)


def who(index: int) -> str:
    """Return how a client is called in examples: by the number of his ledger."""
    return f"client {index + 1}"
