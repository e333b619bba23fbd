"""Run a drill: start a site, send messages while connections fail and processes are killed, wait for the end, and judge."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

from . import witness
from .client import Client
from .faults import Faults
from .instance import Instance
from .ledger import Ledger, now_ms
from .plan import DrillError, Plan
from .report import Outcome, Report, judge
from .tally import Tally

WELCOME_TIMEOUT_S = 120.0  # over the same unreliable connections, with the backoff of the contract
POLL_INTERVAL_S = 0.2
# The drill is over after this time without a change. The longest wait of the recovery is 60 s, and its last frame may be lost.
IDLE_TIMEOUT_S = 150.0
IDLE_TIMEOUT_WITHOUT_RECOVERY_S = 12.0
# Short lifetimes: the job runs every minute. Its scheduler checks every 30 s, 5 s late, perhaps in a cluster that was just replaced.
PROCESSING_TIMEOUT_S = 110.0
RELOAD_INTERVAL_S = 5.0  # the frame with a notice may be lost; a new connection repeats it
# One of this number of clients is offline for longer than a lifetime; at least two are, if one is left to write.
CLIENTS_PER_ABSENCE = 5
KILL_RETRY_S = 0.5  # when no such process was running
WORDS = ["mañana", "消息", "tomorrow", "naïve", "\U0001f642", "lunch", "ключ", "report", "ok", "then", "fine"]


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a drill. `phase` is starting, sending, waiting or looking; `missed` counts named recipients."""

    phase: str
    seconds: float = 0.0
    accepted: int = 0
    held: int = 0
    missed: int = 0
    connected: int = 0
    killed: int = 0
    frames_lost: int = 0


