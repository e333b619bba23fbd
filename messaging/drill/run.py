"""Conduct a drill: start, let everybody talk while lines fail and processes die, wait for quiet, look at who holds what."""

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

GREETED_WITHIN_S = 120.0  # over the same bad lines, with the contract's backoff
LOOK_EVERY_S = 0.2
# Without any change for so long it is over. The longest wait of the recovery is 60 s, and its last word may be lost.
PATIENCE_S = 150.0
PATIENCE_WITHOUT_RECOVERY_S = 12.0
# Short lives: the job comes each minute, found by a scheduler that looks each 30 s, 5 s late, perhaps in a cluster just replaced.
PROCESSED_WITHIN_S = 110.0
RELOAD_EVERY_S = 5.0  # the frame that tells a sender may be lost; a new connection repeats it
AWAY = (
    5  # each how many-th client stays away for longer than a life, but at least two, if one is left to write
)
KILL_AGAIN_AFTER_S = 0.5  # where there was nobody to kill just then
WORDS = ["mañana", "消息", "tomorrow", "naïve", "\U0001f642", "lunch", "ключ", "report", "ok", "then", "fine"]


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a drill is. `phase` is one of: starting, sending, waiting, looking. `missed`: times somebody was named."""

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

    def __init__(self, plan: Plan, instance: Instance, tell: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._instance = instance
        self._tell = tell
        self._dice = random.Random(plan.seed)  # noqa: S311  (to be repeated, not to be secret)
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
        self._began_s = time.monotonic()
        self._phase = "sending"
        self._killed = 0
        self._store_kills: list[int] = []
        self._leaving: set[int] = set()  # who writes no more and stays away until all is told

    async def run(self) -> Report:
        """Run to the end and judge. Raises DrillError when the site cannot be asked any more."""
        async with self._alive():
            await self._until_greeted()
            faults = [*map(self._cut, self._clients), *self._absences()]
            await asyncio.gather(self._offer(), self._kill(), *faults)
            self._phase = "waiting"
            await (self._until_held() if self._plan.ttl is None else self._until_told())
            self._phase = "looking"
            cursors = [] if self._plan.ttl else await self._settled_cursors(await self._logs())
        # Only now nobody can write any more: what was accepted after an earlier look would seem to be lost.
        logs = await self._logs()
        for ledger in self._ledgers:
            ledger.close()
        outcome = Outcome(
            seconds=time.monotonic() - self._began_s,
            killed=self._killed,
            closes={str(code): count for code, count in sorted(self._tally.closes.items())},
            faults=dict(self._faults.done),
            cursors=cursors,
            logs=logs,
            store_kills=self._store_kills,
        )
        return judge(self._plan, self._instance.ledgers, outcome)

    @contextlib.asynccontextmanager
    async def _alive(self) -> AsyncIterator[None]:
        """Let the clients live and the progress be told meanwhile."""
        tasks = [asyncio.create_task(client.live()) for client in self._clients]
        tasks.append(asyncio.create_task(self._tell_for_ever()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(end, Exception):
                    raise end  # a fault of the drill's own, whatever it led to

    async def _tell_for_ever(self) -> None:
        while True:
            self._tell(
                Progress(
                    phase=self._phase,
                    seconds=time.monotonic() - self._began_s,
                    accepted=self._tally.accepted,
                    held=self._tally.held,
                    missed=self._tally.named,
                    connected=sum(client.welcomed for client in self._clients),
                    killed=self._killed,
                    frames_lost=self._faults.done["lost"],
                )
            )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _until_greeted(self) -> None:
        try:
            async with asyncio.timeout(GREETED_WITHIN_S):
                while not all(client.welcomed for client in self._clients):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            let_in = sum(client.welcomed for client in self._clients)
            raise DrillError(
                f"Of the drill's {len(self._clients)} people {let_in} were let in within {GREETED_WITHIN_S:.0f} s"
                f" (connections ended: {dict(self._tally.closes)})."
            ) from None
        self._began_s = time.monotonic()

    # What goes on while they talk

    async def _offer(self) -> None:
        plan = self._plan
        for number in range(plan.messages):
            await self._wait_until(number / plan.messages * plan.seconds)
            writers = [client for client in self._clients if client.user not in self._leaving]
            client = writers[number % len(writers)]
            words = self._dice.choices(WORDS, k=self._dice.randint(1, 20))
            ttl = self._dice.randint(*plan.ttl) if plan.ttl else None
            client.offer(self._dice.choice(self._instance.rooms), f"{number + 1}: {' '.join(words)}", ttl)

    async def _kill(self) -> None:
        dice = random.Random(f"{self._plan.seed} kills")  # noqa: S311
        due = sorted((dice.uniform(0.1, 0.9) * self._plan.seconds, kind) for kind in self._plan.kill)
        for at_s, kind in due:
            await self._wait_until(at_s)
            while not self._instance.kill(kind, dice):  # noqa: ASYNC110  (it is being started again)
                await asyncio.sleep(KILL_AGAIN_AFTER_S)
            self._killed += 1
            if kind == "store":
                self._store_kills.append(now_ms())

    async def _cut(self, client: Client) -> None:
        dice = random.Random(f"{self._plan.seed} cuts {client.user}")  # noqa: S311
        for at_s in sorted(dice.uniform(0, self._plan.seconds) for _ in range(self._plan.cut)):
            await self._wait_until(at_s)
            client.cut()

    def _absences(self) -> Iterator[Coroutine[None, None, None]]:
        """Let some stay away for longer than a life, so that there is somebody to be missed.

        Each second comes back soon, most likely before the job has looked at what he missed; the others stay until all is told.
        """
        if self._plan.ttl is None:
            return
        dice = random.Random(f"{self._plan.seed} absences")  # noqa: S311
        shortest_s, longest_s = self._plan.ttl
        most = min(max(2, len(self._clients) // AWAY), len(self._clients) - 1)
        for index, client in enumerate(dice.sample(self._clients, most)):
            at_s = dice.uniform(0, self._plan.seconds / 2)
            if index % 2:
                yield self._miss_some(client, at_s, dice.uniform(shortest_s + 2, longest_s + 5))
            else:
                yield self._miss_the_rest(client, at_s)

    async def _miss_some(self, client: Client, at_s: float, seconds: float) -> None:
        await self._wait_until(at_s)
        client.go_away()
        asyncio.get_running_loop().call_later(seconds, client.come_back)

    async def _miss_the_rest(self, client: Client, at_s: float) -> None:
        """Go when everything one wrote is accepted, so that nothing is left to be told of in the end."""
        await self._wait_until(at_s)
        self._leaving.add(client.user)
        while client.unsettled:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        client.go_away()

    async def _wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began_s + at_s - time.monotonic()))

    # Quiet

    async def _until_held(self) -> None:
        await self._until_quiet(lambda: (self._tally.accepted, self._tally.held), self._all_held)

    def _all_held(self) -> bool:
        return not self._unsettled and self._tally.held >= self._tally.accepted * len(self._clients)

    @property
    def _unsettled(self) -> bool:
        return any(client.unsettled for client in self._clients)

    async def _until_told(self) -> None:
        """Wait until every life is over and told of; then let those come back who stayed away, and be told of theirs."""
        tally = self._tally
        absent = [client for client in self._clients if client.user in self._leaving]
        reloading = asyncio.create_task(self._reload_for_ever())

        def state() -> object:
            return tally.accepted, tally.held, tally.named, len(tally.ended)

        def back() -> bool:
            return all(client.catch_up(tops) for client in absent)

        try:
            told = await self._until_quiet(
                state, lambda: self._is_over() and not any(tally.unexplained(away=self._leaving))
            )
            tops = tally.tops()
            for client in absent:
                client.come_back()
            await self._until_quiet(state, lambda: back() and not (told and any(tally.unexplained())))
        finally:
            reloading.cancel()

    def _is_over(self) -> bool:
        """Say whether all is accepted, and over: a notice that names somebody falsely comes only then."""
        late = now_ms() > self._tally.last_expires_at + PROCESSED_WITHIN_S * 1000
        return not self._unsettled and (late or self._tally.all_ended())

    async def _reload_for_ever(self) -> None:
        """Let those look again who are connected, and who must have been told of something by now."""
        while True:
            await asyncio.sleep(RELOAD_EVERY_S)
            untold = self._tally.untold(now_ms() - int(PROCESSED_WITHIN_S * 1000))
            for client in self._clients:
                if client.welcomed and not client.unsettled and client.user in untold:
                    client.reload()

    @property
    def _patience_s(self) -> float:
        if self._plan.ttl is None:
            return PATIENCE_S if self._plan.recovery else PATIENCE_WITHOUT_RECOVERY_S
        return self._plan.ttl[1] + (PROCESSED_WITHIN_S if self._plan.worker else PATIENCE_WITHOUT_RECOVERY_S)

    async def _until_quiet(self, state: Callable[[], object], quiet: Callable[[], bool]) -> bool:
        """Wait until it is quiet, or nothing has changed for longer than anything waits; return whether it is quiet."""
        before, changed_s = state(), time.monotonic()
        while not quiet() and time.monotonic() - changed_s < self._patience_s:
            await asyncio.sleep(LOOK_EVERY_S)
            if state() != before:
                before, changed_s = state(), time.monotonic()
        return quiet()

    async def _logs(self) -> dict[str, list[witness.Entry]]:
        """Return what the site has in each room."""
        anybody = self._instance.people[0]
        places = await witness.cursors(self._instance, anybody)
        return {
            room: await witness.room_log(self._instance, anybody, room, place.epoch)
            for room, place in places.items()
        }

    async def _settled_cursors(self, logs: dict[str, list[witness.Entry]]) -> list[dict[str, witness.Cursor]]:
        """Ask for cursors until everybody has acknowledged what he owes, or no cursor moves any more."""
        people = self._instance.people
        found: list[dict[str, witness.Cursor]] = [{} for _ in people]
        changed_s = time.monotonic()
        while time.monotonic() - changed_s < self._patience_s:
            behind = [index for index, person in enumerate(people) if _owes(person.id, found[index], logs)]
            if not behind:
                break
            for index in behind:
                cursors = await witness.cursors(self._instance, people[index])
                if cursors != found[index]:
                    found[index], changed_s = cursors, time.monotonic()
            await asyncio.sleep(LOOK_EVERY_S)
        return found


def _owes(user: int, cursors: dict[str, witness.Cursor], logs: dict[str, list[witness.Entry]]) -> bool:
    """Say whether somebody has not acknowledged a message of another's, or was not asked yet."""
    return not cursors or any(
        entry.seq > cursors[room].delivered and entry.sender != user
        for room, log in logs.items()
        for entry in log
    )


def drill(plan: Plan, tell: Callable[[Progress], None]) -> tuple[Report, Instance]:
    """Run a plan on a site of its own; the ledgers of one that failed are kept. Raises DrillError."""
    tell(Progress("starting"))
    with Instance(plan) as instance:
        try:
            report = asyncio.run(Drill(plan, instance, tell).run())
        except DrillError as fault:
            instance.keep_ledgers = True
            raise DrillError(f"{fault} The site's log is kept in {instance.ledgers}.") from fault
        instance.keep_ledgers = not report.ok
    return report, instance
