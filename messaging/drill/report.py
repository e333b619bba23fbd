"""Judge a drill by what its clients wrote down and what the site says it has: what was lost, doubled, disordered, overclaimed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from .books import Books, Offer
from .findings import FINDINGS, Findings, who
from .misses import Missed, Misses
from .plan import Plan
from .witness import Cursor, Entry


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run leaves besides the ledgers. `cursors` are in the order of the ledgers; `store_kills` ascending epoch ms."""

    seconds: float
    killed: int
    closes: dict[str, int]
    faults: dict[str, int]
    cursors: list[dict[str, Cursor]]
    logs: dict[str, list[Entry]]
    store_kills: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict. `examples` are sentences, at most 5 of each kind; `missed` None: nothing was to expire."""

    ok: bool
    plan: Plan
    accepted: int
    deliveries: int
    findings: dict[str, int]
    examples: dict[str, list[str]]
    median_ms: int
    slowest_ms: int
    pushes_per_delivery: float
    seconds: float
    killed: int
    closes: dict[str, int]
    faults: dict[str, int]
    renewed: int
    missed: Missed | None

    @property
    def proves_nothing(self) -> bool:
        """Say whether nobody missed anything though lives were short: then nothing had to be told."""
        return self.missed is not None and not self.missed.missed


def judge(plan: Plan, folder: Path, outcome: Outcome) -> Report:
    """Read the ledgers and compare each with the others and with the site."""
    found = Findings()
    books = Books(folder, found)
    missed = None
    if plan.ttl is None:
        _judge_held(books, outcome, found)
    else:
        missed = _judge_ended(books, outcome, found)
    late = sorted(books.late_ms)
    report = Report(
        ok=not any(found.counts.values()),
        plan=plan,
        accepted=sum(bool(offer.places) for offer in books.offers.values()),
        deliveries=len(late),
        findings=found.counts,
        examples=dict(found.examples),
        median_ms=late[len(late) // 2] if late else 0,
        slowest_ms=late[-1] if late else 0,
        pushes_per_delivery=round(outcome.faults.get("pushed", 0) / max(1, len(late)), 3),
        seconds=round(outcome.seconds, 1),
        killed=outcome.killed,
        closes=outcome.closes,
        faults=outcome.faults,
        renewed=sum(offer.renewed for offer in books.offers.values()),
        missed=missed,
    )
    return dataclasses.replace(report, ok=report.ok and not report.proves_nothing)


def _judge_held(books: Books, outcome: Outcome, found: Findings) -> None:
    """Judge lives that outlast the drill: everything is in the log and held by everybody."""
    _judge_acceptance(books.offers, outcome.logs, found)
    _judge_logs(books.offers, outcome.logs, found)
    for index, (book, cursors) in enumerate(zip(books.each, outcome.cursors, strict=True)):
        own = {message_id for message_id, offer in books.offers.items() if offer.sender == index}
        for room, log in outcome.logs.items():
            where = f"{who(index)} in {room}"
            _judge_order(where, book.rooms[room], log, books.offers, found)
            _judge_delivery(where, book.rooms[room], log, cursors.get(room), own, found)


def _judge_ended(books: Books, outcome: Outcome, found: Findings) -> Missed:
    """Judge lives that are over: the site gives out none of them any more, so the log is what the clients heard of it."""
    missed = Misses(books, outcome.store_kills, found).judge()
    logs = books.logs()
    _judge_acceptance(books.offers, logs, found)
    _judge_logs(books.offers, logs, found)
    for index, book in enumerate(books.each):
        for room, log in logs.items():
            _judge_order(f"{who(index)} in {room}", book.rooms[room], log, books.offers, found)
    for room, log in outcome.logs.items():
        for entry in log:
            if entry.after_ms:
                found.add("after_expiry", f"{room} {entry.seq} in the room's log, {entry.after_ms} ms after")
    return missed


def _judge_acceptance(offers: dict[str, Offer], logs: dict[str, list[Entry]], found: Findings) -> None:
    """Is all that was offered accepted, once, and still there?"""
    stored = {entry.id for log in logs.values() for entry in log}
    for message_id, offer in offers.items():
        what = f"{offer.room} {message_id} of {who(offer.sender)}"
        if len(offer.places) > 1:
            found.add("twice", f"{what}: accepted at {sorted(offer.places)}")
        if offer.refused:
            found.add("refused", f"{what}: {offer.refused}")
        elif not offer.places and not offer.renewed:
            found.add("unaccepted", what)
        elif offer.places and message_id not in stored:
            found.add("lost", f"{what}: accepted at {sorted(offer.places)}")


def _judge_logs(offers: dict[str, Offer], logs: dict[str, list[Entry]], found: Findings) -> None:
    """Does the site have what was offered, each once, in its senders' own order and where it told them?"""
    for room, log in logs.items():
        seen: set[str] = set()
        numbers: defaultdict[int, int] = defaultdict(int)
        for entry in log:
            offer = offers.get(entry.id)
            where = f"{room} {entry.seq}"
            if offer is None or (offer.room, offer.digest) != (room, entry.digest):
                found.add("unexpected", f"{where}: {entry.id} in the room's log")
                continue
            if entry.id in seen:
                found.add("twice", f"{where}: {entry.id} stored again")
            seen.add(entry.id)
            if offer.number < numbers[offer.sender]:
                found.add(
                    "out_of_order",
                    f"{where}: number {offer.number} of {who(offer.sender)} after {numbers[offer.sender]}",
                )
            numbers[offer.sender] = offer.number
            if offer.places and entry.seq not in {seq for _, seq in offer.places}:
                found.add("disagreeing", f"{where}: its sender was told {sorted(offer.places)}")


