"""Time as an argument: a store whose clock a test moves forward. Its scripts read TIME plus what was let pass; nothing waits.

Redis deletes keys with a time to live by its own clock, so `let_pass` also shortens their time to live.
"""

from __future__ import annotations

import re
import time

import pytest

from messaging.store import Store, scripts
from messaging.store.calls import Calls

AHEAD = "test:ahead_s"
_TIME = re.compile(r"(?:redis\.)?call\('TIME'\)")
_MOVED = f"{{redis.call('TIME')[1] + (redis.call('GET', '{AHEAD}') or 0), redis.call('TIME')[2]}}"


def move_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every store of this test have a clock that `let_pass` moves."""

    async def now_ms(self: Calls) -> int:
        [(seconds, microseconds), ahead] = await self.scripts.pipeline([("TIME",), ("GET", AHEAD)])
        return (int(seconds) + int(ahead or 0)) * 1000 + int(microseconds) // 1000

    texts = {name: _TIME.sub(_MOVED, text) for name, text in scripts._TEXTS.items()}
    assert texts != scripts._TEXTS
    monkeypatch.setattr(scripts, "_TEXTS", texts)
    monkeypatch.setattr(Calls, "now_ms", now_ms)


async def let_pass(store: Store, seconds: int) -> int:
    """Move the clock of an emptied store forward; return how far ahead of this machine's it is, in seconds."""
    client = store.client
    ahead_s = int(await client.incrby(AHEAD, seconds))
    now_ms = round((time.time() + ahead_s) * 1000)
    for key in [key async for key in client.scan_iter("chat:{*")]:
        ends_at = await client.pexpiretime(key)
        if ends_at < 0:
            continue
        if (
            b":msg:" in key
        ):  # until a time of the moved clock; the others live so long from when they were written
            if ends_at <= now_ms:
                await client.delete(key)
        else:
            await client.pexpireat(key, max(1, ends_at - seconds * 1000))
    return ahead_s