class Drill:
    """One run of a plan on an instance."""

    def __init__(self, plan: Plan, instance: Instance, show: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._instance = instance
        self._show = show
        self._rng = random.Random(plan.seed)  # noqa: S311  (repeatable, not secret)
        self._faults = Faults(plan, random.Random(f"{plan.seed} lines"))  # noqa: S311
        self._tally = Tally(recipients=plan.clients - 1, short=plan.ttl is not None)
        self._ledgers = [Ledger(instance.ledgers / f"{index + 1:03}.jsonl") for index in range(plan.clients)]
        self._clients = [
            Client(
                instance.url,
                user=person.id,
                cookie=person.cookie,
                origin=instance.origin,
                ledger=ledger,
                faults=self._faults,
                tally=self._tally,
            )
            for person, ledger in zip(instance.people, self._ledgers, strict=True)
        ]
        self._started_s = time.monotonic()
        self._phase = "sending"
        self._killed = 0
        self._store_kills: list[int] = []
        self._leaving: set[int] = set()  # users who write no more and are offline until the end

    async def run(self) -> Report:
        """Run to the end and judge. Raises DrillError when the site no longer answers."""
        async with self._connected():
            await self._until_welcomed()
            faults = [*map(self._cut, self._clients), *self._absences()]
            await asyncio.gather(self._offer(), self._kill(), *faults)
            self._phase = "waiting"
            await (self._until_held() if self._plan.ttl is None else self._until_explained())
            self._phase = "looking"
            cursors = [] if self._plan.ttl else await self._settled_cursors(await self._logs())
        # No client writes now. A message accepted after an earlier read would appear to be lost.
        logs = await self._logs()
        for ledger in self._ledgers:
            ledger.close()
        outcome = Outcome(
            seconds=time.monotonic() - self._started_s,
            killed=self._killed,
            closes={str(code): count for code, count in sorted(self._tally.closes.items())},
            faults=dict(self._faults.counts),
            cursors=cursors,
            logs=logs,
            store_kills=self._store_kills,
        )
        return judge(self._plan, self._instance.ledgers, outcome)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        """Keep the clients running, and show the progress."""
        tasks = [asyncio.create_task(client.live()) for client in self._clients]
        tasks.append(asyncio.create_task(self._show_progress_forever()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result  # an error in the drill

    async def _show_progress_forever(self) -> None:
        while True:
            self._show(
                Progress(
                    phase=self._phase,
                    seconds=time.monotonic() - self._started_s,
                    accepted=self._tally.accepted,
                    held=self._tally.held,
                    missed=self._tally.named,
                    connected=sum(client.welcomed for client in self._clients),
                    killed=self._killed,
                    frames_lost=self._faults.counts["lost"],
                )
            )
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _until_welcomed(self) -> None:
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                while not all(client.welcomed for client in self._clients):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            welcomed = sum(client.welcomed for client in self._clients)
            raise DrillError(
                f"Only {welcomed} of {len(self._clients)} clients were connected within {WELCOME_TIMEOUT_S:.0f} s"
                f" (connections ended: {dict(self._tally.closes)})."
            ) from None
        self._started_s = time.monotonic()

    # The events while messages are sent

    async def _offer(self) -> None:
        plan = self._plan
        for number in range(plan.messages):
            await self._wait_until(number / plan.messages * plan.seconds)
            writers = [client for client in self._clients if client.user not in self._leaving]
            client = writers[number % len(writers)]
            words = self._rng.choices(WORDS, k=self._rng.randint(1, 20))
            ttl = self._rng.randint(*plan.ttl) if plan.ttl else None
            client.offer(self._rng.choice(self._instance.rooms), f"{number + 1}: {' '.join(words)}", ttl)

    async def _kill(self) -> None:
        rng = random.Random(f"{self._plan.seed} kills")  # noqa: S311
        due = sorted((rng.uniform(0.1, 0.9) * self._plan.seconds, kind) for kind in self._plan.kill)
        for at_s, kind in due:
            await self._wait_until(at_s)
            while not self._instance.kill(kind, rng):  # noqa: ASYNC110  (it is restarting)
                await asyncio.sleep(KILL_RETRY_S)
            self._killed += 1
            if kind == "store":
                self._store_kills.append(now_ms())

    async def _cut(self, client: Client) -> None:
        rng = random.Random(f"{self._plan.seed} cuts {client.user}")  # noqa: S311
        for at_s in sorted(rng.uniform(0, self._plan.seconds) for _ in range(self._plan.cut)):
            await self._wait_until(at_s)
            client.cut()

    def _absences(self) -> Iterator[Coroutine[None, None, None]]:
        """Keep some clients offline for longer than a lifetime, so that messages are missed.

        Half of them return soon, usually before the job has processed the missed messages. The others return at the end.
        """
        if self._plan.ttl is None:
            return
        rng = random.Random(f"{self._plan.seed} absences")  # noqa: S311
        shortest_s, longest_s = self._plan.ttl
        count = min(max(2, len(self._clients) // CLIENTS_PER_ABSENCE), len(self._clients) - 1)
        for index, client in enumerate(rng.sample(self._clients, count)):
            at_s = rng.uniform(0, self._plan.seconds / 2)
            if index % 2:
                yield self._miss_for(client, at_s, rng.uniform(shortest_s + 2, longest_s + 5))
            else:
                yield self._miss_until_end(client, at_s)

    async def _miss_for(self, client: Client, at_s: float, seconds: float) -> None:
        await self._wait_until(at_s)
        client.go_away()
        asyncio.get_running_loop().call_later(seconds, client.come_back)

    async def _miss_until_end(self, client: Client, at_s: float) -> None:
        """Go offline when all own messages are accepted, so that no notice is open at the end."""
        await self._wait_until(at_s)
        self._leaving.add(client.user)
        while client.unsettled:  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)
        client.go_away()

    async def _wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._started_s + at_s - time.monotonic()))

    # The end

    async def _until_held(self) -> None:
        await self._wait_for(lambda: (self._tally.accepted, self._tally.held), self._all_held)

    def _all_held(self) -> bool:
        return not self._unsettled and self._tally.held >= self._tally.accepted * len(self._clients)

    @property
    def _unsettled(self) -> bool:
        return any(client.unsettled for client in self._clients)

    async def _until_explained(self) -> None:
        """Wait until every message has expired and is explained. Then reconnect the absent clients, and wait for theirs."""
        tally = self._tally
        absent = [client for client in self._clients if client.user in self._leaving]
        reloading = asyncio.create_task(self._reload_forever())

        def state() -> object:
            return tally.accepted, tally.held, tally.named, len(tally.ended)

        def caught_up() -> bool:
            return all(client.catch_up(tops) for client in absent)

        try:
            explained = await self._wait_for(
                state, lambda: self._has_ended() and not any(tally.unexplained(away=self._leaving))
            )
            tops = tally.tops()
            for client in absent:
                client.come_back()
            await self._wait_for(state, lambda: caught_up() and not (explained and any(tally.unexplained())))
        finally:
            reloading.cancel()

    def _has_ended(self) -> bool:
        """Return whether all messages are accepted and expired: wrong notices can arrive until then."""
        late = now_ms() > self._tally.last_expires_at + PROCESSING_TIMEOUT_S * 1000
        return not self._unsettled and (late or self._tally.all_ended())

    async def _reload_forever(self) -> None:
        """Reload connected clients whose notices should have arrived by now."""
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            untold = self._tally.untold(now_ms() - int(PROCESSING_TIMEOUT_S * 1000))
            for client in self._clients:
                if client.welcomed and not client.unsettled and client.user in untold:
                    client.reload()

    @property
    def _idle_timeout_s(self) -> float:
        if self._plan.ttl is None:
            return IDLE_TIMEOUT_S if self._plan.recovery else IDLE_TIMEOUT_WITHOUT_RECOVERY_S
        return self._plan.ttl[1] + (
            PROCESSING_TIMEOUT_S if self._plan.worker else IDLE_TIMEOUT_WITHOUT_RECOVERY_S
        )

    async def _wait_for(self, state: Callable[[], object], condition: Callable[[], bool]) -> bool:
        """Wait for `condition`, or until `state` has not changed for the idle timeout; return the condition."""
        before, changed_s = state(), time.monotonic()
        while not condition() and time.monotonic() - changed_s < self._idle_timeout_s:
            await asyncio.sleep(POLL_INTERVAL_S)
            if state() != before:
                before, changed_s = state(), time.monotonic()
        return condition()

    async def _logs(self) -> dict[str, list[witness.Entry]]:
        """Return {room: log of the site}."""
        person = self._instance.people[0]
        cursors = await witness.cursors(self._instance, person)
        return {
            room: await witness.room_log(self._instance, person, room, cursor.epoch)
            for room, cursor in cursors.items()
        }

    async def _settled_cursors(self, logs: dict[str, list[witness.Entry]]) -> list[dict[str, witness.Cursor]]:
        """Read cursors until every client has acknowledged all messages, or no cursor changes any more."""
        people = self._instance.people
        settled: list[dict[str, witness.Cursor]] = [{} for _ in people]
        changed_s = time.monotonic()
        while time.monotonic() - changed_s < self._idle_timeout_s:
            unsettled = [
                index for index, person in enumerate(people) if _is_unsettled(person.id, settled[index], logs)
            ]
            if not unsettled:
                break
            for index in unsettled:
                cursors = await witness.cursors(self._instance, people[index])
                if cursors != settled[index]:
                    settled[index], changed_s = cursors, time.monotonic()
            await asyncio.sleep(POLL_INTERVAL_S)
        return settled


def _is_unsettled(
    user: int, cursors: dict[str, witness.Cursor], logs: dict[str, list[witness.Entry]]
) -> bool:
    """Return whether a user has not acknowledged a message of others, or their cursors were not read yet."""
    return not cursors or any(
        entry.seq > cursors[room].delivered and entry.sender != user
        for room, log in logs.items()
        for entry in log
    )


def drill(plan: Plan, show: Callable[[Progress], None]) -> tuple[Report, Instance]:
    """Run a plan on a separate site. The ledgers of a failed drill are kept. Raises DrillError."""
    show(Progress("starting"))
    with Instance(plan) as instance:
        try:
            report = asyncio.run(Drill(plan, instance, show).run())
        except DrillError as error:
            instance.keep_ledgers = True
            raise DrillError(f"{error} The log of the site is kept in {instance.ledgers}.") from error
        instance.keep_ledgers = not report.ok
    return report, instance
