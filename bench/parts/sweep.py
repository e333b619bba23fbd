"""Measure what a sweep costs: 1,000 and 1,000,000 stored messages in one run, and the slowest call by the store's own slow log.

`python -m bench.parts.sweep` prints a table and writes bench/results/sweep.json; `--rooms 1000` for a first look. Exit 1 when a sweep
with nothing due takes more than 1.5 times as long over the many messages, or a call of a sweep more than 5 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.fill.rooms import A_ROOM, fill, key, members_of, message

RESULTS = Path(__file__).parents[1] / "results" / "sweep.json"
REPEATS = 101
SLOWEST_MS = 5.0
RATIO_MOST = 1.5


async def make_due(rooms: range) -> None:
    """Let the sweep look at rooms now."""
    from messaging.store import open_store

    pipeline = open_store().client.pipeline(transaction=False)
    for number in rooms:
        pipeline.zadd(f"{key(number).prefix}unacked", {key(number).id: 1})
    await pipeline.execute()


async def owe(rooms: range) -> None:
    """Store one more message in each room, which one member has had time to acknowledge and did not."""
    from messaging.policy import Policy
    from messaging.store import open_store

    store = open_store()
    for at in range(0, len(rooms), 100):
        await store.log.append([message(key(number)) for number in rooms[at : at + 100]])
    await asyncio.sleep(Policy().ack_timeout_s + 1)  # what is younger is not looked at
    await make_due(rooms)


async def measure(repeats: int = REPEATS) -> dict[str, float]:
    """Sweep; return what it took (the quickest fifth, the median), the rooms told at last, the slowest call of the store."""
    from messaging import jobs
    from messaging.store import open_store

    client = open_store().client
    await client.slowlog_reset()
    took_ms, told = [], 0
    for _ in range(repeats):
        started_s = time.perf_counter()
        told = await jobs.sweep(jobs.SweepOptions())
        took_ms.append((time.perf_counter() - started_s) * 1000)
    slow = [row["duration"] / 1000 for row in await client.slowlog_get(128)]
    quick_ms = sorted(took_ms)[len(took_ms) // 5]  # what other programs took from the machine is above it
    return {
        "sweep_ms": round(quick_ms, 2),
        "median_ms": round(statistics.median(took_ms), 2),
        "told": told,
        "slowest_call_ms": round(max(slow, default=0.0), 2),
    }


async def rest() -> None:
    """Wait until the store has rewritten its log: its child process takes a core."""
    from messaging.store import open_store

    await asyncio.sleep(2)
    client = open_store().client
    while (await client.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.5)


async def run(rooms: int, store_log_us: int = 500) -> dict[str, dict[str, float]]:
    from messaging.policy import Policy
    from messaging.store import Store, connections, open_store

    client = open_store().client
    await client.config_set("slowlog-log-slower-than", store_log_us)
    await client.config_set("slowlog-max-len", 128)
    few, found = 10, {}
    filled = Store(client, Policy(), members_of=members_of)
    await fill(filled, range(few))
    found["few messages, nothing due"] = await measure()
    await fill(filled, range(few, rooms))
    await rest()
    found["many messages, nothing due"] = await measure()
    await make_due(range(rooms))
    found["all rooms due, nobody behind"] = await measure(1)
    found["afterwards"] = await measure()
    behind = min(1_000, rooms)
    await owe(range(behind))
    found[f"{behind} rooms with one behind"] = await measure(1)
    await connections.close()
    return found


def show(found: dict[str, dict[str, float]], stored: int, rooms: int) -> None:
    print(f"{A_ROOM * 10:,} messages in 10 rooms, then {stored:,} in {rooms:,}")
    print(f"{'':32}{'sweep, ms':>12}{'median':>10}{'rooms told':>12}{'slowest call, ms':>18}")
    for name, row in found.items():
        print(
            f"{name:32}{row['sweep_ms']:12.2f}{row['median_ms']:10.2f}{row['told']:12}{row['slowest_call_ms']:18.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=10_000)
    rooms = parser.parse_args().rooms
    with tempfile.TemporaryDirectory(prefix="chat-sweep-") as folder:
        socket = Path(folder) / "valkey.sock"
        os.environ.update(
            DJANGO_SETTINGS_MODULE="chatsite.settings",
            DATA_DIR=folder,
            REDIS_URL=f"unix://{socket}",
            DJANGO_SECRET_KEY=secrets.token_hex(),
        )
        import django
        from django.core.management import call_command

        from chatsite.run import embedded_store

        django.setup()
        server = embedded_store.find_server()
        if server is None:
            print("No valkey-server: install the requirements.", file=sys.stderr)
            return 1
        command = embedded_store.command(server, folder=Path(folder), socket=socket, appendfsync="everysec")
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if not embedded_store.wait_until_ready(os.environ["REDIS_URL"], deadline_s=20.0):
                print((Path(folder) / "log").read_text(), file=sys.stderr)
                return 1
            call_command("migrate", verbosity=0, interactive=False)
            found = asyncio.run(run(rooms))
        finally:
            process.kill()
            process.wait()
    names = list(found)
    ratio = found[names[1]]["sweep_ms"] / found[names[0]]["sweep_ms"]
    slowest_ms = max(row["slowest_call_ms"] for row in found.values())
    show(found, rooms * A_ROOM, rooms)
    print(f"\nNothing due: {ratio:.2f} times as long; slowest call of the store {slowest_ms:.2f} ms")
    summary = {"rooms": rooms, "messages": rooms * A_ROOM, "ratio": round(ratio, 2), "states": found}
    RESULTS.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if ratio > RATIO_MOST or slowest_ms > SLOWEST_MS else 0


if __name__ == "__main__":
    sys.exit(main())
