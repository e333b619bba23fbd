"""Count the broken promises of a run by its ledgers, with the rules of the drill.

A store that lost data gives a room a new epoch, in which a message has a second place. So a message is judged by its id: each recipient
holds it at one of its places, or was named to its sender.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

from messaging.drill.books import Books, Notice
from messaging.drill.findings import Findings, client_name
from messaging.drill.misses import Misses, Outage
from messaging.drill.report import _judge_acceptance, _judge_logs, _judge_order
from messaging.drill.tally import Place
from messaging.drill.witness import Entry

# The columns of the table, and the findings of the drill that each counts. All others are in `other`.
COLUMNS = {
    "lost": ("lost", "undelivered", "unaccepted", "refused"),
    "twice": ("twice", "named_twice"),
    "out of order": ("out_of_order", "disagreeing"),
    "untold": ("unexplained",),
    "falsely told": ("named_falsely",),
}


@dataclasses.dataclass(kw_only=True)
class Verdict:
    """The counts of one run. `lost`, `untold` and `falsely told` are (message, member) pairs; `missed` pairs were told."""

    accepted: int = 0
    missed: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys([*COLUMNS, "other"], 0))
    unaccounted: int = 0
    loses: bool = False  # the store has lost data: its account reports the messages, also if clients have sent them again
    repair_s: float = 0.0
    told_s: float = 0.0
    examples: list[str] = dataclasses.field(default_factory=list)
    failure: str = ""  # the run did not do what it should

    def add(self, column: str, example: str) -> None:
        """Count a finding that a scenario has made."""
        self.counts[column] += 1
        self.examples.append(f"{column}: {example}")

    @property
    def ok(self) -> bool:
        return not (any(self.counts.values()) or (self.unaccounted and not self.loses) or self.failure)


class RunBooks(Books):
    """The ledgers of a run.

    A text that arrives after its end is no finding if an outage has delayed it: clients do not show it. In a log that got a new epoch, a
    receipt also counts the clients who held the message in the old one.
    """

    def __init__(self, folder: Path, outages: list[Outage], findings: Findings) -> None:
        self._late_texts: list[tuple[str, str, int, int]] = []  # client, room, seq, ms after the end
        self._overclaims: list[tuple[str, int, int, int]] = []  # room, seq, counted, held then
        super().__init__(folder, findings)
        epochs: defaultdict[str, set[str]] = defaultdict(set)
        holders: defaultdict[str, set[int]] = defaultdict(set)  # of an id
        for room, epoch, _ in self.lives:
            epochs[room].add(epoch)
        for index, book in enumerate(self.clients):
            for place in book.holds:
                holders[self.lives[place].id].add(index)
        for room, seq, counted, held in self._overclaims:
            ids = {life.id for place, life in self.lives.items() if (place[0], place[2]) == (room, seq)}
            if len(epochs[room]) == 1 or counted > max((len(holders[one]) for one in ids), default=0):
                super()._overclaimed(room, seq, counted, held)
        ends: defaultdict[tuple[str, int], int] = defaultdict(int)
        for (room, _, seq), life in self.lives.items():
            ends[room, seq] = max(ends[room, seq], life.expires_at)
        for client, room, seq, after_ms in self._late_texts:
            ends_at = ends[room, seq]
            delayed = any(
                outage.begins_at <= ends_at + after_ms and outage.ends_at >= ends_at for outage in outages
            )
            if not delayed:
                findings.add("after_expiry", f"{client} in {room}: {seq}, {after_ms} ms after")

    def _overclaimed(self, room: str, seq: int, told: int, held: int) -> None:
        self._overclaims.append((room, seq, told, held))

    def _after_expiry(self, room: str, seq: int, after_ms: int) -> None:
        self._late_texts.append((client_name(self._index), room, seq, after_ms))


class Judge(Misses):
    """Judges messages by id. Ended before `at` (epoch ms): a notice must name those who lack them."""

    def __init__(self, books: Books, outages: list[Outage], findings: Findings, at: int) -> None:
        super().__init__(books, outages, findings)
        self._at = at
        self._places: defaultdict[str, list[Place]] = defaultdict(list)
        for place, life in books.lives.items():
            self._places[life.id].append(place)

    def _check_sums(self, index: int, notice: Notice) -> None:
        """Check the numbers of a notice. If an outage delayed it, an acknowledgement in flight may have been counted since it was written."""
        ends_at = notice.data["expired_at"]
        if any(outage.begins_at <= notice.at and outage.ends_at >= ends_at for outage in self._outages):
            notice = dataclasses.replace(notice, told=0)
        super()._check_sums(index, notice)

    def _judge_message(self, place: Place) -> None:
        """Judge a message at the last of its places: `judge` calls this for each of them."""
        life = self._books.lives[place]
        places = self._places[life.id]
        offer = self._books.offers.get(life.id)
        if place != places[-1] or offer is None:
            return
        ends_at = max(self._books.lives[one].expires_at for one in places)
        for index, book in enumerate(self._books.clients):
            if index == offer.sender:
                continue
            named = [one for one in places if index in self._named[one]]
            held = [one for one in places if one in book.holds]
            if named and held:
                for one in set(named) & set(held):
                    self._judge_name(index, one, self._books.lives[one].expires_at)
            elif named:
                self.counts.missed += 1
            elif not held:
                kind = "unexplained" if ends_at <= self._at else "undelivered"
                where = f"{' '.join(map(str, places[-1]))} {life.id}"
                self._findings.add(
                    kind, f"{where} of {client_name(offer.sender)}: {client_name(index)}, ends {ends_at}"
                )


def judge(ledgers: Path, outages: list[Outage], at: int) -> Verdict:
    """Read the ledgers of a run. `at`: when the clients were stopped (epoch ms)."""
    findings = Findings()
    books = RunBooks(ledgers, outages, findings)
    missed = Judge(books, outages, findings, at).judge()
    logs: defaultdict[str, dict[str, list[Entry]]] = defaultdict(dict)  # {epoch: {room: entries}}
    for (room, epoch, seq), life in sorted(books.lives.items()):
        offer = books.offers.get(life.id)
        logs[epoch].setdefault(room, []).append(Entry(seq, life.id, offer.digest if offer else ""))
    for log in logs.values():
        _judge_logs(books.offers, log, findings)
    for index, book in enumerate(books.clients):
        for room, held in book.rooms.items():
            _judge_order(f"{client_name(index)} in {room}", held, [], books.offers, findings)
    # Two places of one id in the same epoch are `twice`; in two epochs the store had lost the first.
    for offer in books.offers.values():
        if len({epoch for epoch, _ in offer.places}) == len(offer.places):
            offer.places = set(list(offer.places)[:1])
    all_ids = {"": [Entry(0, life.id, "") for life in books.lives.values()]}
    _judge_acceptance(books.offers, all_ids, findings)

    verdict = Verdict(
        accepted=sum(bool(offer.places) for offer in books.offers.values()),
        missed=missed.missed,
        told_s=missed.slowest_told_ms / 1000,
    )
    columns = {kind: column for column, kinds in COLUMNS.items() for kind in kinds}
    for kind, count in findings.counts.items():
        verdict.counts[columns.get(kind, "other")] += count
        verdict.examples += [f"{kind}: {example}" for example in findings.examples.get(kind, [])]
    return verdict
