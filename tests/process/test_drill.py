"""The drill proves its claims and detects every kind of loss. A check that never finds a loss proves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import ManagementUtility

from chatsite.environment import BASE_DIR
from chatsite.run import children
from messaging.drill import ledger, report
from messaging.drill.client import Client
from messaging.drill.faults import Faults
from messaging.drill.findings import FINDINGS
from messaging.drill.line import Frame
from messaging.drill.misses import Missed
from messaging.drill.plan import Plan
from messaging.drill.report import Outcome, Report, judge
from messaging.drill.tally import Tally
from messaging.drill.witness import Cursor, Entry
from tests.support.sites import KEPT

RUN_WITHIN_S = 240.0
ROOM, EPOCH = "atlas", "e1"
EXPIRES_AT = 1_000_000
ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))


# ── The judge: ada (client 1) offers two messages, grace (client 2) holds them ──

Line = tuple[Any, ...]


def offered(message_id: str, number: int, body: str = "hello") -> Line:
    return "offered", ROOM, message_id, number, ledger.digest(body), 0


def held(seq: int, message_id: str, body: str = "hello", late_ms: int = 5) -> Line:
    return "held", ROOM, EPOCH, seq, message_id, ledger.digest(body), late_ms, EXPIRES_AT


def accepted(seq: int, message_id: str) -> Line:
    return "accepted", ROOM, message_id, EPOCH, seq, EXPIRES_AT


def stored(seq: int, message_id: str, body: str = "hello") -> Entry:
    return Entry(seq, message_id, ledger.digest(body))


ADA = [offered(ONE, 1), accepted(1, ONE), held(1, ONE), offered(TWO, 2), accepted(2, TWO), held(2, TWO)]
GRACE = [held(1, ONE), held(2, TWO)]
LOG = [stored(1, ONE), stored(2, TWO)]


def judged(
    folder: Path,
    *,
    ada: list[Line] = ADA,
    grace: list[Line] = GRACE,
    log: list[Entry] = LOG,
    delivered: tuple[int, int] = (2, 2),
) -> Report:
    for number, lines in enumerate((ada, grace), 1):
        book = ledger.Ledger(folder / f"{number:03}.jsonl")
        for line in lines:
            book.write(*line)
        book.close()
    outcome = Outcome(
        seconds=1,
        killed=0,
        closes={"1006": 2},
        faults={"pushed": 6},
        cursors=[{ROOM: Cursor(EPOCH, cursor, 2)} for cursor in delivered],
        logs={ROOM: log},
    )
    return judge(Plan(clients=2, messages=2, rooms=1, seed=42), folder, outcome)


def found(verdict: Report) -> dict[str, int]:
    return {kind: count for kind, count in verdict.findings.items() if count}


def test_a_drill_in_which_everybody_holds_everything_passes(tmp_path: Path) -> None:
    verdict = judged(tmp_path, grace=[held(1, ONE), held(2, TWO, late_ms=900)])
    assert verdict.ok
    assert found(verdict) == {}
    assert (verdict.accepted, verdict.deliveries, verdict.slowest_ms) == (2, 4, 900)
    assert verdict.pushes_per_delivery == 1.5


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        pytest.param({"log": LOG[:1], "delivered": (1, 1)}, {"lost"}, id="not-stored"),
        pytest.param(
            {
                "ada": [*ADA, held(3, THREE)],
                "grace": [*GRACE, held(3, THREE)],
                "log": [*LOG, stored(3, THREE)],
                "delivered": (3, 3),
            },
            {"unexpected"},
            id="never-offered",
        ),
        pytest.param(
            {"grace": [held(1, ONE, "other"), held(2, TWO)]}, {"unexpected"}, id="altered-when-held"
        ),
        pytest.param(
            {"log": [stored(1, ONE, "other"), stored(2, TWO)]}, {"unexpected"}, id="altered-when-stored"
        ),
        pytest.param({"ada": [*ADA, accepted(3, TWO)]}, {"twice"}, id="accepted-twice"),
        pytest.param({"grace": [*GRACE, held(3, TWO)]}, {"twice"}, id="held-twice"),
        pytest.param(
            {"log": [*LOG, stored(3, TWO)], "delivered": (3, 3)}, {"twice", "disagreeing"}, id="stored-twice"
        ),
        pytest.param({"grace": GRACE[::-1]}, {"out_of_order"}, id="held-in-another-order"),
        pytest.param(
            {"log": [stored(1, TWO), stored(2, ONE)]},
            {"out_of_order", "disagreeing"},
            id="stored-in-another-order",
        ),
        pytest.param({"grace": [held(1, TWO), held(2, ONE)]}, {"disagreeing"}, id="two-orders"),
        pytest.param(
            {"grace": GRACE[:1]}, {"undelivered", "acknowledged_never_held"}, id="acknowledged-and-never-held"
        ),
        pytest.param(
            {"ada": [*ADA, ("overclaimed", ROOM, 2, 1, 0)]},
            {"acknowledged_never_held"},
            id="receipt-too-early",
        ),
        pytest.param({"grace": GRACE[:1], "delivered": (2, 1)}, {"undelivered"}, id="undelivered"),
        pytest.param({"delivered": (2, 1)}, {"unacknowledged"}, id="unacknowledged"),
        pytest.param({"ada": [*ADA, offered(THREE, 3)]}, {"unaccepted"}, id="never-answered"),
        pytest.param(
            {"ada": [*ADA, offered(THREE, 3), ("refused", ROOM, THREE, "not_member")]},
            {"refused"},
            id="refused",
        ),
        pytest.param({"ada": [*ADA, ("disagreed", "closed for good")]}, {"disagreed"}, id="disagreed"),
        pytest.param(
            {"grace": [*GRACE, ("dropped", ROOM, "e2")], "delivered": (2, 0)},
            {"undelivered"},
            id="log-begun-anew",
        ),
    ],
)
def test_each_broken_promise_is_seen(tmp_path: Path, changes: dict[str, Any], kinds: set[str]) -> None:
    verdict = judged(tmp_path, **changes)
    assert not verdict.ok
    assert set(found(verdict)) == kinds
    assert set(verdict.examples) == kinds


def test_sender_does_not_owe_their_own_message(tmp_path: Path) -> None:
    assert judged(tmp_path, delivered=(0, 2)).ok


def test_the_report_names_every_kind_and_the_seed(tmp_path: Path) -> None:
    verdict = judged(tmp_path)
    text = "\n".join(report.sentences(verdict))
    assert all(kind.replace("_", " ") in text for kind in FINDINGS)
    assert text.endswith("Nothing was lost. Seed 42.")
    assert FINDINGS.keys() <= report.as_data(verdict).keys()


# ── The judge of short lives: ada sends one message; grace holds it, linus stays away and is named ──

AWAY_AT = EXPIRES_AT - 20_000
MISSED_LINUS: dict[str, Any] = {"user": 3, "name": "linus", "reason": "offline", "attempts": 0}
MISSED_GRACE: dict[str, Any] = {"user": 2, "name": "grace", "reason": "offline", "attempts": 0}


def notice(
    *missing: dict[str, Any], number: str = "n1", at: int = EXPIRES_AT + 30_000, told: int = 1, **changed: Any
) -> Line:
    named = list(missing or (MISSED_LINUS,))
    data = {
        "room": ROOM,
        "epoch": EPOCH,
        "seq": 1,
        "id": ONE,
        "sent_at": EXPIRES_AT - 30_000,
        "expired_at": EXPIRES_AT,
        "delivered": 2 - len(named),
        "total": 2,
        "missing": named,
        "missing_total": len(named),
    }
    return "notice", number, "undelivered", at, told, data | changed


def acknowledged(at: int, seq: int = 1, epoch: str = EPOCH) -> Line:
    return "acknowledged", ROOM, epoch, seq, at


def late(message_id: str) -> Line:
    return "late", ROOM, EPOCH, 1, message_id, EXPIRES_AT


SENDER = [("me", 1, "ada"), offered(ONE, 1), accepted(1, ONE), held(1, ONE)]
HOLDER = [("me", 2, "grace"), held(1, ONE), acknowledged(EXPIRES_AT - 29_000)]
ABSENT = [("me", 3, "linus"), ("closed", AWAY_AT)]
BOTH_NAMED = [*SENDER, notice(MISSED_GRACE, MISSED_LINUS, told=0)]


def ended(
    folder: Path,
    *,
    ada: list[Line] | None = None,
    grace: list[Line] = HOLDER,
    linus: list[Line] = ABSENT,
    log: list[Entry] | None = None,
    store_kills: list[int] | None = None,
) -> Report:
    for number, lines in enumerate(([*SENDER, notice()] if ada is None else ada, grace, linus), 1):
        book = ledger.Ledger(folder / f"{number:03}.jsonl")
        for line in lines:
            book.write(*line)
        book.close()
    outcome = Outcome(
        seconds=1,
        killed=0,
        closes={},
        faults={},
        cursors=[],
        logs={ROOM: log or []},
        store_kills=store_kills or [],
    )
    return judge(Plan(clients=3, messages=1, rooms=1, seed=42, ttl=(30, 30)), folder, outcome)


def test_missed_message_is_explained_when_its_sender_was_notified(tmp_path: Path) -> None:
    verdict = ended(tmp_path)
    assert verdict.ok
    assert found(verdict) == {}
    assert verdict.missed == Missed(missed=1, told=1, slowest_told_ms=30_000)
    assert report.sentences(verdict)[-1] == "Nothing was lost, and nobody was missed in silence. Seed 42."


def test_a_drill_in_which_nobody_missed_anything_proves_nothing(tmp_path: Path) -> None:
    verdict = ended(tmp_path, ada=SENDER, linus=[("me", 3, "linus"), held(1, ONE)])
    assert found(verdict) == {}
    assert not verdict.ok
    assert report.as_data(verdict)["proves_nothing"]
    assert "proves nothing" in report.sentences(verdict)[-1]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        pytest.param({"ada": SENDER}, {"unexplained"}, id="nobody-told"),
        pytest.param({"grace": HOLDER[:1]}, {"unexplained"}, id="one-of-two-told"),
        pytest.param(
            {"ada": [*SENDER, notice(), notice(number="n2")]}, {"named_twice"}, id="named-in-two-notices"
        ),
        pytest.param(
            {"ada": [*SENDER, notice(MISSED_LINUS, MISSED_LINUS, told=0)]},
            {"named_twice"},
            id="named-twice-in-one",
        ),
        pytest.param({"ada": BOTH_NAMED}, {"named_falsely"}, id="acknowledged-long-before"),
        pytest.param(
            {"ada": [*SENDER, notice(), notice(MISSED_GRACE, told=0)]},
            {"misreported"},
            id="told-otherwise-later",
        ),
        pytest.param(
            {"ada": [*SENDER, ("notice", "n1", "summary", EXPIRES_AT, 0, {"messages": 1})]},
            {"misreported", "unexplained"},
            id="told-in-sum-only",
        ),
        pytest.param(
            {"ada": SENDER, "grace": [*HOLDER, notice()]}, {"misreported", "unexplained"}, id="to-another"
        ),
        pytest.param(
            {"ada": [*SENDER, notice(id=TWO)]},
            {"misreported", "unexplained"},
            id="about-a-message-never-sent",
        ),
        pytest.param(
            {"ada": [*SENDER, offered(TWO, 2), accepted(2, TWO), notice(), notice(number="n2", id=TWO)]},
            {"misreported", "unexplained"},
            id="about-another-than-stands-there",
        ),
        pytest.param({"ada": [*SENDER, notice(total=5)]}, {"misreported"}, id="more-owed-it-than-there-are"),
        pytest.param({"ada": [*SENDER, notice(delivered=2)]}, {"misreported"}, id="sums-that-do-not-add-up"),
        pytest.param(
            {"ada": [*SENDER, notice(missing_total=2, delivered=0, told=0)]},
            {"misreported"},
            id="not-by-name",
        ),
        pytest.param({"ada": [*SENDER, notice(told=2)]}, {"misreported"}, id="against-its-own-receipts"),
        pytest.param({"ada": [*SENDER, notice(expired_at=1)]}, {"misreported"}, id="another-end"),
        pytest.param({"ada": [*SENDER, notice(at=EXPIRES_AT - 1)]}, {"misreported"}, id="before-the-end"),
        pytest.param(
            {"ada": [*SENDER, notice({**MISSED_LINUS, "name": "grace"})]},
            {"misreported"},
            id="by-a-wrong-name",
        ),
        pytest.param(
            {"ada": [*SENDER, notice({**MISSED_LINUS, "reason": "left_room"})]},
            {"misreported"},
            id="who-never-left",
        ),
        pytest.param(
            {"ada": [*SENDER, notice({**MISSED_LINUS, "reason": "no_ack"})]},
            {"misreported"},
            id="never-pushed",
        ),
        pytest.param(
            {"ada": [*SENDER, notice({**MISSED_LINUS, "user": 1, "name": "ada"})]},
            {"misreported", "unexplained"},
            id="the-sender-himself",
        ),
        pytest.param(
            {"ada": [*SENDER, notice({**MISSED_LINUS, "user": 9})]},
            {"misreported", "unexplained"},
            id="a-stranger",
        ),
        pytest.param(
            {"linus": [*ABSENT, ("after_expiry", ROOM, 1, 2_500)]}, {"after_expiry"}, id="text-after-its-life"
        ),
        pytest.param(
            {"log": [Entry(1, ONE, ledger.digest("hello"), after_ms=9)]},
            {"after_expiry"},
            id="text-in-the-log",
        ),
        pytest.param(
            {"grace": [*HOLDER, ("before_expiry", ROOM, 1, 7)]}, {"before_expiry"}, id="gone-before-its-time"
        ),
        pytest.param(
            {"grace": [("me", 2, "grace"), held(1, ONE, "other")]}, {"unexpected"}, id="altered-when-held"
        ),
        pytest.param(
            {"grace": [("me", 2, "grace"), held(1, TWO)]},
            {"unexpected", "disagreeing"},
            id="another-at-its-place",
        ),
        pytest.param({"ada": [*SENDER, notice(), offered(TWO, 2)]}, {"unaccepted"}, id="never-answered"),
        pytest.param(
            {"ada": [*SENDER, notice(), offered(TWO, 2), ("accepted", ROOM, TWO, EPOCH, 1, EXPIRES_AT)]},
            {"disagreeing", "lost"},
            id="accepted-where-another-stands",
        ),
    ],
)
def test_each_way_to_miss_somebody_in_silence_is_seen(
    tmp_path: Path, changes: dict[str, Any], kinds: set[str]
) -> None:
    verdict = ended(tmp_path, **changes)
    assert not verdict.ok
    assert set(found(verdict)) == kinds
    assert report.sentences(verdict)[-1].startswith("The promise was broken.")


@pytest.mark.parametrize(
    ("changes", "earliest_s"),
    [
        pytest.param(
            {"grace": [*HOLDER[:2], acknowledged(EXPIRES_AT - 4_000)]}, 4, id="left-just-before-the-end"
        ),
        pytest.param({"grace": HOLDER[:2]}, 0, id="never-left"),
        pytest.param({"grace": [*HOLDER[:2], acknowledged(1, seq=0)]}, 0, id="of-what-came-before"),
        pytest.param({"grace": [*HOLDER[:2], acknowledged(1, epoch="e0")]}, 0, id="of-another-epoch"),
        pytest.param(
            {"grace": [*HOLDER, ("closed", EXPIRES_AT - 28_500)]}, 29, id="its-connection-ended-at-once"
        ),
        pytest.param({"store_kills": [EXPIRES_AT - 28_500]}, 29, id="the-store-was-killed-at-once"),
        pytest.param({"store_kills": [EXPIRES_AT - 35_000]}, 29, id="the-store-was-not-back"),
    ],
)
def test_somebody_whose_acknowledgement_was_under_way_may_be_named(
    tmp_path: Path, changes: dict[str, Any], earliest_s: int
) -> None:
    verdict = ended(tmp_path, ada=BOTH_NAMED, **changes)
    assert verdict.ok
    counts = Missed(missed=1, told=1, in_doubt=1, slowest_told_ms=30_000, earliest_doubt_ms=earliest_s * 1000)
    assert verdict.missed == counts


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"grace": [*HOLDER, ("closed", EXPIRES_AT - 27_000)]}, id="its-connection-ended-later"),
        pytest.param({"store_kills": [EXPIRES_AT - 27_000]}, id="the-store-was-killed-later"),
        pytest.param({"store_kills": [EXPIRES_AT - 60_000]}, id="the-store-was-back"),
    ],
)
def test_an_acknowledgement_that_has_come_excuses_nobody(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert set(found(ended(tmp_path, ada=BOTH_NAMED, **changes))) == {"named_falsely"}


def test_recipient_who_got_a_message_too_late_and_is_named(tmp_path: Path) -> None:
    named = [*SENDER, notice({**MISSED_LINUS, "reason": "late"})]
    verdict = ended(tmp_path, ada=named, linus=[*ABSENT, late(ONE)])
    assert found(verdict) == {}
    assert verdict.missed
    assert (verdict.missed.missed, verdict.missed.late) == (1, 1)


def test_recipient_who_got_a_message_too_late_and_is_not_named_is_unexplained(tmp_path: Path) -> None:
    assert set(found(ended(tmp_path, ada=SENDER, linus=[*ABSENT, late(ONE)]))) == {"unexplained"}


def test_a_message_renewed_by_its_sender_need_not_be_answered_but_is_judged_when_it_was_accepted(
    tmp_path: Path,
) -> None:
    renewed = [("me", 1, "ada"), offered(ONE, 1), ("renewed", ROOM, ONE, TWO), offered(TWO, 1)]
    again = ("accepted", ROOM, TWO, EPOCH, 2, EXPIRES_AT)
    others = {"grace": [*HOLDER, held(2, TWO)], "linus": [*ABSENT, held(2, TWO)]}
    told = tmp_path / "told"
    silent = tmp_path / "silent"
    for folder in (told, silent):
        folder.mkdir()
    assert found(ended(told, ada=[*renewed, again, notice(told=0)], **others)) == {}
    assert found(ended(silent, ada=[*renewed, again], **others)) == {"unexplained": 1}


# ── The client ──


@pytest.fixture
def book(tmp_path: Path) -> Iterator[ledger.Ledger]:
    opened = ledger.Ledger(tmp_path / "001.jsonl")
    yield opened
    opened.close()


def written(folder: Path, book: ledger.Ledger, kind: str) -> list[list[Any]]:
    book.flush()
    return [line[1:] for line in ledger.read(folder / "001.jsonl") if line[0] == kind]


def test_unanswered_message_is_repeated_under_its_id_until_it_would_expire(
    tmp_path: Path, book: ledger.Ledger
) -> None:
    outbox = client_of(book, Tally())._outbox
    outbox.offer(ROOM, "hello", 10)
    outbox.offer(ROOM, "there", 10)
    said = [outbox.due(ROOM, at_s) for at_s in (100.0, 100.5, 104.0, 109.9, 114.0)]
    first, too_early, again, still, renewed = said
    assert first == again == still
    assert too_early is None
    assert first
    assert renewed
    assert renewed | {"id": first["id"]} == first
    assert renewed["id"] != first["id"]
    assert written(tmp_path, book, "renewed") == [[ROOM, first["id"], renewed["id"]]]
    assert [line[2] for line in written(tmp_path, book, "offered")] == [1, 2, 1]
    assert len(outbox) == 2


def test_message_never_sent_before_is_not_too_old_to_be_sent(book: ledger.Ledger) -> None:
    outbox = client_of(book, Tally())._outbox
    outbox.offer(ROOM, "hello", 10)
    assert outbox.due(ROOM, 10_000.0)


def client_of(book: ledger.Ledger, tally: Tally) -> Client:
    faults = Faults(Plan(), random.Random(1))
    client = Client("", user=1, cookie="", origin="", ledger=book, faults=faults, tally=tally)
    room = {"room": ROOM, "epoch": EPOCH, "delivered": 0, "rev": 0}
    client._take({"type": "welcome", "user": {"id": 1, "name": "ada"}, "store": "life", "rooms": [room]})
    return client


async def test_client_does_not_show_an_expired_message(tmp_path: Path, book: ledger.Ledger) -> None:
    tally = Tally(recipients=2, short=True)
    client = client_of(book, tally)
    now_ms = ledger.now_ms()
    message: Frame = {"type": "message", "room": ROOM, "epoch": EPOCH, "from": {"id": 2}, "body": "hello"}
    message |= {"sent_at": now_ms - 10_000, "seq": 1, "id": ONE, "expires_at": now_ms - 100}
    client._take(message)
    client._take(message | {"seq": 2, "id": TWO, "expires_at": now_ms - 5_000})
    client._take(message | {"seq": 3, "id": THREE, "expires_at": now_ms + 60_000})
    assert [line[3] for line in written(tmp_path, book, "late")] == [ONE, TWO]
    assert [line[3] for line in written(tmp_path, book, "held")] == [THREE]
    assert [line[1] for line in written(tmp_path, book, "after_expiry")] == [2]
    assert client.logs[ROOM].last == 3
    client._take({"type": "expired", "room": ROOM, "epoch": EPOCH, "seqs": [1, 3]})
    assert [line[1] for line in written(tmp_path, book, "before_expiry")] == [3]


async def test_notice_is_recorded_once_until_its_content_changes(tmp_path: Path, book: ledger.Ledger) -> None:
    tally = Tally(recipients=2, short=True)
    client = client_of(book, tally)
    tally.heard((ROOM, EPOCH, 1), 1, EXPIRES_AT)
    tally.reached((ROOM, EPOCH, 1), 2)
    assert list(tally.unexplained()) == [(ROOM, EPOCH, 1)]
    _, number, kind, _, _, data = notice()
    frame = {"type": "notice", "notice": number, "kind": kind, "at": 0, "data": data, "dismissed": False}
    for again in (frame, frame, frame | {"data": data | {"resendable": True}}, frame | {"dismissed": True}):
        client._take(again)
    assert len(written(tmp_path, book, "notice")) == 1
    assert list(tally.unexplained()) == []
    client._take(frame | {"data": data | {"total": 3}})
    assert len(written(tmp_path, book, "notice")) == 2


async def test_accepted_message_is_sent_again_when_the_log_may_have_lost_it(
    tmp_path: Path, book: ledger.Ledger
) -> None:
    client = client_of(book, Tally())
    for body in ("lost", "known", "held by all"):
        client.offer(ROOM, body, 600)
    ids = [line[1] for line in written(tmp_path, book, "offered")]
    times = {"expires_at": ledger.now_ms() + 600_000, "sent_at": 0}
    for seq, id_ in enumerate(ids, 1):
        client._take({"type": "sent", "room": ROOM, "epoch": EPOCH, "id": id_, "seq": seq, **times})
    client._take({"type": "receipt", "room": ROOM, "epoch": EPOCH, "receipts": [[3, 2, 0, 2]]})
    assert client.unsettled == 0
    client._take({"type": "position", "room": ROOM, "epoch": "e2", "top": 1, "rev": 0})
    own = {"seq": 1, "id": ids[1], "from": {"id": 1}, "body": "known", **times}
    resumed = {"type": "resumed", "room": ROOM, "epoch": "e2", "ok": True, "from": 0, "upto": 1, "top": 1}
    resumed |= {"rev": 0, "more": False, "messages": [own], "gone": [], "changed": []}
    client._take(resumed)
    assert written(tmp_path, book, "repeated") == [[ROOM, ids[0]]]
    assert client._outbox.first(ROOM, ids[0])
    assert client.unsettled == 1
    client._take({"type": "sent", "room": ROOM, "epoch": "e2", "id": ids[0], "seq": 2, **times})
    client._take(resumed | {"from": 2, "upto": 2, "top": 2, "messages": []})
    assert client.unsettled == 0
    assert written(tmp_path, book, "disagreed") == []


# ── The lines ──


async def test_frames_are_lost_and_doubled_in_the_shares_that_were_asked_for() -> None:
    arrived: Counter[int] = Counter()

    def take(frame: Frame) -> None:
        arrived[frame["n"]] += 1

    faults = Faults(Plan(loss=0.1, duplicate=0.05), random.Random(1))
    for n in range(10_000):
        faults.carry({"type": "pong", "n": n}, take)
    assert 850 <= sum(n not in arrived for n in range(10_000)) <= 1_150
    assert 350 <= sum(count == 2 for count in arrived.values()) <= 550


async def test_a_good_line_changes_nothing() -> None:
    arrived: list[Frame] = []
    faults = Faults(Plan(), random.Random(1))
    frames = [{"type": "pong", "n": n} for n in range(1_000)]
    for frame in frames:
        faults.carry(frame, arrived.append)
    assert arrived == frames


# ── The command ──


def environment(folder: Path, **more: str) -> dict[str, str]:
    plain = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**plain, "TMPDIR": str(folder), **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", "drill", *arguments]


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=BASE_DIR,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return where drills put their things: a short path, for a socket's must be."""
    folder = Path(tempfile.mkdtemp(prefix="drills-"))
    yield folder
    for data in folder.glob("*/data"):
        children.end_marked(data, patience_s=0)
    shutil.rmtree(folder)


