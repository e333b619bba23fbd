"""Judge a drill by what its clients wrote down and what the site says it has: what was lost, doubled, disordered, overclaimed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from . import ledger
from .plan import Plan
from .witness import Cursor, Entry

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
    "disagreed": "the site contradicted itself",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run leaves besides the ledgers. `cursors` are in the order of the ledgers."""

    seconds: float
    killed: int
    closes: dict[str, int]
    faults: dict[str, int]
    cursors: list[dict[str, Cursor]]
    logs: dict[str, list[Entry]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict. `examples` are sentences, at most 5 of each kind."""

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


@dataclasses.dataclass(slots=True)
class Offer:
    """What a sender knows of his message."""

    sender: int
    room: str
    number: int
    digest: str
    places: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    refused: str = ""


class Findings:
    """Counts by kind, with the first examples."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(FINDINGS, 0)
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)


class Holding:
    """What one client wrote down that he holds: {room: entries in the order in which he took them}."""

    def __init__(self) -> None:
        self.rooms: defaultdict[str, list[Entry]] = defaultdict(list)


def judge(plan: Plan, folder: Path, outcome: Outcome) -> Report:
    """Read the ledgers and compare each with the others and with the site."""
    found = Findings()
    offers: dict[str, Offer] = {}
    holdings: list[Holding] = []
    late: list[int] = []
    for index, path in enumerate(sorted(folder.glob("*.jsonl"))):
        holdings.append(_read(index, path, offers, late, found))
    _judge_acceptance(offers, outcome.logs, found)
    _judge_logs(offers, outcome.logs, found)
    for index, (holding, cursors) in enumerate(zip(holdings, outcome.cursors, strict=True)):
        for room, log in outcome.logs.items():
            held = holding.rooms[room]
            _judge_order(f"{_who(index)} in {room}", held, log, offers, found)
            own = {message_id for message_id, offer in offers.items() if offer.sender == index}
            _judge_delivery(f"{_who(index)} in {room}", held, log, cursors.get(room), own, found)
    late.sort()
    return Report(
        ok=not any(found.counts.values()),
        plan=plan,
        accepted=sum(bool(offer.places) for offer in offers.values()),
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
    )


def _read(index: int, path: Path, offers: dict[str, Offer], late: list[int], found: Findings) -> Holding:
    """Take one ledger into `offers` and `late`; return what its client holds in the end."""
    holding = Holding()
    for line in ledger.read(path):
        kind, *fields = line
        if kind == "held":
            room, _epoch, seq, message_id, digest, late_ms = fields
            holding.rooms[room].append(Entry(seq, message_id, digest))
            late.append(late_ms)
        elif kind == "offered":
            room, message_id, number, digest, _at = fields
            offers[message_id] = Offer(index, room, number, digest)
        elif kind == "accepted":
            offers[fields[1]].places.add((fields[2], fields[3]))
        elif kind == "refused":
            offers[fields[1]].refused = fields[2]
        elif kind == "dropped":
            holding.rooms.pop(fields[0], None)
        elif kind == "overclaimed":
            room, seq, told, held = fields
            found.add(
                "acknowledged_never_held", f"{room} {seq}: a receipt told of {told} when {held} held it"
            )
        elif kind == "disagreed":
            found.add("disagreed", f"{_who(index)}: {fields[0]}")
    return holding


def _judge_acceptance(offers: dict[str, Offer], logs: dict[str, list[Entry]], found: Findings) -> None:
    """Is all that was offered accepted, once, and still there?"""
    stored = {entry.id for log in logs.values() for entry in log}
    for message_id, offer in offers.items():
        what = f"{offer.room} {message_id} of {_who(offer.sender)}"
        if len(offer.places) > 1:
            found.add("twice", f"{what}: accepted at {sorted(offer.places)}")
        if offer.refused:
            found.add("refused", f"{what}: {offer.refused}")
        elif not offer.places:
            found.add("unaccepted", what)
        elif message_id not in stored:
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
                    f"{where}: number {offer.number} of {_who(offer.sender)} after {numbers[offer.sender]}",
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


def _who(index: int) -> str:
    return f"client {index + 1}"


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as JSON can say it."""
    plan = dataclasses.asdict(report.plan)
    rest = {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name != "plan"
    }
    findings = rest.pop("findings")
    return {"ok": rest.pop("ok"), "seed": plan["seed"], **findings, **rest, "plan": plan}


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
    for kind, meaning in FINDINGS.items():
        lines.append(f"{report.findings[kind]:>7}  {kind.replace('_', ' '):<24} {meaning}")
        lines += [f"{'':>9}{example}" for example in report.examples.get(kind, [])]
    verdict = "Nothing was lost." if report.ok else "The promise was broken."
    return [*lines, f"{verdict} Seed {report.plan.seed}."]
