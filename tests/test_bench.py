"""The load generator's correctness mode: what it measures is delivered once and in order. No time is asserted."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import expiry, measure, overdue

ROOT = Path(__file__).resolve().parent.parent


def test_every_message_of_the_generator_arrives_once_and_in_order(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        ["bench/run", "--check", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())["results"]
    assert [result["scenario"] for result in results] == ["check-fan", "check-pairs"]
    for result in results:
        assert result["accepted_s"] > 0
        assert result["deliveries_s"] > 0
        assert (result["missing"], result["twice"], result["unordered"], result["errors"]) == (0, 0, 0, {})


def a_result(**changed: object) -> dict[str, Any]:
    counted = {"missing": 0, "twice": 0, "unordered": 0, "unanswered": 0, "closed": 0, "errors": {}}
    measured = {
        "deliveries_s": 100_000,
        "accepted_s": 500,
        "delivery_ms": {"p50": 5.0, "p99": 20.0},
        "generator_is_the_limit": False,
    }
    return {"system": "chat", "scenario": "fan-4", "repeat": 0, **counted, **measured, **changed}


@pytest.mark.parametrize(
    "fault", [{"missing": 1}, {"twice": 1}, {"unordered": 1}, {"errors": {"not_member": 1}}]
)
def test_speed_without_delivery_is_a_fault(fault: dict[str, object]) -> None:
    assert measure.sound(a_result())
    assert not measure.sound(a_result(**fault))


def test_ratios_are_of_the_same_repeat() -> None:
    results = [
        a_result(repeat=0),
        a_result(repeat=1, deliveries_s=60_000),
        a_result(system="tutorial", repeat=0, deliveries_s=10_000),
        a_result(system="tutorial", repeat=1, deliveries_s=5_000),
    ]
    row = measure.summarise(results, ["chat", "tutorial"], ["fan-4"])["fan-4"]["tutorial"]
    assert (row["ratio_least"], row["ratio_most"]) == (10, 12)


def test_a_system_that_did_not_start_is_named_in_the_table() -> None:
    summary = measure.summarise([a_result()], ["chat", "raw"], ["fan-4"])
    assert "raw ASGI broadcast, nothing stored | missing" in measure.table(summary)


# ── Many due at once ──


def test_everything_due_at_once_is_reported_while_people_talk(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        ["bench/run", "expiry", "--check", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["faults"] == []
    assert report["chat"]["idle"]["messages"] > 0
    assert report["chat"]["working"]["messages"] > 0


@pytest.mark.django_db
def test_a_message_that_was_not_reported_is_a_fault() -> None:
    found = overdue.faults(overdue.Seeded([], {"lost": 3}, Counter({1: 1}), []))
    assert "dead letters: 0 and not 1" in found
    assert "notices: 0 and not 1" in found
    assert overdue.faults(overdue.Seeded([], {}, Counter(), [])) == []


def an_expiry(**changed: object) -> dict[str, Any]:
    chat = {"answer_p99_ratio": 2.0, "delivery_p99_ratio": 2.0}
    worker = [{"warm_mb": 80.0, "most_mb": 82.0}]
    return {"chat": chat, "worker": worker, "store": {"slowest_call_ms": 5.0}, **changed}


@pytest.mark.parametrize(
    "worse",
    [
        {"chat": {"answer_p99_ratio": 2.1, "delivery_p99_ratio": 2.0}},
        {"chat": {"answer_p99_ratio": 2.0, "delivery_p99_ratio": None}},
        {"worker": [{"warm_mb": 80.0, "most_mb": 82.0}, {"warm_mb": 70.0, "most_mb": 91.0}]},
        {"store": {"slowest_call_ms": 5.1}},
    ],
)
def test_figures_that_miss_their_aims_are_said(worse: dict[str, object]) -> None:
    assert expiry.complaints(an_expiry()) == []
    assert len(expiry.complaints(an_expiry(**worse))) == 1


def test_a_call_of_the_store_is_named_without_its_arguments() -> None:
    assert expiry.call_name("EVALSHA abc 1 chat:{1}: secret", {"abc": "append"}) == "append"
    assert expiry.call_name("EVALSHA abd 1 chat:{1}: secret", {}) == "a script"
    assert expiry.call_name("zscan key 0", {}) == "ZSCAN"
