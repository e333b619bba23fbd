"""Clients that chat while faults happen, and a board that shows which messages still wait for whom."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

from messaging.drill.client import TIMING, Client
from messaging.drill.faults import Faults
from messaging.drill.ledger import Ledger, now_ms
from messaging.drill.line import Frame
from messaging.drill.outbox import Item
from messaging.drill.plan import Plan
from messaging.drill.protocol import Log
from messaging.drill.tally import Tally

from .cluster import Cluster, eventually

LONG_S = 3_600  # a life that does not end in a scenario
RATE = 12.0  # messages a second, of all clients together
MAX_BACKOFF_S = 4.0
WELCOME_WITHIN_S = 60.0
ABSENT = 2  # of the clients: they only read, and are away for longer than a short life
CUT = 3  # of the clients: their connections are cut now and then
WORDS = ["mañana", "消息", "tomorrow", "naïve", "lunch", "ключ", "report", "ok", "then", "fine"]


@dataclasses.dataclass(slots=True)
class Known:
    """An accepted message. `explained`: the users who hold it or were named to its sender."""

    sender: int
    expires_at: int
    explained: set[int] = dataclasses.field(default_factory=set)


class Board:
    """All that the clients of one run know together, in memory. The judge does not use it."""

    def __init__(self, users: set[int]) -> None:
        self.users = users
        self.messages: dict[str, Known] = {}
        self.offered_at: dict[str, int] = {}
        self.events: list[tuple[int, int]] = []  # a message was sent at, and was accepted or held at
        self._early: defaultdict[str, set[int]] = defaultdict(set)  # explained before `accepted` came

    def accepted(self, message_id: str, sender: int, expires_at: int) -> None:
        known = self.messages.get(message_id)
        if known is None:
            known = self.messages[message_id] = Known(sender, expires_at)
            known.explained |= {sender} | self._early.pop(message_id, set())
        known.expires_at = max(known.expires_at, expires_at)

    def explain(self, message_id: str, users: Iterator[int] | list[int]) -> None:
        known = self.messages.get(message_id)
        (known.explained if known else self._early[message_id]).update(users)

    def waiting(self, away: set[int]) -> bool:
        """Return whether a message waits for somebody: a living one for users who are not away, any that is about to end for all."""
        soon_ms = now_ms() + (LONG_S // 2) * 1000
        for known in self.messages.values():
            missing = self.users - known.explained
            if missing and (known.expires_at < soon_ms or missing - away):
                return True
        return False

    def last_end(self) -> int:
        """Return when the last message of a short life ends (epoch ms)."""
        soon_ms = now_ms() + (LONG_S // 2) * 1000
        ends = [known.expires_at for known in self.messages.values() if known.expires_at < soon_ms]
        return max(ends, default=0)

    def repair_ms(self, since_ms: int, upto_ms: int) -> int:
        """Return how long after a fault's end the last message from before its end was accepted or shown."""
        return max(
            (at - since_ms for sent_at, at in self.events if sent_at <= since_ms < at <= upto_ms), default=0
        )