@pytest.mark.proof
def test_injured_site_loses_no_message_and_leaves_no_process_behind(folder: Path) -> None:
    """Another site's addresses in the environment are not used: they could not even be connected to."""
    shape = ("--clients", "4", "--messages", "80", "--rooms", "2", "--seconds", "3", "--seed", "7")
    faults = (
        "--loss",
        "10%",
        "--duplicate",
        "5%",
        "--reorder",
        "--cut",
        "1",
        "--kill",
        "server",
        "--kill",
        "store",
    )
    ran = run(
        folder,
        *shape,
        *faults,
        "--json",
        REDIS_URL="redis://127.0.0.1:1/0",
        DATABASE_URL="postgres://127.0.0.1:1/none",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout)
    assert verdict["ok"]
    assert {kind: verdict[kind] for kind in FINDINGS} == dict.fromkeys(FINDINGS, 0)
    assert (verdict["accepted"], verdict["deliveries"], verdict["killed"]) == (80, 320, 2)
    assert verdict["seed"] == 7
    assert verdict["faults"]["lost"] > 0
    assert verdict["closes"]["1006"] >= 4
    assert list(folder.iterdir()) == []


@pytest.mark.proof
def test_drill_fails_without_recovery(folder: Path) -> None:
    """Losses that only recovery repairs stay undelivered or unacknowledged, so the drill can see them."""
    shape = ("--clients", "6", "--messages", "60", "--rooms", "3", "--seconds", "2", "--loss", "30%")
    ran = run(folder, *shape, "--without-recovery", "--json")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout)
    assert not verdict["ok"]
    assert verdict["undelivered"] + verdict["unacknowledged"] > 0
    assert verdict["lost"] == verdict["twice"] == 0
    [kept] = folder.glob("*/ledgers")
    assert str(kept) in ran.stderr
    assert len(list(kept.glob("*.jsonl"))) == 6
    assert not (kept.parent / "data").exists()


