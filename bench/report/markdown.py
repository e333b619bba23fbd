"""Write the results of a run into two pages of docs/explanation/: performance (targets, plots) and measurements-results (all figures)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench.report import plots, targets
from bench.report.results import table
from bench.systems import ROOT, found

PAGE = ROOT / "docs" / "explanation" / "performance.md"
DETAILS = ROOT / "docs" / "explanation" / "measurements-results.md"
IMAGES = ROOT / "docs" / "images"
MARK = "<!-- measured: everything below is written by `make bench` -->"


def write(run: dict[str, Any], said: Sequence[str]) -> None:
    """Replace what follows the mark in two pages of docs/ by this run; what stands above is written by hand.

    `said`: the results that are not in the tables, a sentence each.
    """
    (IMAGES / "throughput-latency.svg").write_text(plots.throughput_latency(run["summary"].get("always", {})))
    (IMAGES / "cost-stored.svg").write_text(plots.cost_stored(run["parts"].get("stored", {})))
    _renew(PAGE, _bars(run))
    _renew(DETAILS, _details(run, said))


def _renew(page: Path, lines: Sequence[str]) -> None:
    words, mark, _ = page.read_text().partition(MARK)
    page.write_text("\n".join([f"{words}{mark}", "", *lines, ""]))


def _bars(run: dict[str, Any]) -> list[str]:
    pace = targets.pace_of(run["summary"].get("always", {}))
    known = f" Raw ASGI ran {pace:.2g} times as fast as when the targets were set." if pace else ""
    return [
        f"## The targets, measured {run['at'][:10]}",
        "",
        f"{machine()}{known} Medians of {run['repeats']} repetitions, ratios within a repetition, `appendfsync always` if nothing"
        ' else is given. "Inconclusive": this run or machine cannot decide. [All figures](measurements-results.md).',
        "",
        targets.table(targets.verdicts(run)),
    ]


def _details(run: dict[str, Any], said: Sequence[str]) -> list[str]:
    lines = [
        f"## Measured {run['at'][:10]}",
        "",
        f"{machine()} {versions()}",
        f"Medians of {run['repeats']} repetitions of {run['seconds']:g} s, the systems alternating; ratios are of the same"
        f" repetition. The whole run took {run['took_s'] / 60:.0f} minutes.",
        "",
        "### This server alone",
        "",
        *(f"- {sentence}" for sentence in said),
    ]
    for fsync, summary in run["summary"].items():
        lines += ["", f"## `appendfsync {fsync}`", table(summary)]
    return lines


def machine() -> str:
    """Describe the machine without names of hosts or paths."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = psutil.virtual_memory().total
    return (
        f"{os.cpu_count()} cores of {model.group(1) if model else platform.machine()},"
        f" {round(memory / 2**30)} GB, Linux {platform.release().split('-')[0]};"
        " server and store share one core, the load generator has another."
    )


def versions() -> str:
    names = ("Django", "channels", "channels-redis", "redis", "uvicorn", "uvloop", "websockets")
    python = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    others = [f"Node {_first_line(['node', '--version'])}", *_node_versions(), *_broker(), _store_version()]
    return ", ".join([*python, *others]) + "."


def _node_versions() -> list[str]:
    lock = ROOT / "bench" / "node_modules" / "socket.io" / "package.json"
    found = re.search(r'"version": "([^"]+)"', lock.read_text()) if lock.exists() else None
    return [f"Socket.IO {found.group(1)}"] if found else []


def _broker() -> list[str]:
    program = found("mosquitto")
    said = re.search(r"version ([\d.]+)", _first_line([program, "-h"])) if program else None
    return [f"Mosquitto {said.group(1)}"] if said else []


def _store_version() -> str:
    from chatsite.run import embedded_store

    binary = embedded_store.find_server()
    said = _first_line([str(binary), "--version"]) if binary else ""
    found = re.search(r"(Valkey|Redis) server v=([\d.]+)", said)
    return f"{found.group(1)} {found.group(2)}" if found else "an unknown store"


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip()
