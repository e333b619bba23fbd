"""The cost of a message for the store: bytes while it lives, bytes of its remembered id, and time with all acknowledgements.

`python -m bench.parts.costs live|ids` prints bytes for each message; it is a command of a site, whose store is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from bench.parts.stress import Start, reliable
from bench.processes import GENERATOR_CORE, CannotMeasure, on_core
from bench.report.results import median
from bench.scenarios import Scenario, load
from bench.starting import Running, store_on
from bench.systems import ROOT, site_env

ROOMS, A_ROOM = 20, 1_000
AT_ONCE = 5  # rooms that expire together: ids outnumber what lives, and the store's tables are sized by them
LATE_S = 6.0  # the job looks 5 s after the end
CROWD = "1x50"
RATES = (50, 200, 1_000)  # messages a second: from where each call comes alone to where they come together
ACKED = {
    rate: Scenario(name="acked", title=f"a room of 50, {rate} messages a second", crowd=CROWD, rate=rate)
    for rate in RATES
}
FIRST_S, COUNTED_S, LAST_S = 1.0, 4.0, 0.5  # after the first part everybody has connected
LOOK_S = 0.05
# Work that is the same for every call and touches nothing of the product's: what it takes at a rate is what the processor makes of it.
FIXED_CALLS = 200
FIXED_KEYS = ("bench:hash", "bench:zset", "bench:string")
FIXED_WORK = """
local call, one = redis.call, ARGV[1]
call('TIME') call('HMGET', KEYS[1], 'a', 'b') call('ZSCORE', KEYS[2], one) call('GET', KEYS[3])
call('HSET', KEYS[1], 'a', one) call('PEXPIREAT', KEYS[1], 4e12) call('ZADD', KEYS[2], one, one) call('SET', KEYS[3], one, 'PX', 1e6)
call('ZADD', KEYS[2], 'XX', 'GT', one, one) call('PUBLISH', KEYS[3], one) call('HINCRBY', KEYS[1], 'b', 1)
"""


def memory(site: Path) -> dict[str, Any]:
    """Measure each on a separate store: bytes of Redis for a live message of 100 B, and for the id of an expired one."""
    return {f"{kind}_bytes": _bytes(site, kind) for kind in ("live", "ids")}


def _bytes(site: Path, kind: str) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder_name:
        folder = Path(folder_name)
        shutil.copytree(site, folder / "site")
        with store_on(folder / "store") as (_, path):
            command = on_core(GENERATOR_CORE, [sys.executable, "-m", "bench.parts.costs", kind])
            env = site_env(folder / "site", f"unix://{path}")
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"bytes of {kind}: {done.stderr[-300:].strip()}")
    return float(json.loads(done.stdout))


async def _measure(kind: str) -> float:
    from bench.fill.rooms import fill, members_of
    from messaging.policy import Policy
    from messaging.store import Store, connections

    store = Store(connections.async_client(), Policy(), members_of=members_of)
    await store.scripts.known()
    before = await _used(store.client)
    if kind == "live":
        await fill(store, range(ROOMS), each=A_ROOM)
    else:
        for first in range(0, ROOMS, AT_ONCE):
            await fill(store, range(first, first + AT_ONCE), each=A_ROOM, ttl_ms=1)
            await asyncio.sleep(LATE_S)
            await _expire(store)
    used = await _used(store.client) - before
    await connections.close()
    return round(used / (ROOMS * A_ROOM), 1)


async def _expire(store: Any) -> None:
    """Clear what is over. Raises CannotMeasure where something is left."""
    from messaging import expiry

    while (await expiry.process(expiry.ExpiryOptions())).expired:
        pass
    if left := sum(await store.scripts.pipeline([("ZCARD", f"chat:{{{n}}}:expiring") for n in range(ROOMS)])):
        raise CannotMeasure(f"{left} messages were not cleared")
    claims = [key async for key in store.client.scan_iter(match="*:claim:*", count=1_000)]
    if claims:
        await store.client.delete(*claims)  # they end with their lease; no id is in them


async def _used(client: Any) -> int:
    """Return the bytes that the store's data takes: not its buffers, not its log's."""
    info = await client.info("memory")
    buffers = ("mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer")
    return int(info["used_memory"]) - sum(int(info.get(name, 0)) for name in buffers)


def acks(start: Start, crowds: dict[str, Any], *, repeats: int, quick: bool) -> dict[str, Any]:
    """Count the store's time for a message in a room of 50: scripts for it, for its acknowledgements and receipts.

    The times are from COMMANDSTATS, between two moments while clients talk, so the cost of 50 connecting clients is not included. The
    time of a script includes the commands that it calls.
    """
    found: dict[int, list[dict[str, float]]] = {rate: [] for rate in RATES}
    with (
        start() as system,
        contextlib.closing(redis.Redis(unix_socket_path=str(system.store_socket))) as store,
    ):
        reliable(load(system, ACKED[RATES[0]], crowds[CROWD], seconds=FIRST_S))  # makes the room
        [key] = store.scan_iter(match=f"*:room:{crowds[CROWD][0]['id']}", count=1_000)
        for _ in range(repeats):
            for rate in RATES:
                sending = _Sending(system, rate, crowds[CROWD], store, key)
                found[rate].append(sending.cost_us())
        in_a_row_us = _fixed_work_us(store)
        slower = {rate: round(_fixed_work_us(store, rate) / in_a_row_us, 1) for rate in RATES}
    return {
        "members": 50,
        "rows": [
            {
                "rate": rate,
                **{what: median([one[what] for one in ones], 0) for what in ("scripts_us", "cpu_us")},
                "fixed_work_slower": slower[rate],
            }
            for rate, ones in found.items()
        ],
    }


def _fixed_work_us(store: redis.Redis, rate: float = 0) -> float:
    """Return the store's time for a call of fixed work, at `rate` calls a second, or in a row."""
    store.config_resetstat()
    for at in range(FIXED_CALLS):
        store.eval(FIXED_WORK, len(FIXED_KEYS), *FIXED_KEYS, at)
        if rate:
            time.sleep(1 / rate)
    stats: Any = store.info("commandstats")
    store.delete(*FIXED_KEYS)
    return float(stats["cmdstat_eval"]["usec_per_call"])