def _judge_order(
    where: str, held: list[Entry], log: list[Entry], offers: dict[str, Offer], found: Findings
) -> None:
    """Does somebody hold each message once, unchanged, in the order of the log?"""
    for before, after in itertools.pairwise(held):
        if after.seq <= before.seq:
            found.add("out_of_order", f"{where}: {after.seq} held after {before.seq}")
    seen: set[str] = set()
    stored = {entry.seq: entry.id for entry in log}
    for entry in held:
        offer = offers.get(entry.id)
        if offer is None or offer.digest != entry.digest:
            found.add("unexpected", f"{where}: {entry.seq} {entry.id} held")
        if entry.id in seen:
            found.add("twice", f"{where}: {entry.id} held again at {entry.seq}")
        seen.add(entry.id)
        if stored.get(entry.seq, entry.id) != entry.id:
            found.add("disagreeing", f"{where}: {entry.seq} is {entry.id}, in the log {stored[entry.seq]}")


def _judge_delivery(
    where: str,
    held: Iterable[Entry],
    log: list[Entry],
    cursor: Cursor | None,
    own: Container[str],
    found: Findings,
) -> None:
    """Does somebody hold everything, and does the site know exactly that? Nobody owes his own message."""
    ids = {entry.id for entry in held}
    delivered = cursor.delivered if cursor else 0
    for entry in log:
        if entry.id not in ids:
            found.add("undelivered", f"{where}: {entry.seq} {entry.id}")
            if entry.seq <= delivered:
                found.add(
                    "acknowledged_never_held",
                    f"{where}: {entry.seq} {entry.id}, acknowledged up to {delivered}",
                )
        elif entry.seq > delivered and entry.id not in own:
            found.add("unacknowledged", f"{where}: {entry.seq}, acknowledged up to {delivered}")


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as JSON can say it."""
    rest = dataclasses.asdict(report)
    plan, findings, missed = rest.pop("plan"), rest.pop("findings"), rest.pop("missed")
    verdict = {"ok": rest.pop("ok"), "proves_nothing": report.proves_nothing, "seed": plan["seed"]}
    return {**verdict, **findings, **rest, **(missed or {}), "plan": plan}


def sentences(report: Report) -> list[str]:
    """Return a report as lines for people."""
    faults = report.faults
    closes = ", ".join(f"{count} with {code}" for code, count in report.closes.items()) or "none"
    lines = [
        f"{report.accepted} messages accepted, {report.deliveries} deliveries in {report.seconds:.0f} s;"
        f" the slowest took {report.slowest_ms / 1000:.1f} s, half of them less than {report.median_ms} ms;"
        f" {report.pushes_per_delivery:.2f} pushes a delivery.",
        f"Of {faults.get('frames', 0)} frames {faults.get('lost', 0)} were lost, {faults.get('doubled', 0)} doubled,"
        f" {faults.get('overtaken', 0)} overtaken;"
        f" {report.killed} processes killed, connections ended: {closes}.",
    ]
    if report.missed:
        lines.append(_of_missed(report.missed, report.renewed))
    for kind, meaning in FINDINGS.items():
        lines.append(f"{report.findings[kind]:>7}  {kind.replace('_', ' '):<24} {meaning}")
        lines += [f"{'':>9}{example}" for example in report.examples.get(kind, [])]
    return [*lines, f"{_verdict(report)} Seed {report.plan.seed}."]


def _of_missed(missed: Missed, renewed: int) -> str:
    return (
        f"{missed.told} messages expired before somebody had them: {missed.missed} times somebody missed one and was named,"
        f" {missed.slowest_told_ms / 1000:.0f} s after the end at the latest; {missed.in_doubt} times somebody was named whose"
        f" acknowledgement was under way, {missed.earliest_doubt_ms / 1000:.0f} s before the end at the earliest; {missed.late} came too late to be shown; {renewed} too old to be repeated went"
        " again as new messages."
    )


def _verdict(report: Report) -> str:
    if any(report.findings.values()):
        return "The promise was broken."
    if report.proves_nothing:
        return "Nobody missed anything, so nothing had to be told, and this proves nothing about expiry."
    return (
        "Nothing was lost."
        if report.missed is None
        else "Nothing was lost, and nobody was missed in silence."
    )
