"""The load generator's correctness mode: what it measures is delivered once and in order. No time is asserted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

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
