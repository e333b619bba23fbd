"""A store that is nearly full: the user who filled it is refused, and the others keep sending."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from messaging.errors import BacklogFull
from messaging.live import store_shares
from messaging.live.store_shares import MESSAGE_BYTES, StoreShares
from messaging.policy import Policy
from messaging.store import Store
from tests.support.clients import Wire, new_id
from tests.support.messages import ADA, GRACE
from tests.support.sites import Site, later, people, room, until

LONG = "x" * 4_000


async def answer(wire: Wire, room_id: str, body: str = "hello") -> str:
    """Send a message; return the type of its answer, or the code of its error."""
    message_id = new_id()
    await wire.send({"type": "send", "id": message_id, "room": room_id, "body": body})
    [answered] = await until(lambda: wire.heard("sent", id=message_id) + wire.heard("error", id=message_id))
    return str(answered.get("code") or answered["type"])


async def test_user_who_fills_the_store_is_refused_while_others_send(
    pooled_site: Callable[..., Site], open_wire: Callable[..., Any]
) -> None:
    site = pooled_site(memory_interval_s=0.02)
    ada, grace = await later(people)("ada", "grace")
    atlas = await later(room)(ada, grace)
    wires = [await open_wire(site, member) for member in (ada, grace)]
    for wire in wires:
        await wire.hello()
        await wire.next("resumed")
    heavy, light = wires
    for _ in range(100):
        assert await answer(heavy, atlas, LONG) == "sent"
    assert await answer(light, atlas) == "sent"
    with redis.Redis(unix_socket_path=str(site.store.socket)) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 200_000)  # of them, each of the two may have sent a half
        try:
            while await answer(heavy, atlas) == "sent":
                pass  # the process has not read the use yet
            assert await answer(heavy, atlas) == "backlog_full"
            [refused, *_] = heavy.heard("error")
            assert (refused["retryable"], refused["retry_after_ms"]) == (True, 5_000)
            assert [await answer(light, atlas, LONG) for _ in range(3)] == ["sent"] * 3
        finally:
            client.config_set("maxmemory", 0)
    while await answer(heavy, atlas) != "sent":
        pass  # the process has not read the new limit yet


class TestShares:
    @pytest.fixture
    def shares(self, store: Store) -> StoreShares:
        return StoreShares(store, Policy())

    async def limit(self, shares: StoreShares, used_part: float) -> None:
        """Set the store's limit so that this part of it is used, and read it."""
        client = shares.store.client
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", int(used / used_part))
        try:
            await shares.check()
        finally:
            await client.config_set("maxmemory", 0)

    async def test_nobody_is_refused_up_to_nine_tenths_and_without_a_limit(self, shares: StoreShares) -> None:
        shares.count(ADA, "x" * 10**7)
        await self.limit(shares, 0.85)
        shares.require(ADA)
        await self.limit(shares, 0.95)
        with pytest.raises(BacklogFull):
            shares.require(ADA)
        shares.require(GRACE)
        await shares.check()
        shares.require(ADA)

    async def test_users_have_equal_shares_of_the_memory_that_is_left(self, shares: StoreShares) -> None:
        await shares.store.client.set("filler", b"x" * 20_000_000)  # other use is then a small part
        for user in range(10):
            shares.count(user, "hello")
        await self.limit(shares, 0.95)
        used = (await shares.store.stats.memory()).used
        assert shares.share_bytes == pytest.approx(used * 0.05 / 0.95 / 10, rel=0.2)
        await self.limit(shares, 1.5)
        assert shares.share_bytes == 0

    async def test_bytes_of_two_periods_count_and_are_then_forgotten(
        self, shares: StoreShares, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares.count(ADA, "é" * 100)
        assert shares._sent == {ADA: MESSAGE_BYTES + 200}
        shares._sent[ADA] = 10**9
        for refused in (True, False):
            shares._period_began_s -= store_shares.PERIOD_S
            await self.limit(shares, 0.95)
            assert time.monotonic() - shares._period_began_s < store_shares.PERIOD_S
            if refused:
                with pytest.raises(BacklogFull):
                    shares.require(ADA)
            else:
                shares.require(ADA)
        assert shares._sent == shares._sent_before == {}