@pytest.mark.proof
def test_members_who_missed_an_expired_message_are_named_to_its_sender(folder: Path) -> None:
    shape = ("--clients", "5", "--messages", "100", "--rooms", "2", "--seconds", "3", "--ttl", "10s-12s")
    faults = ("--loss", "10%", "--duplicate", "5%", "--reorder", "--cut", "1", "--kill", "server")
    ran = run(folder, *shape, *faults, "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout)
    assert verdict["ok"]
    assert {kind: verdict[kind] for kind in FINDINGS} == dict.fromkeys(FINDINGS, 0)
    assert verdict["accepted"] >= 100
    assert verdict["missed"] + verdict["in_doubt"] >= verdict["told"] > 0
    assert verdict["deliveries"] < 500


@pytest.mark.proof
def test_drill_fails_without_a_worker_that_names_missing_members(folder: Path) -> None:
    shape = ("--clients", "4", "--messages", "40", "--rooms", "2", "--seconds", "2", "--ttl", "10s")
    ran = run(folder, *shape, "--without-worker", "--json")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout)
    assert verdict["unexplained"] > 0
    assert verdict["missed"] == verdict["named_falsely"] == verdict["after_expiry"] == 0


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_breaking_it_off_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command("--clients", "2", "--messages", "1000", "--seconds", "600"),
        cwd=BASE_DIR,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with contextlib.closing(process.stderr) as talk:
        assert any(line.startswith("sending") for line in talk)
        [data] = folder.glob("*/data")
        process.send_signal(number)
        rest = talk.read()
    assert process.wait(RUN_WITHIN_S) == 1
    assert "nothing is left behind" in rest
    assert "Traceback" not in rest
    assert children.marked(data) == []
    assert list(folder.iterdir()) == []


