"""Judge a drill by its ledgers and the logs of the site: lost, duplicated, reordered and wrongly acknowledged messages."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from .books import Books, Offer
from .findings import FINDINGS, Findings, client_name
from .misses import Missed, Misses, Outage
from .plan import Plan
from .witness import Cursor, Entry

STORE_RESTART_TIMEOUT_MS = 10_000  # from a kill until clients of the store are connected again


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of a run besides the ledgers. `cursors` are in the order of the ledgers; `store_kills` epoch ms."""

    seconds: float
    killed: int
    closes: dict[str, int]
    faults: dict[str, int]
    cursors: list[dict[str, Cursor]]
    logs: dict[str, list[Entry]]
    store_kills: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict. `examples` are sentences, at most 5 of each kind; `missed` None: no message was meant to expire."""

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
        """Return whether lifetimes were short, but nobody missed a message: no notice was necessary then."""
        return self.missed is not None and not self.missed.missed


def judge(plan: Plan, folder: Path, outcome: Outcome) -> Report:
    """Compare every ledger with the others and with the site."""
    findings = Findings()
    books = Books(folder, findings)
    missed = None
    if plan.ttl is None:
        _judge_held(books, outcome, findings)
    else:
        missed = _judge_ended(books, outcome, findings)
    late = sorted(books.late_ms)
    report = Report(
        ok=not any(findings.counts.values()),
        plan=plan,
        accepted=sum(bool(offer.places) for offer in books.offers.values()),
        deliveries=len(late),
        findings=findings.counts,
        examples=dict(findings.examples),
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


def _judge_held(books: Books, outcome: Outcome, findings: Findings) -> None:
    """Judge messages that outlive the drill: each is in the log, and every client holds it."""
    _judge_acceptance(books.offers, outcome.logs, findings)
    _judge_logs(books.offers, outcome.logs, findings)
    for index, (book, cursors) in enumerate(zip(books.clients, outcome.cursors, strict=True)):
        own = {message_id for message_id, offer in books.offers.items() if offer.sender == index}
        for room, log in outcome.logs.items():
            where = f"{client_name(index)} in {room}"
            _judge_order(where, book.rooms[room], log, books.offers, findings)
            _judge_delivery(where, book.rooms[room], log, cursors.get(room), own, findings)


def _judge_ended(books: Books, outcome: Outcome, findings: Findings) -> Missed:
    """Judge expired messages: the site no longer returns them, so the log is rebuilt from the ledgers."""
    outages = [Outage(at, at + STORE_RESTART_TIMEOUT_MS) for at in outcome.store_kills]
    missed = Misses(books, outages, findings).judge()
    logs = books.logs()
    _judge_acceptance(books.offers, logs, findings)
    _judge_logs(books.offers, logs, findings)
    for index, book in enumerate(books.clients):
        for room, log in logs.items():
            _judge_order(f"{client_name(index)} in {room}", book.rooms[room], log, books.offers, findings)
    for room, log in outcome.logs.items():
        for entry in log:
            if entry.after_ms:
                findings.add(
                    "after_expiry", f"{room} {entry.seq} in the room's log, {entry.after_ms} ms after"
                )
    return missed


def _judge_acceptance(offers: dict[str, Offer], logs: dict[str, list[Entry]], findings: Findings) -> None:
    """Check that every offered message is accepted once and still stored."""
    stored = {entry.id for log in logs.values() for entry in log}
    for message_id, offer in offers.items():
        message = f"{offer.room} {message_id} of {client_name(offer.sender)}"
        if len(offer.places) > 1:
            findings.add("twice", f"{message}: accepted at {sorted(offer.places)}")
        if offer.refused:
            findings.add("refused", f"{message}: {offer.refused}")
        elif not offer.places and not offer.renewed:
            findings.add("unaccepted", message)
        elif offer.places and message_id not in stored:
            findings.add("lost", f"{message}: accepted at {sorted(offer.places)}")


def _judge_logs(offers: dict[str, Offer], logs: dict[str, list[Entry]], findings: Findings) -> None:
    """Check that the site stores each offered message once, in the order of its sender, at the place it reported."""
    for room, log in logs.items():
        seen: set[str] = set()
        numbers: defaultdict[int, int] = defaultdict(int)
        for entry in log:
            offer = offers.get(entry.id)
            where = f"{room} {entry.seq}"
            if offer is None or (offer.room, offer.digest) != (room, entry.digest):
                findings.add("unexpected", f"{where}: {entry.id} in the room's log")
                continue
            if entry.id in seen:
                findings.add("twice", f"{where}: {entry.id} stored again")
            seen.add(entry.id)
            if offer.repeated:
                continue  # the store has lost its first place
            if offer.number < numbers[offer.sender]:
                findings.add(
                    "out_of_order",
                    f"{where}: number {offer.number} of {client_name(offer.sender)} after {numbers[offer.sender]}",
                )
            numbers[offer.sender] = offer.number
            if offer.places and entry.seq not in {seq for _, seq in offer.places}:
                findings.add("disagreeing", f"{where}: accepted at {sorted(offer.places)}")


def _judge_order(
    where: str, held: list[Entry], log: list[Entry], offers: dict[str, Offer], findings: Findings
) -> None:
    """Check that a client holds each message once, unchanged, in the order of the log."""
    for before, after in itertools.pairwise(held):
        if after.seq <= before.seq:
            findings.add("out_of_order", f"{where}: {after.seq} held after {before.seq}")
    seen: set[str] = set()
    stored = {entry.seq: entry.id for entry in log}
    for entry in held:
        offer = offers.get(entry.id)
        if offer is None or offer.digest != entry.digest:
            findings.add("unexpected", f"{where}: {entry.seq} {entry.id} held")
        if entry.id in seen:
            findings.add("twice", f"{where}: {entry.id} held again at {entry.seq}")
        seen.add(entry.id)
        if stored.get(entry.seq, entry.id) != entry.id:
            findings.add("disagreeing", f"{where}: {entry.seq} is {entry.id}, in the log {stored[entry.seq]}")


def _judge_delivery(
    where: str,
    held: Iterable[Entry],
    log: list[Entry],
    cursor: Cursor | None,
    own: Container[str],
    findings: Findings,
) -> None:
    """Check that a client holds every message and that the site knows it. Senders do not acknowledge their own messages."""
    ids = {entry.id for entry in held}
    delivered = cursor.delivered if cursor else 0
    for entry in log:
        if entry.id not in ids:
            findings.add("undelivered", f"{where}: {entry.seq} {entry.id}")
            if entry.seq <= delivered:
                findings.add(
                    "acknowledged_never_held",
                    f"{where}: {entry.seq} {entry.id}, acknowledged up to {delivered}",
                )
        elif entry.seq > delivered and entry.id not in own:
            findings.add("unacknowledged", f"{where}: {entry.seq}, acknowledged up to {delivered}")


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as JSON data."""
    fields = dataclasses.asdict(report)
    plan, findings, missed = fields.pop("plan"), fields.pop("findings"), fields.pop("missed")
    verdict = {"ok": fields.pop("ok"), "proves_nothing": report.proves_nothing, "seed": plan["seed"]}
    return {**verdict, **findings, **fields, **(missed or {}), "plan": plan}


