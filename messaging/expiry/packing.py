"""All who missed one message, packed into one text: 9,900 absent members of a large room are a few bytes.

    no_ack:3:17;offline:0:1-16,18-9900

Groups of one reason and number of attempts, in order; in each the users' numbers, rising, runs of them as a range. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from messaging.store.records import Missed


def pack(missed: Iterable[Missed]) -> str:
    """Return `missed` as one text. Whoever stands in it twice is kept as he stood first."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    known: set[int] = set()
    for one in missed:
        if one.user not in known:
            known.add(one.user)
            groups[one.reason, one.attempts].append(one.user)
    return ";".join(
        f"{reason}:{attempts}:{','.join(_ranges(sorted(users)))}"
        for (reason, attempts), users in sorted(groups.items())
    )


def unpack(packed: str) -> list[Missed]:
    """Return what was packed, by reason, attempts and user."""
    return [
        Missed(user, reason, int(attempts))
        for group in filter(None, packed.split(";"))
        for reason, attempts, ranges in [group.split(":")]
        for run in ranges.split(",")
        for user in _run(run)
    ]


def _ranges(users: list[int]) -> Iterator[str]:
    first = last = users[0]
    for user in users[1:]:
        if user != last + 1:
            yield _range(first, last)
            first = user
        last = user
    yield _range(first, last)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _run(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