# The signal comes while one of the drill's tasks is at work, not in the loop's wait.
BROKEN_OFF_IN_A_TASK = """
import os, sys
import django
django.setup()
from django.core.management import execute_from_command_line
from messaging.drill.client import Client
number = int(sys.argv.pop(1))
sys.argv[0] = "manage.py"

def break_off(*_):
    try:
        os.kill(os.getpid(), number)
        sum(range(1000))
    except KeyboardInterrupt:
        print("torn out of its work", file=sys.stderr)
        raise

Client.offer = break_off
execute_from_command_line(sys.argv)
"""


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_breaking_it_off_tears_no_task_out_of_its_work(folder: Path, number: signal.Signals) -> None:
    shape = ("drill", "--clients", "2", "--messages", "1000", "--seconds", "600")
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF_IN_A_TASK, str(int(number)), *shape],
        cwd=BASE_DIR,
        env=environment(folder, DJANGO_SETTINGS_MODULE="chatsite.settings", DJANGO_SECRET_KEY="x" * 50),
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )
    assert ran.returncode == 1
    assert "nothing is left behind" in ran.stderr
    assert "torn out of its work" not in ran.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--clients", "1"),
        ("--clients", "many"),
        ("--messages", "0"),
        ("--loss", "120%"),
        ("--loss", "-1"),
        ("--loss", "nan"),
        ("--kill", "browser"),
        ("--seconds", "0"),
        ("--url", "http://127.0.0.1:8000"),
        ("--ttl", "soon"),
        ("--ttl", "9s"),
        ("--ttl", "40s-10s"),
        ("--ttl", "10s-"),
        ("--ttl", "-10s"),
        ("--ttl", "10s-nan"),
        ("--ttl", "1h"),
        ("--without-worker", "--kill", "worker"),
        ("--ttl", "10s", "--clients", "102"),
        ("--ttl", "10s", "--clients", "2", "--messages", "2001"),
    ],
)
def test_a_value_that_cannot_be_is_a_usage_error_in_a_sentence(
    folder: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "drill", *arguments]).execute()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert arguments[0] in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert list(folder.iterdir()) == []