def sentences(report: Report) -> list[str]:
    """Return a report as lines of text."""
    faults = report.faults
    closes = ", ".join(f"{count} with {code}" for code, count in report.closes.items()) or "none"
    lines = [
        f"{report.accepted} messages accepted, {report.deliveries} deliveries in {report.seconds:.0f} s;"
        f" median {report.median_ms} ms, maximum {report.slowest_ms / 1000:.1f} s;"
        f" {report.pushes_per_delivery:.2f} pushes per delivery.",
        f"Of {faults.get('frames', 0)} frames, {faults.get('lost', 0)} were lost, {faults.get('doubled', 0)} duplicated,"
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
        f"{missed.told} messages expired before all recipients had them. Recipients who missed one and were named:"
        f" {missed.missed}, at most {missed.slowest_told_ms / 1000:.0f} s after expiry. Recipients who were named while their"
        f" acknowledgement was in flight: {missed.in_doubt}, at most {missed.earliest_doubt_ms / 1000:.0f} s before expiry."
        f" {missed.late} of them received it too late. {renewed} messages were too old to be repeated and were sent as"
        " new messages."
    )


def _verdict(report: Report) -> str:
    if any(report.findings.values()):
        return "The promise was broken."
    if report.proves_nothing:
        return "Nobody missed a message, so no notice was necessary. This proves nothing about expiry."
    return (
        "Nothing was lost."
        if report.missed is None
        else "Nothing was lost, and nobody was missed in silence."
    )
