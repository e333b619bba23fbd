"""The judge of the scenarios, on ledgers that are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from messaging.drill import ledger
from messaging.drill.misses import Outage
from tests.faults.judge import Verdict, judge

ONE = "0d2f0c3a-5b1e-4f67-9f4e-1f6b3f7a9c01"
ROOM, EPOCH, NEW = "atlas", "e1", "e2"
END = 1_000_000_000_000
LATER = END + 60_000
HELLO = ledger.digest("hello")

Line = tuple[Any, ...]

OFFERED: Line = ("offered", ROOM, ONE, 1, HELLO, END - 30_000)
ACCEPTED: Line = ("accepted", ROOM, ONE, EPOCH, 1, END)
ABSENT: list[Line] = [("me", 3, "linus")]


def held(epoch: str = EPOCH, seq: int = 1, end: int = END) -> Line:
    return "held", ROOM, epoch, seq, ONE, HELLO, 20, end


def acknowledged(at: int) -> Line:
    return "acknowledged", ROOM, EPOCH, 1, at


def notice(*names: str, told: int = 0) -> Line:
    users = {"grace": 2, "linus": 3}
    missing = [{"user": users[name], "name": name, "reason": "offline", "attempts": 0} for name in names]
    data = {"room": ROOM, "epoch": EPOCH, "seq": 1, "id": ONE, "sent_at": END - 30_000, "expired_at": END}
    data |= {"delivered": 2 - len(names), "total": 2, "missing": missing, "missing_total": len(names)}
    return "notice", "n1", "undelivered", END + 20_000, told, data


ADA: list[Line] = [("me", 1, "ada"), OFFERED, ACCEPTED, held()]
GRACE: list[Line] = [("me", 2, "grace"), held(), acknowledged(END - 29_000)]


def verdict_of(
    folder: Path, *ledgers: list[Line], outages: tuple[Outage, ...] = (), at: int = LATER
) -> Verdict:
    for number, lines in enumerate(ledgers, 1):
        book = ledger.Ledger(folder / f"{number:03}.jsonl")
        for line in lines:
            book.write(*line)
        book.close()
    return judge(folder, list(outages), at)


def found(verdict: Verdict) -> dict[str, int]:
    return {column: count for column, count in verdict.counts.items() if count}


def test_missed_message_with_a_notice_is_no_finding(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, [*ADA, notice("linus")], GRACE, ABSENT)
    assert verdict.ok
    assert (verdict.accepted, verdict.missed) == (1, 1)


@pytest.mark.parametrize(("at", "column"), [(LATER, "untold"), (END - 1_000, "lost")])
def test_message_that_a_member_neither_holds_nor_is_named_for_counts(
    tmp_path: Path, at: int, column: str
) -> None:
    assert found(verdict_of(tmp_path, ADA, GRACE, ABSENT, at=at)) == {column: 1}


def test_unanswered_message_is_lost(tmp_path: Path) -> None:
    assert found(verdict_of(tmp_path, [("me", 1, "ada"), OFFERED], GRACE[:1], ABSENT)) == {"lost": 1}


def test_message_that_is_shown_again_counts_as_twice(tmp_path: Path) -> None:
    again = [*GRACE, held(seq=2)]
    assert found(verdict_of(tmp_path, [*ADA, notice("linus")], again, ABSENT))["twice"] >= 1


@pytest.mark.parametrize(
    ("outages", "expected"),
    [((), {"falsely told": 1}), ((Outage(END - 30_000, END - 20_000),), {})],
    ids=["in-good-health", "in-an-outage"],
)
def test_member_who_acknowledged_in_time_must_not_be_named(
    tmp_path: Path, outages: tuple[Outage, ...], expected: dict[str, int]
) -> None:
    verdict = verdict_of(tmp_path, [*ADA, notice("grace", "linus")], GRACE, ABSENT, outages=outages)
    assert found(verdict) == expected


@pytest.mark.parametrize(
    ("outages", "expected"),
    [((), {"other": 1}), ((Outage(END, END + 19_000),), {})],
    ids=["in-good-health", "in-an-outage"],
)
def test_receipt_must_not_contradict_a_notice_unless_an_outage_delayed_it(
    tmp_path: Path, outages: tuple[Outage, ...], expected: dict[str, int]
) -> None:
    grace = [*GRACE[:2], ("closed", END - 28_900), acknowledged(END + 5_000)]
    verdict = verdict_of(tmp_path, [*ADA, notice("grace", "linus", told=1)], grace, ABSENT, outages=outages)
    assert found(verdict) == expected


def test_message_that_the_store_lost_counts_as_held_at_its_second_place(tmp_path: Path) -> None:
    end = LATER + 60_000
    ada = [("me", 1, "ada"), OFFERED, ACCEPTED, held(), ("dropped", ROOM, NEW), ("repeated", ROOM, ONE)]
    ada += [("accepted", ROOM, ONE, NEW, 5, end), held(NEW, 5, end)]
    linus = [*ABSENT, held(NEW, 5, end)]
    assert found(verdict_of(tmp_path, ada, [*GRACE, ("dropped", ROOM, NEW), held(NEW, 5, end)], linus)) == {}


@pytest.mark.parametrize(
    ("outages", "expected"),
    [((), {"other": 1}), ((Outage(END - 1_000, END + 1_000),), {})],
    ids=["in-good-health", "in-an-outage"],
)
def test_text_after_its_end_is_a_finding_unless_an_outage_delayed_it(
    tmp_path: Path, outages: tuple[Outage, ...], expected: dict[str, int]
) -> None:
    late = [*ABSENT, ("late", ROOM, EPOCH, 1, ONE, END), ("after_expiry", ROOM, 1, 9_000)]
    verdict = verdict_of(tmp_path, [*ADA, notice("linus")], GRACE, late, outages=outages)
    assert found(verdict) == expected
