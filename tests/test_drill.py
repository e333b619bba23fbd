"""The drill: that it proves what it says, and that it can see each kind of loss. A judge who finds nothing proves nothing."""

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

from chatsite import children
from chatsite.environment import BASE_DIR
from messaging.drill import ledger, report
from messaging.drill.faults import Faults, Frame
from messaging.drill.plan import Plan
from messaging.drill.report import FINDINGS, Outcome, Report, judge
from messaging.drill.witness import Cursor, Entry

RUN_WITHIN_S = 240.0
ROOM, EPOCH = "atlas", "e1"
ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))


# ── The judge: ada (client 1) offers two messages, grace (client 2) holds them ──

Line = tuple[Any, ...]


def offered(message_id: str, number: int, body: str = "hello") -> Line:
    return "offered", ROOM, message_id, number, ledger.digest(body), 0


def held(seq: int, message_id: str, body: str = "hello", late_ms: int = 5) -> Line:
    return "held", ROOM, EPOCH, seq, message_id, ledger.digest(body), late_ms


def accepted(seq: int, message_id: str) -> Line:
    return "accepted", ROOM, message_id, EPOCH, seq


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


def test_nobody_owes_his_own_message(tmp_path: Path) -> None:
    assert judged(tmp_path, delivered=(0, 2)).ok


def test_the_report_names_every_kind_and_the_seed(tmp_path: Path) -> None:
    verdict = judged(tmp_path)
    text = "\n".join(report.sentences(verdict))
    assert all(kind.replace("_", " ") in text for kind in FINDINGS)
    assert text.endswith("Nothing was lost. Seed 42.")
    assert FINDINGS.keys() <= report.as_data(verdict).keys()


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
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
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
        children.end(children.marked(data), patience_s=0)
    shutil.rmtree(folder)


def test_what_is_injured_loses_nothing_and_nothing_is_left_behind(folder: Path) -> None:
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


def test_without_the_nets_it_fails(folder: Path) -> None:
    """The proof that it can see: what only a net repairs stays undelivered or unacknowledged."""
    shape = ("--clients", "6", "--messages", "60", "--rooms", "3", "--seconds", "2", "--loss", "30%")
    ran = run(folder, *shape, "--without-nets", "--json")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    verdict = json.loads(ran.stdout)
    assert not verdict["ok"]
    assert verdict["undelivered"] + verdict["unacknowledged"] > 0
    assert verdict["lost"] == verdict["twice"] == 0
    [kept] = folder.glob("*/ledgers")
    assert str(kept) in ran.stderr
    assert len(list(kept.glob("*.jsonl"))) == 6
    assert not (kept.parent / "data").exists()


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
    ],
)
def test_a_value_that_cannot_be_is_a_usage_error_in_a_sentence(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    ran = run(folder, *arguments)
    assert ran.returncode == 2
    assert arguments[0] in ran.stderr.splitlines()[-1]
    assert ran.stdout == ""
    assert list(folder.iterdir()) == []
