"""Measure what it costs the chat when 100,000 messages are due at once: a worker that was away comes back while people talk.

`python -m bench.parts.expiry` (or `make bench ARGS=expiry`) prints a report and writes bench/results/expiry.json; a first look:
`--due 10000 --crowd 1000`. Exit 1 when a message was not reported correctly, a call of the store took more than 5 ms, the chat's
p99 was more than twice its idle value, or the worker's memory grew.

One site with `serve`'s parts, no worker -> rooms are filled with messages that nobody has time to get -> chat at a steady rate,
idle -> the worker starts and works off what is due -> idle again. Every second is idle or work according
to the use of the worker and the messages left, so the pauses between two runs of the job count as idle: one run, interleaved.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.fill.expired import Load, Seeded, due, faults, left, seed
from bench.load.conversation import latencies, talk_faults, talking
from bench.processes import SERVER_CORE, CannotMeasure, descendants, end, free_port, on_core, prefer
from bench.starting import wait_until_served
from bench.systems import ROOT, SYSTEMS, plain_env

RESULTS = ROOT / "bench" / "results" / "expiry.json"
SLOWEST_MS = 5.0
RATIO_MOST = 2.0
GROWTH_MOST_MB = 20.0  # a room of 10,000 takes ten while it is read, however much is due
RATE = 200  # messages a second in all: one member of each of ten rooms writes
LOGGED_US = 1_000  # calls of the store that are looked at
LOGGED_MOST = 128  # in a second
WITHIN_S = 1_200.0
WARM_S = 5.0  # of its CPU time: what it imports and its first batches are behind it
WORKS = 0.1  # of a core: then the worker is at work


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment: epoch ms, messages left, and of each of the worker's processes CPU seconds and resident MB."""

    at_ms: float
    left: int
    used: dict[int, tuple[float, float]]

    @property
    def cpu_s(self) -> float:
        return sum(cpu_s for cpu_s, _ in self.used.values())