@dataclasses.dataclass(slots=True)
class _Sending:
    """Messages on their way into a room, and the store as it takes them."""

    system: Running
    rate: int
    rooms: list[dict[str, Any]]
    store: redis.Redis
    key: bytes  # of the room

    def cost_us(self) -> dict[str, float]:
        with ThreadPoolExecutor(1) as pool:
            begun = self._stored()
            seconds = FIRST_S + COUNTED_S + LAST_S
            sending = pool.submit(load, self.system, ACKED[self.rate], self.rooms, seconds=seconds)
            before = self._so_far(sending, begun + self.rate * FIRST_S)
            after = self._so_far(sending, before["messages"] + self.rate * COUNTED_S)
            reliable(sending.result())
        used = {what: after[what] - before[what] for what in after}
        return {what: used[what] / used["messages"] for what in ("scripts_us", "cpu_us")}

    def _stored(self) -> int:
        """Return the number of the room's newest message."""
        return int(self.store.hget(self.key, "top") or 0)

    def _so_far(self, sending: Future[Any], messages: float) -> dict[str, float]:
        """Wait until this number of messages is stored; return the store's work until then."""
        while (stored := self._stored()) < messages:
            if sending.done():
                raise CannotMeasure(
                    f"{stored} messages came of {messages:.0f}: {sending.exception() or 'too slow'}"
                )
            time.sleep(LOOK_S)
        stats: Any = self.store.info("commandstats")
        cpu: Any = self.store.info("cpu")
        return {
            "messages": stored,
            "scripts_us": stats.get("cmdstat_evalsha", {}).get("usec", 0),
            "cpu_us": 1e6 * (cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]),
        }


def say(name: str, found: dict[str, Any]) -> str:
    """Return what was found as a sentence."""
    if name == "memory":
        return (
            f"A live message of 100 B takes {found['live_bytes']:.0f} B of Redis with all its indexes, the remembered id of"
            f" an expired one {found['ids_bytes']:.0f} B."
        )
    rows = "; ".join(
        f"at {row['rate']:,} messages per second {row['scripts_us']:.0f} us ({row['cpu_us']:.0f} us of its processor time)"
        for row in found["rows"]
    )
    slower = ", ".join(f"{row['fixed_work_slower']}" for row in found["rows"])
    return (
        f"In a room of {found['members']} the store's scripts worked per message, with all acknowledgements and receipts,"
        f" {rows}. A script of fixed work took {slower} times as long at these rates as in a row."
    )


SHAPES = {"memory": (), "acks": (CROWD,)}


def main(kind: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    import django

    django.setup()
    print(asyncio.run(_measure(kind)))


if __name__ == "__main__":
    main(sys.argv[1])