class Chatter(Client):
    """A client of the drill that reports to the board."""

    board: Board
    absent = False

    def close(self) -> None:
        """Write no more."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        self._ledger.close()

    def _record_offered(self, room: str, item: Item, old: Item | None) -> None:
        super()._record_offered(room, item, old)
        self.board.offered_at[item.id] = now_ms()

    def _record_accepted(self, room: str, epoch: str, own: Frame) -> None:
        super()._record_accepted(room, epoch, own)
        self.board.accepted(own["id"], self.user, own["expires_at"])
        self.board.events.append((self.board.offered_at[own["id"]], now_ms()))

    def _record_held(self, log: Log, message: Frame) -> None:
        super()._record_held(log, message)
        self.board.accepted(message["id"], message["from"]["id"], message["expires_at"])
        if message["seq"] not in log.late[-1:]:
            self.board.explain(message["id"], [self.user])
            if not self.absent:
                self.board.events.append((message["sent_at"], now_ms()))

    def _on_notice(self, frame: Frame) -> None:
        super()._on_notice(frame)
        if not frame["dismissed"] and frame["kind"] == "undelivered":
            data = frame["data"]
            self.board.explain(data["id"], [missing["user"] for missing in data["missing"]])


class Load:
    """The clients of a run. `lives`: shortest and longest life of the messages with a short life; `share`: of all."""

    def __init__(
        self,
        cluster: Cluster,
        seed: str,
        *,
        lives: tuple[int, int],
        share: float,
        absent: int,
        calm: bool,
        frames: Plan,
    ) -> None:
        self.cluster = cluster
        self.calm = calm
        self.frames = frames
        self.rng = random.Random(f"{seed} load")
        self.lives = lives
        self.share = share
        rows = cluster.rows
        self.board = Board({person.id for person in rows.clients})
        self.tally = Tally(recipients=len(rows.clients) - 1, short=True)
        self.clients = [self._client(index, seed) for index in range(len(rows.clients))]
        self.absent = self.clients[len(self.clients) - absent :]
        for client in self.absent:
            client.absent = True
        self.writers = self.clients[: len(self.clients) - absent]
        self.paused = False
        self._ledgers: list[Ledger]

    def _client(self, index: int, seed: str) -> Chatter:
        person = self.cluster.rows.clients[index]
        server = self.cluster.servers[index % len(self.cluster.servers)]
        ledger = Ledger(self.cluster.ledgers / f"{index + 1:03}.jsonl")
        client = Chatter(
            server.address,
            user=person.id,
            cookie=person.cookie,
            origin=server.origin,
            ledger=ledger,
            faults=Faults(self.frames, random.Random(f"{seed} client {index}")),
            tally=self.tally,
            timing=dataclasses.replace(TIMING, max_backoff_s=MAX_BACKOFF_S),
        )
        client.board = self.board
        return client

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Let the clients live. At the end their ledgers are complete."""
        tasks = [asyncio.create_task(client.live()) for client in self.clients]
        try:
            welcomed = await eventually(
                lambda: all(client.welcomed for client in self.clients), within_s=WELCOME_WITHIN_S
            )
            assert welcomed, "the clients were not welcomed"
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for client in self.clients:
                client.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def run(self, seconds: float) -> None:
        """Chat for some seconds, with cuts and absences."""
        ends_s = time.monotonic() + seconds
        cut = [] if self.calm else self.writers[:CUT]
        tasks = [asyncio.create_task(self._cut_forever(client)) for client in cut]
        for client in self.absent[:1]:
            client.go_away()
        tasks += [asyncio.create_task(self._miss(client)) for client in self.absent[1:]]
        try:
            while time.monotonic() < ends_s:
                await asyncio.sleep(self.rng.expovariate(RATE))
                if not self.paused:
                    self.say()
        finally:
            for task in tasks:
                task.cancel()

    def say(self, ttl: int | None = None) -> str:
        """Let some client write something; return the id."""
        if ttl is None:
            ttl = self.rng.randint(*self.lives) if self.rng.random() < self.share else LONG_S
        body = " ".join(self.rng.choices(WORDS, k=self.rng.randint(1, 12)))
        return self.rng.choice(self.writers).offer(self.rng.choice(self.cluster.rows.rooms), body, ttl)

    async def _cut_forever(self, client: Chatter) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(4.0, 9.0))
            client.cut()

    async def _miss(self, client: Chatter) -> None:
        """Go offline for longer than a short life, now and then."""
        while True:
            await asyncio.sleep(self.rng.uniform(1.0, 3.0))
            client.go_away()
            await asyncio.sleep(self.rng.uniform(11.0, 14.0))
            client.come_back()

    @property
    def _unsettled(self) -> bool:
        return any(client.unsettled for client in self.clients)

    async def settle(self, patience_s: float) -> bool:
        """Wait until all messages are explained, at most `patience_s` after the last end of a short life."""
        for client in self.absent[1:]:
            client.come_back()
        away = {client.user for client in self.absent[:1]}
        await self._until_explained(away, patience_s)
        for client in self.absent[:1]:
            client.come_back()
        return await self._until_explained(set(), patience_s)

    async def _until_explained(self, away: set[int], patience_s: float) -> bool:
        started_ms = now_ms()
        while self._unsettled or self.board.waiting(away):
            if now_ms() > max(started_ms, self.board.last_end()) + patience_s * 1000:
                return False
            await asyncio.sleep(0.2)
        return True
