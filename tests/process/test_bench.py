"""The load generator's correctness mode: the measured messages are delivered once and in order; and the comparison with the targets.

No time is asserted.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.fill import expired
from bench.parts import expiry
from bench.processes import CannotMeasure
from bench.report import markdown, plots, results, targets
from bench.scenarios import SCENARIOS, rate_of
from bench.starting import running
from bench.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.proof
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
    assert [(result["system"], result.get("scenario")) for result in results] == [
        (system, scenario)
        for system in ("chat", "chat-2", "spike")
        for scenario in ("check-fan", "check-pairs")
    ]
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
    assert results.sound(a_result())
    assert not results.sound(a_result(**fault))


def test_ratios_are_of_the_same_repeat() -> None:
    repeats = [
        a_result(repeat=0),
        a_result(repeat=1, deliveries_s=60_000),
        a_result(system="tutorial", repeat=0, deliveries_s=10_000),
        a_result(system="tutorial", repeat=1, deliveries_s=5_000),
    ]
    row = results.summarise(repeats, ["chat", "tutorial"], ["fan-4"])["fan-4"]["tutorial"]
    assert (row["ratio_least"], row["ratio_most"]) == (10, 12)


def test_a_system_that_did_not_start_is_named_in_the_table_with_the_reason() -> None:
    gone = {"system": "raw", "missing_system": "no uvicorn here"}
    summary = results.summarise([a_result(), gone], ["chat", "raw"], ["fan-4"])
    assert "raw ASGI broadcast, nothing stored | missing: no uvicorn here" in results.table(summary)


def test_missing_peer_names_the_command_that_installs_it(tmp_path: Path) -> None:
    absent = dataclasses.replace(SYSTEMS["mosquitto"], needs="no-such-broker")
    with (
        pytest.raises(CannotMeasure, match="apt-get install no-such-broker"),
        running(absent, fsync="always", site=tmp_path),
    ):
        pass


def test_rate_is_a_fixed_share_of_the_peak() -> None:
    assert rate_of(SCENARIOS["chat-10"], {"chat": 400_000}) == 200
    assert rate_of(SCENARIOS["chat-10"], {"tutorial": 400_000}) == 0


# ── The targets ──


def a_row(ratio: float | None = None, **changed: object) -> dict[str, Any]:
    return {"ratio": ratio, "sound": True, "generator_is_the_limit": False, "p99_ms": 10.0, **changed}


def acks_at(rate: int, scripts_us: float) -> dict[str, Any]:
    return {"rate": rate, "scripts_us": scripts_us, "fixed_work_slower": 5.5}


PARTS = {
    "storm": {"p99_ms": 3_000, "others_ratio": 2.0},
    "backlog": {"messages_s": 50_000, "memory_growth_kb": 1_024},
    "idle": {"kb_each": 25.0},
    "memory": {"live_bytes": 900, "ids_bytes": 200},
    "stalled": {"ratio": 1.3, "kb_each": 100},
    "acks": {"rows": [acks_at(50, 200), acks_at(1_000, 100)]},
    "stored": {"rows": [{"stored": 1_000, "ratio": 0.1}, {"stored": 1_000_000, "ratio": 0.9}]},
    "members": {"rows": [{"absent": 0, "ratio": 1.0}, {"absent": 10_000, "ratio": 0.9}]},
    "processes": {"shared": True, "cores": 2, "rows": [{"scenario": "pairs-4", "ratio": 1.6}]},
}


def a_run(**parts: dict[str, Any]) -> dict[str, Any]:
    """Return a run that meets every target, some of them exactly."""
    ratios = {
        "tutorial": 40.0,
        "tutorial-core": 60.0,
        "socketio": 3.0,
        "socketio-storing": 3.0,
        "raw": 3.0,
        "mosquitto": 1.0,
    }
    rows = {name: a_row(ratio) for name, ratio in ratios.items()} | {"spike": a_row(0.8), "chat": a_row()}
    always = {name: dict(rows) for name in ("fan-4", "fan-32", "pairs-1", "pairs-4")}
    always["chat-10"] = {"chat": a_row(p99_ms=15.0)}
    always["tutorial-10"] = {"chat": a_row(p99_ms=10.0), "tutorial": a_row(p99_ms=10.0)}
    return {"summary": {"always": always}, "parts": PARTS | parts}


def ratio_verdict(run: dict[str, Any], scenario: str, whom: str) -> targets.Verdict:
    titles = {name: title for name, title, *_ in targets.RATIOS}
    [found] = [
        verdict
        for verdict in targets.verdicts(run)
        if verdict.what == titles[scenario] and whom in verdict.target
    ]
    return found


def unmet(run: dict[str, Any]) -> list[str]:
    return [verdict.what for verdict in targets.verdicts(run) if not verdict.met]


def test_run_that_reaches_every_target_exactly_meets_all() -> None:
    assert unmet(a_run()) == []
    assert len(targets.verdicts(a_run())) >= 30


@pytest.mark.parametrize(
    ("part", "worse"),
    [
        ("storm", {"p99_ms": 3_001, "others_ratio": 2.0}),
        ("storm", {"p99_ms": 3_000, "others_ratio": 2.1}),
        ("backlog", {"messages_s": 49_999, "memory_growth_kb": 1_024}),
        ("backlog", {"messages_s": 50_000, "memory_growth_kb": 50_000}),
        ("idle", {"kb_each": 25.1}),
        ("memory", {"live_bytes": 901, "ids_bytes": 200}),
        ("memory", {"live_bytes": 900, "ids_bytes": 201}),
        ("stalled", {"ratio": 1.31, "kb_each": 100}),
        ("stalled", {"ratio": 1.3, "kb_each": 10_000}),
        ("acks", {"rows": [acks_at(50, 201)]}),
        ("stored", {"rows": [{"stored": 1_000_000, "ratio": 0.89}]}),
        ("members", {"rows": [{"absent": 10_000, "ratio": 0.89}]}),
    ],
)
def test_missed_target_is_reported_alone(part: str, worse: dict[str, Any]) -> None:
    found = [verdict for verdict in targets.verdicts(a_run(**{part: worse})) if not verdict.met]
    assert [verdict.met for verdict in found] == [False]


@pytest.mark.parametrize(
    ("part", "just", "worse"),
    [
        ("storm", {"p99_ms": 6_000, "others_ratio": 2.0}, {"p99_ms": 6_001, "others_ratio": 2.0}),
        (
            "backlog",
            {"messages_s": 25_000, "memory_growth_kb": 1_024},
            {"messages_s": 24_999, "memory_growth_kb": 1_024},
        ),
        ("acks", {"rows": [acks_at(50, 400)]}, {"rows": [acks_at(50, 401)]}),
    ],
)
def test_a_time_that_a_slower_machine_may_have_made_is_not_shown(
    part: str, just: dict[str, Any], worse: dict[str, Any]
) -> None:
    for found, met in ((just, None), (worse, False)):
        run = a_run(**{part: found})
        run["summary"]["always"]["pairs-4"]["raw"] = a_row(3.0, accepted_s=targets.RAW_PAIRS / 2)
        [verdict] = [verdict for verdict in targets.verdicts(run) if not verdict.met]
        assert (verdict.met, "0.5 times as fast" in verdict.note) == (met, met is None)


def test_too_costly_acknowledgements_name_the_share_of_the_processor() -> None:
    [verdict] = [
        verdict for verdict in targets.verdicts(a_run(acks={"rows": [acks_at(50, 201)]})) if not verdict.met
    ]
    assert (verdict.met, "fixed work takes 5.5 times as long" in verdict.note) == (False, True)


def test_faster_machine_alone_meets_no_target() -> None:
    run = a_run(storm={"p99_ms": 3_000, "others_ratio": 2.1})
    run["summary"]["always"]["pairs-4"]["raw"] = a_row(3.0, accepted_s=targets.RAW_PAIRS * 2)
    assert [verdict.met for verdict in targets.verdicts(run) if not verdict.met] == [False]


def test_a_ratio_is_to_the_better_of_two_layers() -> None:
    run = a_run()
    run["summary"]["always"]["fan-32"]["tutorial-core"] = a_row(39.9)
    verdict = ratio_verdict(run, "fan-32", "the tutorial")
    assert (verdict.found, verdict.met) == ("39.9x", False)


def test_a_layer_that_loses_messages_is_not_the_better_one() -> None:
    run = a_run()
    run["summary"]["always"]["pairs-1"]["tutorial-core"] = a_row(0.5, sound=False)
    assert ratio_verdict(run, "pairs-1", "the tutorial").found == "40x"


def test_server_that_loses_messages_meets_no_target() -> None:
    run = a_run()
    run["summary"]["always"]["pairs-4"]["chat"] = a_row(sound=False)
    verdict = ratio_verdict(run, "pairs-4", "Mosquitto")
    assert (verdict.met, verdict.note) == (None, "this server lost, repeated or refused messages")


def test_target_against_a_missing_peer_has_no_verdict_but_a_reason() -> None:
    run = a_run()
    run["summary"]["always"]["pairs-1"]["mosquitto"] = {"missing": True, "why": "apt-get install mosquitto"}
    verdict = ratio_verdict(run, "pairs-1", "Mosquitto")
    assert (verdict.met, verdict.note) == (None, "apt-get install mosquitto")


def test_nothing_measured_meets_nothing() -> None:
    found = targets.verdicts({"summary": {}, "parts": {"idle": {"missing": "the generator did not end"}}})
    assert {verdict.met for verdict in found} == {None}
    assert "the generator did not end" in [verdict.note for verdict in found]
    assert "yes" not in targets.table(found)


def test_two_processes_get_no_verdict_without_free_cpu_time_for_the_second() -> None:
    one_cpu = {"server": 0.6, "store": 0.6, "generator": 0.4}
    row = {"scenario": "pairs-4", "ratio": 1.2, "one_cpu": one_cpu}
    full = {"shared": True, "cores": 2, "rows": [row]}
    [verdict] = [
        verdict for verdict in targets.verdicts(a_run(processes=full)) if "two processes" in verdict.what
    ]
    assert (verdict.met, "1.2x is the maximum" in verdict.note) == (None, True)
    roomy = full | {"rows": [row | {"one_cpu": one_cpu | {"store": 0.2}}]}
    assert [
        verdict.met for verdict in targets.verdicts(a_run(processes=roomy)) if "two processes" in verdict.what
    ] == [False]


def test_other_store_setting_is_shown_and_decides_nothing() -> None:
    run = a_run()
    run["summary"]["everysec"] = {"fan-4": {"chat": a_row(), "socketio": a_row(0.5)}}
    verdict = ratio_verdict(run, "fan-4", "Socket.IO")
    assert (verdict.everysec, verdict.met) == ("0.5x", True)


def test_plots_are_pictures_with_a_point_for_every_measurement() -> None:
    summary = {"fan-4": {"chat": {"deliveries_s": 80_000, "p50_ms": 10.0}}}
    stored = {"rows": [{"stored": 1_000, "cost_us": 90.0, "empty_cost_us": 95.0}]}
    for picture, points in ((plots.throughput_latency(summary), 1), (plots.cost_stored(stored), 2)):
        root = ElementTree.fromstring(picture)
        assert root.tag.endswith("svg")
        assert picture.count('r="5"') == 2 * points, "a point, and the same colour next to its name"
    assert ElementTree.fromstring(plots.cost_stored({})).tag.endswith("svg")


def test_more_than_a_million_deliveries_a_second_stay_within_the_plot() -> None:
    picture = plots.throughput_latency({"fan-32": {"chat": {"deliveries_s": 1_500_000, "p50_ms": 5.0}}})
    point, beside_its_name = (
        float(shape.attrib["cx"])
        for shape in ElementTree.fromstring(picture).iter()
        if shape.tag.endswith("circle")
    )
    assert point < plots.WIDTH - plots.RIGHT < beside_its_name


def test_page_keeps_handwritten_text_and_renews_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, details = tmp_path / "performance.md", tmp_path / "measurements-results.md"
    for name, path in (("PAGE", page), ("DETAILS", details)):
        path.write_text(f"By hand.\n{markdown.MARK}\nof an earlier run")
        monkeypatch.setattr(markdown, name, path)
    monkeypatch.setattr(markdown, "IMAGES", tmp_path)
    summary = {"always": results.summarise([a_result()], ["chat", "raw"], ["fan-4"])}
    run = {"at": "2026-11-28T19:00", "repeats": 3, "seconds": 2.0, "took_s": 1_080, "parts": {}}
    markdown.write(run | {"summary": summary}, ["1,000 came back."])
    for path in (page, details):
        assert path.read_text().startswith(f"By hand.\n{markdown.MARK}\n")
        assert "of an earlier run" not in path.read_text()
    assert "| fan-out 1x200, window 4 | >= 1.2x Socket.IO + streams |" in page.read_text()
    assert "- 1,000 came back." in details.read_text()
    assert {path.name for path in tmp_path.glob("*.svg")} == {"throughput-latency.svg", "cost-stored.svg"}


# ── Many due at once ──


@pytest.mark.proof
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
    found = expired.faults(expired.Seeded([], {"lost": 3}, Counter({1: 1}), []))
    assert "dead letters: 0 and not 1" in found
    assert "notices: 0 and not 1" in found
    assert expired.faults(expired.Seeded([], {}, Counter(), [])) == []


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
def test_figures_that_miss_their_targets_are_reported(worse: dict[str, object]) -> None:
    assert expiry.complaints(an_expiry()) == []
    assert len(expiry.complaints(an_expiry(**worse))) == 1


def test_a_call_of_the_store_is_named_without_its_arguments() -> None:
    assert expiry.call_name("EVALSHA abc 1 chat:{1}: secret", {"abc": "append"}) == "append"
    assert expiry.call_name("EVALSHA abd 1 chat:{1}: secret", {}) == "a script"
    assert expiry.call_name("zscan key 0", {}) == "ZSCAN"
