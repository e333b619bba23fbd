"""Measure how soon the staff's pages answer at 1,000,000 stored messages and 10,000 dead letters, each list at both ends.

`python -m bench.parts.admin` (or `make bench ARGS=admin`) prints a table, writes bench/results/admin.json and its section of
docs/explanation/measurements-jobs.md; `--check` asks a small site each page once. Exit 1 when a page's p95 is over 150 ms.

One site with `serve`'s parts, no worker -> it is filled by the store's own operations (`bench.fill.messages`) -> each page is asked for by a
superuser, one request at a time, the pages in turn, so that other work of the machine affects all of them alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.processes import CannotMeasure, end, free_port
from bench.starting import wait_until_served
from bench.systems import ROOT, SYSTEMS, plain_env

RESULTS = ROOT / "bench" / "results" / "admin.json"
DOC = ROOT / "docs" / "explanation" / "measurements-jobs.md"
BEGIN, END = "<!-- admin: written by `make bench ARGS=admin` -->", "<!-- admin: end -->"
P95_MOST_MS = 150.0
FRONT = (
    "front page",
    "its figures alone",
)  # neither a list nor a detail: the first reader in 4 s waits for the count
PER_PAGE = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`rooms` of five members with `each` messages, one room of `crowd` members with `crowd_each`, and dead letters."""

    rooms: int
    each: int
    crowd: int
    crowd_each: int
    letters: int
    repeats: int


FULL = Load(rooms=2_000, each=450, crowd=2_000, crowd_each=100_000, letters=10_000, repeats=40)
SMALL = Load(rooms=150, each=3, crowd=150, crowd_each=300, letters=150, repeats=1)


def pages(filled: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (what it is, path) of each list's first, middle and last page, of details and searches."""
    wanted, crowd, count, letter = (filled[name] for name in ("wanted", "crowd", "count", "letter"))
    lists = [
        ("undelivered", "undeliveredroom/", count["rooms"]),
        ("messages", "storedmessage/", count["stored"]),
        ("messages of a room", f"storedmessage/?room={crowd['room']}", crowd["top"]),
        ("dead letters", "deadletter/", count["letters"]),
        ("notices", "notice/", count["notices"]),
        ("rooms", "room/", count["rooms"]),
        ("memberships", "membership/", count["memberships"]),
    ]
    found = [("front page", "/admin/"), ("its figures alone", "/admin/overview/")]
    for name, path, rows in lists:
        last = -(-rows // PER_PAGE)
        for where, page in (("first", 1), ("middle", (last + 1) // 2), ("last", last)):
            found.append((f"{name}, {where} page", f"{path}{'&' if '?' in path else '?'}p={page}"))
    place = f"{wanted['room']}:{wanted['seq']}"
    found += [
        ("undelivered members", f"undeliveredmember/?room={wanted['room']}"),
        ("undelivered members in a room of many", f"undeliveredmember/?room={crowd['room']}&p=10"),
        ("audit entries", "auditentry/"),
        ("one message", f"storedmessage/{place}/change/"),
        ("one message of a room of many", f"storedmessage/{crowd['room']}:{crowd['top'] // 2}/change/"),
        ("one dead letter", f"deadletter/{letter['id']}/change/"),
        ("one room", f"room/{wanted['room']}/change/"),
        ("search by a person", f"undeliveredroom/?q=user:{wanted['person']}"),
        ("search by a message ID", f"storedmessage/?q={wanted['message']}"),
        ("search of dead letters", f"deadletter/?q={letter['message']}"),
    ]
    return [(name, path if path.startswith("/") else f"/admin/messaging/{path}") for name, path in found]


def ask(port: int, cookie: str, path: str) -> float:
    """Ask for a page as a browser that keeps its connection; return ms. Raises CannotMeasure for any other answer."""
    host = f"127.0.0.1:{port}"
    asked = http.client.HTTPConnection(host, timeout=30)
    asked.connect()
    began = time.perf_counter()
    asked.request("GET", path, headers={"Cookie": cookie, "Host": host})
    answer = asked.getresponse()
    answer.read()
    took_ms = (time.perf_counter() - began) * 1000
    asked.close()
    if answer.status not in (200, 302):
        raise CannotMeasure(f"{path} answered {answer.status}")
    return took_ms


def measure(load: Load, folder: Path) -> dict[str, Any]:
    """Fill a site and ask for its pages; return the report."""
    port = free_port()
    env = plain_env() | {"DATA_DIR": str(folder), "SITE_URL": f"http://127.0.0.1:{port}"}
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--no-seed", "--no-worker", "--port", str(port)],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_served(SYSTEMS["chat"], server, port, folder / "serve.log")
        began = time.monotonic()
        filled = fill(load, env)
        filled_s = time.monotonic() - began
        asked = pages(filled)
        times: dict[str, list[float]] = {name: [] for name, _ in asked}
        for turn in range(-1, load.repeats):  # in the first one templates are read
            for name, path in asked:
                took_ms = ask(port, filled["staff"]["session"], path)
                if turn >= 0:
                    times[name].append(took_ms)
    finally:
        end(server)
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "load": dataclasses.asdict(load),
        "count": filled["count"],
        "filled_s": round(filled_s, 1),
        "pages": {name: figures(values) for name, values in times.items()},
    }


def fill(load: Load, env: dict[str, str]) -> dict[str, Any]:
    words = {
        "--rooms": load.rooms,
        "--each": load.each,
        "--crowd": load.crowd,
        "--crowd-each": load.crowd_each,
        "--letters": load.letters,
    }
    command = [
        sys.executable,
        "-m",
        "bench.fill.messages",
        *(str(word) for pair in words.items() for word in pair),
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)
    if done.returncode:
        raise CannotMeasure(done.stderr.decode()[-500:])
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ordered), 1), "p95": round(p95, 1), "most": round(ordered[-1], 1)}


def table(report: dict[str, Any]) -> str:
    """Return the section of docs/explanation/measurements-jobs.md."""
    count = report["count"]
    rows = [
        f"| {name} | {one['p50']} | {one['p95']} | {one['most']} |" for name, one in report["pages"].items()
    ]
    said = (
        f"{count['stored']:,} messages, each with a member who owes it, in {count['rooms']:,} rooms; {count['letters']:,} dead"
        f" letters, {count['notices']:,} notices, {count['memberships']:,} memberships; {report['load']['repeats']} requests each,"
        f" one by one, on {report['cores']} cores ({report['at'][:10]})."
    )
    return "\n".join([said, "", "| page | p50 ms | p95 ms | max ms |", "|---|---|---|---|", *rows])


def write(report: dict[str, Any]) -> None:
    text = DOC.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{BEGIN}\n\n{table(report)}\n\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run admin", description=__doc__)
    parser.add_argument("--check", action="store_true", help="small, each page once; no time decides")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chat-admin-") as name:
        try:
            report = measure(SMALL if options.check else FULL, Path(name))
        except CannotMeasure as fault:
            print(fault, file=sys.stderr)
            return 1
    print(table(report))
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.check:
        return 0
    write(report)
    slow = [name for name, one in report["pages"].items() if one["p95"] > P95_MOST_MS and name not in FRONT]
    for name in slow:
        print(f"NOT AS IT MUST BE: {name}: p95 {report['pages'][name]['p95']} ms")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
