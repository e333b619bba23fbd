"""Pack the members who missed a message into one short text: 9,900 offline members of a large room need a few bytes.

    no_ack:3:17;offline:0:1-16,18-9900

A group `reason:attempts:users` has the members with the same reason and number of attempts. Groups and user ids are sorted, and
consecutive ids are written as a range. No I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from messaging.store.records import Missed


def pack(missed: Iterable[Missed]) -> str:
    """Return `missed` as one text. If a user has two entries, the first is kept."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    known: set[int] = set()
    for member in missed:
        if member.user not in known:
            known.add(member.user)
            groups[member.reason, member.attempts].append(member.user)
    return ";".join(
        f"{reason}:{attempts}:{','.join(_ranges(sorted(users)))}"
        for (reason, attempts), users in sorted(groups.items())
    )


def unpack(packed: str) -> list[Missed]:
    """Return the packed members, sorted by reason, attempts and user."""
    return [
        Missed(user, reason, int(attempts))
        for group in filter(None, packed.split(";"))
        for reason, attempts, ranges in [group.split(":")]
        for text in ranges.split(",")
        for user in _users_of(text)
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


def _users_of(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
