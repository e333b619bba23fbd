"""Judge expired messages: every recipient held each accepted message, or a notice to its sender named them.

In a drill all clients are in every room from the beginning. Nobody leaves and nobody rejects, so all but the sender are recipients.
A notice may name a recipient whose acknowledgement was in flight at expiry. It was in flight if it was sent less than 5 s before, if
its connection ended right after it, or if it was sent during an outage of the site. Any other acknowledgement has arrived, and naming
its author is an error.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .books import Book, Books, Notice
from .findings import Findings, client_name
from .plan import MAX_NAMED
from .tally import Place

IN_FLIGHT_MS = 5_000
READ_TIMEOUT_MS = 1_000  # the server reads a frame this long after it was handed to a socket
REASONS = ("offline", "no_ack", "late")


@dataclasses.dataclass(frozen=True, slots=True)
class Outage:
    """A period in which the site could not read acknowledgements (epoch ms)."""

    begins_at: int
    ends_at: int


@dataclasses.dataclass(slots=True)
class Missed:
    """Numbers of expired messages, in (message, recipient) pairs; `told` in messages."""

    missed: int = 0  # named, and not held
    told: int = 0
    in_doubt: int = 0  # named, and held: the acknowledgement was in flight
    earliest_doubt_ms: int = 0  # from the first acknowledgement of one of those to expiry
    late: int = 0  # of these: arrived after expiry, was acknowledged as late, not shown
    slowest_told_ms: int = 0  # from expiry to the notice


class Misses:
    """Checks every notice alone, then every message against all its recipients."""

    def __init__(self, books: Books, outages: Sequence[Outage], findings: Findings) -> None:
        self.counts = Missed()
        self._books = books
        self._findings = findings
        self._outages = outages
        self._people = {book.user: index for index, book in enumerate(books.clients)}
        self._named: defaultdict[Place, set[int]] = defaultdict(set)

    def judge(self) -> Missed:
        for index, book in enumerate(self._books.clients):
            notices: dict[str, Notice] = {}
            for notice in book.notices:
                if notice.id in notices:
                    self._wrong(index, notice, "contradicts its earlier content")
                    continue
                notices[notice.id] = notice
                self._check_notice(index, notice)
        for place in self._books.lives:
            self._judge_message(place)
        self.counts.told = sum(map(bool, self._named.values()))
        return self.counts

    # A notice

    def _check_notice(self, index: int, notice: Notice) -> None:
        place = self._place_of(index, notice)
        if place is None:
            return
        data = notice.data
        life = self._books.lives[place]
        if data["expired_at"] != life.expires_at:
            self._wrong(index, notice, f"the message expired at {life.expires_at}")
        if notice.at < life.expires_at:
            self._wrong(index, notice, f"came {life.expires_at - notice.at} ms before expiry")
        self._check_sums(index, notice)
        self.counts.slowest_told_ms = max(self.counts.slowest_told_ms, notice.at - life.expires_at)
        for missing in data["missing"]:
            self._name(index, notice, place, missing)

    def _place_of(self, index: int, notice: Notice) -> Place | None:
        """Return the place of the message of a notice, even if no client knew that it was accepted."""
        if notice.kind != "undelivered":
            self._wrong(index, notice, f"a {notice.kind} notice names nobody")
            return None
        data = notice.data
        place = data["room"], data["epoch"], data["seq"]
        offer = self._books.offers.get(data["id"])
        if offer is None or (offer.sender, offer.room) != (index, data["room"]):
            self._wrong(index, notice, "about a message that this client did not send")
            return None
        if self._books.life_at(place, data["id"], data["expired_at"]).id != data["id"]:
            self._wrong(index, notice, "about another message than the one at this place")
            return None
        return place

    def _check_sums(self, index: int, notice: Notice) -> None:
        data, recipients = notice.data, len(self._books.clients) - 1
        if data["total"] != recipients:
            self._wrong(index, notice, f"counts {data['total']} recipients, not {recipients}")
        if data["delivered"] + data["missing_total"] != data["total"] or not data["missing_total"]:
            self._wrong(index, notice, f"{data['delivered']} and {data['missing_total']} of {data['total']}")
        if len(data["missing"]) != min(MAX_NAMED, data["missing_total"]):
            self._wrong(index, notice, f"names {len(data['missing'])} of {data['missing_total']}")
        if notice.told + data["missing_total"] > recipients:
            self._wrong(
                index,
                notice,
                f"counts {data['missing_total']} missing, but receipts counted {notice.told} holders",
            )

    def _name(self, index: int, notice: Notice, place: Place, missing: dict[str, Any]) -> None:
        person = self._people.get(missing["user"])
        if person is None or person == index:
            self._wrong(index, notice, f"names {missing['user']}, who is no recipient")
            return
        if missing["name"] != self._books.clients[person].name or missing["reason"] not in REASONS:
            self._wrong(index, notice, f"names {missing}")
        if missing["reason"] != "late" and (missing["reason"] == "no_ack") != (missing["attempts"] > 0):
            self._wrong(index, notice, f"{missing['reason']} after {missing['attempts']} attempts")
        if person in self._named[place]:
            self._findings.add("named_twice", f"{_where(place)}: {client_name(person)}")
        self._named[place].add(person)

    def _wrong(self, index: int, notice: Notice, fault: str) -> None:
        where = f"{notice.data.get('room', '')} {notice.data.get('seq', '')}".strip()
        self._findings.add(
            "misreported", f"notice {notice.id} to {client_name(index)} about {where}: {fault}"
        )

    # A message

    def _judge_message(self, place: Place) -> None:
        life = self._books.lives[place]
        offer = self._books.offers.get(life.id)
        for index, book in enumerate(self._books.clients):
            if offer is None or index == offer.sender:
                continue
            named = index in self._named[place]
            if place in book.holds:
                if named:
                    self._judge_name(index, place, life.expires_at)
            elif named:
                self.counts.missed += 1
                self.counts.late += place in book.late
            else:
                self._findings.add(
                    "unexplained",
                    f"{_where(place)} {life.id} of {client_name(offer.sender)}: {client_name(index)}",
                )

    def _judge_name(self, index: int, place: Place, expires_at: int) -> None:
        """Check that the acknowledgement of a named recipient was in flight at expiry."""
        book = self._books.clients[index]
        room, epoch, seq = place
        sent_at = [ack.at for ack in book.acknowledged[room] if ack.epoch == epoch and ack.seq >= seq]
        for at in sent_at:
            if at <= expires_at - IN_FLIGHT_MS and self._has_arrived(book, at):
                where = f"{_where(place)}: {client_name(index)}"
                self._findings.add("named_falsely", f"{where} acknowledged it {expires_at - at} ms before")
                return
        self.counts.in_doubt += 1
        before_ms = expires_at - min(sent_at, default=expires_at)
        self.counts.earliest_doubt_ms = max(self.counts.earliest_doubt_ms, before_ms)

    def _has_arrived(self, book: Book, at: int) -> bool:
        """Return whether the connection and the site were up long enough to read an acknowledgement of that time."""
        upto = at + READ_TIMEOUT_MS
        return not _any_within(book.closed, at, upto) and not any(
            outage.begins_at <= upto and outage.ends_at >= at for outage in self._outages
        )


def _any_within(times: list[int], first: int, last: int) -> bool:
    at = bisect.bisect_left(times, first)
    return at < len(times) and times[at] <= last


def _where(place: Place) -> str:
    return f"{place[0]} {place[2]}"
