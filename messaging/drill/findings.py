"""The guarantees that a drill checks, and how often each was broken."""

from __future__ import annotations

from collections import defaultdict

MAX_EXAMPLES = 5  # of each kind

# {kind: meaning}, in the order in which they are shown.
FINDINGS = {
    "lost": "accepted, but no longer in the log of the room",
    "unexpected": "held or stored, but never offered in this form",
    "twice": "accepted, stored or held twice",
    "out_of_order": "not held in the order in which it was sent",
    "disagreeing": "at different places in the order for different clients",
    "acknowledged_never_held": "counted by the site as delivered to a client who does not hold it",
    "undelivered": "accepted, but not held by a client, though all are connected",
    "unacknowledged": "held, but the site does not know it",
    "unaccepted": "offered, but never answered",
    "refused": "offered, but refused with a final error",
    "unexplained": "expired and missed by a recipient, but its sender was not told",
    "named_twice": "one recipient named twice for one message",
    "named_falsely": "named, but had acknowledged the message well before it expired",
    "misreported": "a notice that contradicts the message, the receipts or itself",
    "after_expiry": "its text arrived after it had expired",
    "before_expiry": "removed from the screen before it expired",
    "disagreed": "the site contradicted itself",
}


class Findings:
    """Counts by kind, with the first examples."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(FINDINGS, 0)
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < MAX_EXAMPLES:
            self.examples[kind].append(example)


def client_name(index: int) -> str:
    """Return the name of a client in examples: the number of their ledger."""
    return f"client {index + 1}"
