"""Run a program of bench/load on the generator's core and take what it printed."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from bench.processes import GENERATOR_CORE, CannotMeasure, on_cores, prefer
from bench.systems import ROOT


def generate(
    program: str, plan: dict[str, Any], *, patience_s: float, cores: Sequence[int] = (GENERATOR_CORE,)
) -> dict[str, Any]:
    """Give a program its plan; return the JSON object that it printed. Raises CannotMeasure."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        command = on_cores(cores, ["node", str(ROOT / "bench" / "load" / program), file.name])
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as generator:
            prefer(generator.pid)
            try:
                printed, complaint = generator.communicate(timeout=patience_s)
            except subprocess.TimeoutExpired:
                generator.kill()
                raise CannotMeasure(f"the load generator did not end within {patience_s:.0f} s") from None
    if generator.returncode:
        raise CannotMeasure(f"the load generator failed: {complaint[-300:].strip()}")
    report: dict[str, Any] = json.loads(printed)
    return report
