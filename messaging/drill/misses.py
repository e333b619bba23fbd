"""Judge lives that ended: each accepted message was held by, or reported missed by name for, everybody who owed it.

In a drill everybody is in each room from the beginning, nobody leaves and nobody rejects, so all but the sender owe a message. A
notice may name somebody whose acknowledgement was under way at expiry. It was under way when it left less than 5 s before, when
its connection ended right after it, or when the store had just been killed. Any other acknowledgement has arrived, and to name
its writer is false.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from typing import Any

from .books import Book, Books, Notice
from .findings import Findings, who
from .plan import NAMED_MOST
from .tally import Place

UNDER_WAY_MS = 5_000
READ_WITHIN_MS = 1_000  # by the server, of what was handed to a socket
STORE_BACK_WITHIN_MS = 10_000  # after a kill: started again, its log read, connected to again
REASONS = ("offline", "no_ack")


@dataclasses.dataclass(slots=True)
class Missed:
    """How a drill's lives ended, in (message, recipient) pairs; `told` in messages."""

    missed: int = 0  # named, and not held
    told: int = 0
    in_doubt: int = 0  # named, and held: the acknowledgement was under way
    earliest_doubt_ms: int = 0  # before expiry, when one of those first said so
    late: int = 0  # came after its life, was acknowledged, not shown
    slowest_told_ms: int = 0  # from expiry to the notice


class Misses:
    """The judge. Notices are checked each by itself, then each message against all who owed it."""

    def __init__(self, books: Books, store_kills: list[int], found: Findings) -> None:
        self.counts = Missed()
        self._books = books
        self._found = found
        self._store_kills = store_kills
        self._people = {book.user: index for index, book in enumerate(books.each)}
        self._named: defaultdict[Place, set[int]] = defaultdict(set)

    def judge(self) -> Missed:
        for index, book in enumerate(self._books.each):
            said: dict[str, Notice] = {}
            for notice in book.notices:
                if notice.id in said:
                    self._wrong(index, notice, "says something else than before")
                    continue
                said[notice.id] = notice
                self._take(index, notice)
        for place in self._books.lives:
            self._judge_message(place)
        self.counts.told = sum(map(bool, self._named.values()))
        return self.counts

    # A notice

    def _take(self, index: int, notice: Notice) -> None:
        place = self._place_of(index, notice)
        if place is None:
            return
        data = notice.data
        life = self._books.lives[place]
        if data["expired_at"] != life.expires_at:
            self._wrong(index, notice, f"the message lived until {life.expires_at}")
        if notice.at < life.expires_at:
            self._wrong(index, notice, f"came {life.expires_at - notice.at} ms before the end")
        self._check_sums(index, notice)
        self.counts.slowest_told_ms = max(self.counts.slowest_told_ms, notice.at - life.expires_at)
        for missing in data["missing"]:
            self._name(index, notice, place, missing)

    def _place_of(self, index: int, notice: Notice) -> Place | None:
        """Return where the message stands that a notice is about; also one of whose acceptance nobody had heard."""
        if notice.kind != "undelivered":
            self._wrong(index, notice, f"a {notice.kind} names nobody")
            return None
        data = notice.data
        place = data["room"], data["epoch"], data["seq"]
        offer = self._books.offers.get(data["id"])
        if offer is None or (offer.sender, offer.room) != (index, data["room"]):
            self._wrong(index, notice, "about a message of another's, or of nobody's")
            return None
        if self._books.heard(place, data["id"], data["expired_at"]).id != data["id"]:
            self._wrong(index, notice, "about another message than stands there")
            return None
        return place

    def _check_sums(self, index: int, notice: Notice) -> None:
        data, owing = notice.data, len(self._books.each) - 1
        if data["total"] != owing:
            self._wrong(index, notice, f"{data['total']} owed it, not {owing}")
        if data["delivered"] + data["missing_total"] != data["total"] or not data["missing_total"]:
            self._wrong(index, notice, f"{data['delivered']} and {data['missing_total']} of {data['total']}")
        if len(data["missing"]) != min(NAMED_MOST, data["missing_total"]):
            self._wrong(index, notice, f"names {len(data['missing'])} of {data['missing_total']}")
        if notice.told + data["missing_total"] > owing:
            self._wrong(index, notice, f"misses {data['missing_total']}; receipts said {notice.told} held it")

    def _name(self, index: int, notice: Notice, place: Place, missing: dict[str, Any]) -> None:
        person = self._people.get(missing["user"])
        if person is None or person == index:
            self._wrong(index, notice, f"names {missing['user']}, who did not owe it")
            return
        if missing["name"] != self._books.each[person].name or missing["reason"] not in REASONS:
            self._wrong(index, notice, f"names {missing}")
        if (missing["reason"] == "no_ack") != (missing["attempts"] > 0):
            self._wrong(index, notice, f"{missing['reason']} after {missing['attempts']} attempts")
        if person in self._named[place]:
            self._found.add("named_twice", f"{_where(place)}: {who(person)}")
        self._named[place].add(person)

    def _wrong(self, index: int, notice: Notice, why: str) -> None:
        where = f"{notice.data.get('room', '')} {notice.data.get('seq', '')}".strip()
        self._found.add("misreported", f"notice {notice.id} to {who(index)} about {where}: {why}")

    # A message

    def _judge_message(self, place: Place) -> None:
        life = self._books.lives[place]
        offer = self._books.offers.get(life.id)
        for index, book in enumerate(self._books.each):
            if offer is None or index == offer.sender:
                continue
            named = index in self._named[place]
            if place in book.holds:
                if named:
                    self._judge_name(index, place, life.expires_at)
            elif place in book.late:
                self.counts.late += 1
            elif named:
                self.counts.missed += 1
            else:
                self._found.add(
                    "unexplained", f"{_where(place)} {life.id} of {who(offer.sender)}: {who(index)}"
                )

    def _judge_name(self, index: int, place: Place, expires_at: int) -> None:
        """Was the acknowledgement of somebody who is named under way, or had it come?"""
        book = self._books.each[index]
        room, epoch, seq = place
        saying = [said.at for said in book.acknowledged[room] if said.epoch == epoch and said.seq >= seq]
        for at in saying:
            if at <= expires_at - UNDER_WAY_MS and self._has_come(book, at):
                where = f"{_where(place)}: {who(index)}"
                self._found.add("named_falsely", f"{where} acknowledged it {expires_at - at} ms before")
                return
        self.counts.in_doubt += 1
        before_ms = expires_at - min(saying, default=expires_at)
        self.counts.earliest_doubt_ms = max(self.counts.earliest_doubt_ms, before_ms)

    def _has_come(self, book: Book, at: int) -> bool:
        """Did its connection, and the store, live on when this was handed to a socket?"""
        return not _any_within(book.closed, at, at + READ_WITHIN_MS) and not _any_within(
            self._store_kills, at - STORE_BACK_WITHIN_MS, at + READ_WITHIN_MS
        )


def _any_within(times: list[int], first: int, last: int) -> bool:
    at = bisect.bisect_left(times, first)
    return at < len(times) and times[at] <= last


def _where(place: Place) -> str:
    return f"{place[0]} {place[2]}"
