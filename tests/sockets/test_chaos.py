"""Sockets cut at random, server and store killed with -9 in the middle: nothing accepted is lost, doubled or out of order.

`CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.clients import Client
from tests.support.sites import Site, later, people, room, until

CLIENTS, ROOMS, MESSAGES = 10, 3, 1_000
CUTS = 25
QUIET_WITHIN_S = 40.0
MAX_BACKOFF_S = 1.0  # the contract's 30 s would only make the test longer

Open = Callable[..., Any]


async def offer(
    clients: Sequence[Client], rooms: Sequence[str], rng: random.Random, ids: list[tuple[str, str]]
) -> None:
    """Write at random for about eight seconds, during all faults. `ids`: (room, message id) of each message."""
    for number in range(MESSAGES):
        room_id = rng.choice(rooms)
        ids.append((room_id, rng.choice(clients).offer(room_id, f"{number}")))
        await asyncio.sleep(rng.uniform(0, 0.016))


async def cut(clients: Sequence[Client], rng: random.Random) -> None:
    for _ in range(CUTS):
        await asyncio.sleep(rng.uniform(0, 0.6))
        rng.choice(clients).cut()


async def kill(site: Site, rng: random.Random) -> None:
    parts = [site.restart_server, site.restart_store]
    rng.shuffle(parts)
    for part in parts:
        await asyncio.sleep(rng.uniform(0.5, 3))
        await part()


def unfinished(clients: Sequence[Client], rooms: Sequence[str], ids: Sequence[tuple[str, str]]) -> str:
    """Return a sentence about a missing message; '' when each client holds every message."""
    waiting = sum(client.unsettled for client in clients)
    if waiting:
        return f"{waiting} messages are not answered"
    wanted = Counter(room_id for room_id, _ in ids)
    for number, client in enumerate(clients):
        for room_id in rooms:
            held = len(client.logs[room_id].held) if room_id in client.logs else 0
            if held < wanted[room_id]:
                return f"client {number} holds {held} of {wanted[room_id]} in {room_id}"
    return ""


async def test_every_accepted_message_reaches_everybody_once_and_in_order(
    new_site: Open, open_client: Open
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    rng = random.Random(seed)
    site = new_site(position_interval_s=2.0, rate_limit_scale=10.0)
    members = await later(people)(*(f"person{n}" for n in range(CLIENTS)))
    rooms = [await later(room)(*members, name=f"room{n}") for n in range(ROOMS)]
    clients = [
        open_client(site, member, max_backoff_s=MAX_BACKOFF_S, rng=random.Random(rng.random()))
        for member in members
    ]
    await until(lambda: all(client.welcomed and len(client.logs) == ROOMS for client in clients))

    ids: list[tuple[str, str]] = []
    await asyncio.gather(
        offer(clients, rooms, random.Random(rng.random()), ids),
        cut(clients, random.Random(rng.random())),
        kill(site, random.Random(rng.random())),
    )
    ends_s = time.monotonic() + QUIET_WITHIN_S
    while missing := unfinished(clients, rooms, ids):
        assert time.monotonic() < ends_s, f"seed {seed}: {missing}"
        await asyncio.sleep(0.05)

    accepted = {message_id: place for client in clients for message_id, place in client.accepted.items()}
    assert accepted.keys() == {message_id for _, message_id in ids}, seed
    assert [client.refused for client in clients] == [{}] * CLIENTS, seed
    assert [client.disagreed for client in clients] == [[]] * CLIENTS, seed
    for room_id in rooms:
        expected = sorted(
            (accepted[message_id][1], message_id) for sent_in, message_id in ids if sent_in == room_id
        )
        for client in clients:
            held = [(message["seq"], message["id"]) for message in client.logs[room_id].held]
            assert held == expected, f"seed {seed}"
    for client in clients:  # in the order in which each person sent them
        for room_id in rooms:
            own = [int(m["body"]) for m in client.logs[room_id].held if m["id"] in client.accepted]
            assert own == sorted(own), f"seed {seed}"
    assert sum(client.connections for client in clients) >= 2 * CLIENTS  # the kill alone