# ── The site ──


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Run store and server as `serve` does, without a worker; yield the port."""
    port = free_port()
    with running(folder, "serve", "--no-seed", "--no-worker", "--port", str(port)) as server:
        wait_until_served(SYSTEMS["chat"], server, port, folder / "serve.log")
        yield port


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the site; its output is written to a file of its name."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            on_core(SERVER_CORE, [sys.executable, "manage.py", *command]),
            cwd=ROOT,
            env=plain_env() | site_env(folder),
            stdout=log,
            stderr=log,
        )  # in the session of this process, all of them, as under `serve`: what they are nice to each other counts
    try:
        yield process
    finally:
        end(process)


def site_env(folder: Path) -> dict[str, str]:
    """Return what a command of the site in `folder` needs; the key is made once."""
    key = folder / "key"
    if not key.exists():
        key.write_text(secrets.token_hex())
    return {
        "DJANGO_SETTINGS_MODULE": "chatsite.settings",
        "DATA_DIR": str(folder),
        "DJANGO_SECRET_KEY": key.read_text(),
    }


# ── Measuring ──


class Watch:
    """Sample every second: the messages left, and the resources of the worker."""

    def __init__(self, seeded: Seeded) -> None:
        self.seeded = seeded
        self.samples: list[Sample] = []
        self.calls: dict[
            int, tuple[str, float, float]
        ] = {}  # of the slow log: how a command begins, ms, epoch ms
        self.pid = 0  # the worker's, once it runs

    def look(self) -> Sample:
        pids = descendants(self.pid) if self.pid else []
        used = {pid: (cpu_s(pid), rss_mb(pid)) for pid in pids}
        sample = Sample(time.time() * 1000, left(self.seeded), used)
        self.samples.append(sample)
        self.calls |= logged_calls()  # every second: the job that rewrites the store's log empties it
        return sample

    def rest(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.look()
            time.sleep(1)

    def work(self, worker: subprocess.Popen[bytes]) -> float:
        """Wait until nothing is left; return the seconds it took."""
        self.pid = worker.pid
        started = time.monotonic()
        while self.look().left:
            if worker.poll() is not None:
                raise CannotMeasure(f"the worker ended with {worker.returncode}")
            if time.monotonic() - started > WITHIN_S:
                raise CannotMeasure(f"{self.samples[-1].left} messages were left after {WITHIN_S:.0f} s")
            time.sleep(1)
        return time.monotonic() - started

    def working(self, at_ms: float) -> bool:
        """Say whether the worker was at work in the second of a moment."""
        return any(first.at_ms <= at_ms < last.at_ms for first, last in self.spells())

    def spells(self) -> list[tuple[Sample, Sample]]:
        return [
            (first, last)
            for first, last in zip(self.samples, self.samples[1:], strict=False)
            if last.left < first.left or last.cpu_s - first.cpu_s > WORKS * (last.at_ms - first.at_ms) / 1000
        ]


def cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def rss_mb(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    return 0.0


def measure(load: Load, folder: Path, *, store_first: bool) -> dict[str, Any]:
    """Run it all once; return the report."""
    with serving(folder) as port:
        seeded = seed(load)
        while due() < len(seeded.missed):  # acknowledgements may be in flight for a while
            time.sleep(0.2)
        listen_to_store(first=store_first)
        plan = {
            "port": port,
            "rooms": seeded.talking,
            "senders": 1,
            "rate": load.rate,
            "stop": str(folder / "stop"),
        }
        watch = Watch(seeded)
        with talking(plan, patience_s=2 * WITHIN_S) as talk:
            watch.rest(load.idle_s)
            with running(folder, "worker") as worker:
                took_s = watch.work(worker)
                watch.rest(load.idle_s)
        return {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cores": len(os.sched_getaffinity(0)),
            "load": dataclasses.asdict(load),
            "store_first": store_first,
            "took_s": round(took_s, 1),
            "worked_s": round(sum(last.at_ms - first.at_ms for first, last in watch.spells()) / 1000, 1),
            "chat": chat(talk, watch),
            "worker": memory(watch),
            "store": store(watch),
            "faults": faults(seeded) + talk_faults(talk),
        }


# ── What was found ──


def chat(talk: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """Return the latencies idle and while the worker worked, and the second p99 by the first."""
    spells = [(first.at_ms, last.at_ms) for first, last in watch.spells()]
    worked = [row for row in talk["rows"] if any(begin <= row[0] < stop for begin, stop in spells)]
    known = {id(row) for row in worked}
    idle = [row for row in talk["rows"] if id(row) not in known]
    found: dict[str, Any] = {"idle": latencies(idle), "working": latencies(worked)}
    for kind in ("answer_ms", "delivery_ms"):
        before, during = found["idle"][kind]["p99"], found["working"][kind]["p99"]
        found[f"{kind.removesuffix('_ms')}_p99_ratio"] = round(during / before, 2) if before else None
    return found


def memory(watch: Watch) -> list[dict[str, float]]:
    """Return of each process of the worker that did much the MB when it had worked for `WARM_S`, the most and the last."""
    found = []
    for pid in {pid for sample in watch.samples for pid in sample.used}:
        used = [sample.used[pid] for sample in watch.samples if pid in sample.used]
        warm = [round(rss_mb, 1) for cpu_s, rss_mb in used if cpu_s > WARM_S]
        if warm:
            found.append(
                {"cpu_s": used[-1][0], "warm_mb": warm[0], "most_mb": max(warm), "last_mb": warm[-1]}
            )
    return found


def listen_to_store(*, first: bool) -> None:
    """Let the store log its calls. `first`: it gets the highest priority on the machine, so that these are its own times."""
    from django.core.cache import caches

    client = caches["messages"].client.get_client()
    client.config_set("slowlog-log-slower-than", LOGGED_US)
    client.config_set("slowlog-max-len", LOGGED_MOST)
    client.config_set("latency-monitor-threshold", int(SLOWEST_MS))
    client.slowlog_reset()
    client.latency_reset()
    if first:
        # Without its child processes: the process that rewrites its log would preempt the chat too, for a quarter of a second at a time.
        before_others = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(client.info("server")["process_id"], before_others, os.sched_param(1))


def logged_calls() -> dict[int, tuple[str, float, float]]:
    """Return what the slow log holds, by its numbers: how a command begins, ms, epoch ms."""
    from django.core.cache import caches

    rows = caches["messages"].client.get_client().slowlog_get(LOGGED_MOST)
    return {
        row["id"]: (
            bytes(row["command"][:60]).decode("latin-1"),
            row["duration"] / 1000,
            row["start_time"] * 1000,
        )
        for row in rows
        if not row["command"].startswith(b"SLOWLOG")  # the reading of it
    }


def store(watch: Watch) -> dict[str, Any]:
    """Return the slowest calls by the store's own log, which counts a call's execution and no waiting for the disk."""
    from django.core.cache import caches

    client = caches["messages"].client.get_client()
    names = script_names()
    calls = [
        (call_name(command, names), ms, watch.working(at_ms + 500))
        for command, ms, at_ms in watch.calls.values()
    ]
    by_name: dict[str, dict[str, list[float]]] = {"idle": defaultdict(list), "working": defaultdict(list)}
    for name, ms, working in calls:
        by_name["working" if working else "idle"][name].append(ms)
    return {
        "slow_calls": {
            state: {
                name: [len(ms), round(statistics.median(ms), 2), round(max(ms), 2)]
                for name, ms in sorted(found.items())
            }
            for state, found in by_name.items()
        },
        "slowest_call_ms": round(max((ms for _, ms, _ in calls), default=0.0), 2),
        "over_5_ms": sum(ms > SLOWEST_MS for _, ms, _ in calls),
        "latency_most_ms": {
            bytes(row[0]).decode(): row[3] for row in client.execute_command("LATENCY LATEST")
        },
    }


def script_names() -> dict[str, str]:
    from messaging.bridge import run_async
    from messaging.store import open_store

    async def shas() -> dict[str, str]:
        scripts = open_store().scripts
        await scripts.known()
        return {sha: name for name, sha in scripts._shas.items()}

    return run_async(shas)


def call_name(command: str, scripts: dict[str, str]) -> str:
    """Return a script's name or a command's, never its arguments."""
    words = command.split(" ", 2)
    return scripts.get(words[1], "a script") if words[0].upper() == "EVALSHA" else words[0].upper()


def complaints(report: dict[str, Any]) -> list[str]:
    """Return the figures that miss their targets."""
    found = []
    if report["store"]["slowest_call_ms"] > SLOWEST_MS:
        found.append(f"a call of the store took {report['store']['slowest_call_ms']} ms")
    for what in ("answer", "delivery"):
        ratio = report["chat"][f"{what}_p99_ratio"]
        if ratio is None or ratio > RATIO_MOST:
            found.append(f"{what}: p99 is {ratio} times the idle one")
    grown = max((one["most_mb"] - one["warm_mb"] for one in report["worker"]), default=0.0)
    if grown > GROWTH_MOST_MB:
        found.append(f"the worker's memory grew by {grown:.1f} MB")
    return found


def show(report: dict[str, Any]) -> None:
    load, talk, calls = report["load"], report["chat"], report["store"]
    print(
        f"{load['due']:,} messages due at once: {report['took_s']} s, {report['worked_s']} s of them at work"
    )
    print(
        f"{'chat, ms':10}{'messages':>10}{'answer p50':>12}{'p99':>8}{'most':>8}{'delivery p50':>14}{'p99':>8}{'most':>8}"
    )
    for state in ("idle", "working"):
        row = talk[state]
        print(f"{state:10}{row['messages']:10,}", end="")
        for kind, width in (("answer_ms", 12), ("delivery_ms", 14)):
            print(f"{row[kind]['p50']:{width}.2f}{row[kind]['p99']:8.2f}{row[kind]['most']:8.1f}", end="")
        print()
    print(f"p99 at work by idle: answer {talk['answer_p99_ratio']}, delivery {talk['delivery_p99_ratio']}")
    for one in report["worker"]:
        print(
            f"a process of the worker: {one['warm_mb']} MB, at most {one['most_mb']}, at last {one['last_mb']}"
        )
    print(f"slowest call of the store {calls['slowest_call_ms']} ms, {calls['over_5_ms']} over 5 ms")
    for state, found in calls["slow_calls"].items():
        for name, (count, median, most) in found.items():
            print(f"  {state:8} {name:20}{count:6} over 1 ms, half of them over {median}, slowest {most}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run expiry", description=__doc__)
    parser.add_argument("--due", type=int, default=100_000)
    parser.add_argument("--crowd", type=int, default=10_000, help="members of the large room")
    parser.add_argument("--rate", type=float, default=RATE, help="messages a second")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds before and after")
    parser.add_argument(
        "--store-first",
        action="store_true",
        help="as root: what else runs takes no time from the store's calls",
    )
    parser.add_argument("--check", action="store_true", help="small; only what is lost decides")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    load = Load(due=options.due, crowd=options.crowd, rate=options.rate, idle_s=options.idle)
    if options.check:
        load = Load(due=200, crowd=250, rate=50, idle_s=1)
    with tempfile.TemporaryDirectory(prefix="chat-expiry-") as name:
        folder = Path(name)
        for setting in os.environ.keys() - plain_env().keys() - {"BENCH_PREFER"}:
            del os.environ[setting]  # as for the processes of the site
        os.environ.update(site_env(folder))
        import django
        from django.core.management import call_command

        django.setup()
        prefer(os.getpid())
        call_command("migrate", verbosity=0, interactive=False)
        try:
            report = measure(load, folder, store_first=options.store_first)
        except CannotMeasure as fault:
            print(fault, file=sys.stderr)
            return 1
    show(report)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    missed = [] if options.check else complaints(report)
    for line in report["faults"] + missed:
        print(f"NOT AS IT MUST BE: {line}")
    return 1 if report["faults"] or missed else 0


if __name__ == "__main__":
    sys.exit(main())
