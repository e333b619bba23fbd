"""All ledgers of a drill, read once: the offered messages, their lifetimes, and what each client holds and was told."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ledger
from .findings import Findings, client_name
from .tally import Place
from .witness import Entry


@dataclasses.dataclass(slots=True)
class Offer:
    """A message as its sender knows it. `sender`: the index of their ledger; `renewed`: sent again under another id.

    `repeated`: sent again under its id after acceptance, because the store may have lost it.
    """

    sender: int
    room: str
    number: int
    digest: str
    places: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    refused: str = ""
    renewed: bool = False
    repeated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An acknowledgement, handed to a socket at `at` (epoch ms): everything in the epoch up to `seq` is held."""

    epoch: str
    seq: int
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    """A notice to a sender. `told`: the number of recipients to whom it was delivered, according to receipts until then."""

    id: str
    kind: str
    at: int
    told: int
    data: dict[str, Any]


@dataclasses.dataclass(slots=True)
class Book:
    """One client's ledger. `rooms`: {room: entries in the order in which they were taken}; `late`: taken, but not shown.

    `holds` has the entries of `rooms`, and those of logs that were dropped.
    """

    user: int = 0
    name: str = ""
    holds: set[Place] = dataclasses.field(default_factory=set)
    rooms: defaultdict[str, list[Entry]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    late: set[Place] = dataclasses.field(default_factory=set)
    acknowledged: defaultdict[str, list[Acknowledgement]] = dataclasses.field(
        default_factory=lambda: defaultdict(list)
    )
    closed: list[int] = dataclasses.field(default_factory=list)
    notices: list[Notice] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """An accepted message: the id at a place, and the end of its lifetime (epoch ms)."""

    id: str
    expires_at: int


class Books:
    """The ledgers in a folder, in the order of their names. Faults that one ledger shows alone are added to `findings`."""

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.offers: dict[str, Offer] = {}
        self.lives: dict[Place, Life] = {}
        self.clients: list[Book] = []
        self.late_ms: list[int] = []  # of each delivery
        self._findings = findings
        for path in sorted(folder.glob("*.jsonl")):
            self.clients.append(Book())
            for kind, *fields in ledger.read(path):
                read: Callable[..., None] = getattr(self, f"_{kind}")
                read(*fields)

    @property
    def _index(self) -> int:
        return len(self.clients) - 1

    def _me(self, user: int, name: str) -> None:
        self.clients[-1].user, self.clients[-1].name = user, name

    def _offered(self, room: str, message_id: str, number: int, digest: str, _at: int) -> None:
        self.offers[message_id] = Offer(self._index, room, number, digest)

    def _renewed(self, _room: str, message_id: str, _new_id: str) -> None:
        self.offers[message_id].renewed = True

    def _repeated(self, _room: str, message_id: str) -> None:
        self.offers[message_id].repeated = True

    def _accepted(self, room: str, message_id: str, epoch: str, seq: int, expires_at: int) -> None:
        self.offers[message_id].places.add((epoch, seq))
        self._check_life((room, epoch, seq), message_id, expires_at)

    def _refused(self, _room: str, message_id: str, code: str) -> None:
        self.offers[message_id].refused = code

    def _held(
        self, room: str, epoch: str, seq: int, message_id: str, digest: str, late_ms: int, expires_at: int
    ) -> None:
        self.clients[-1].rooms[room].append(Entry(seq, message_id, digest))
        self.clients[-1].holds.add((room, epoch, seq))
        self.late_ms.append(late_ms)
        self._check_life((room, epoch, seq), message_id, expires_at)

    def _late(self, room: str, epoch: str, seq: int, message_id: str, expires_at: int) -> None:
        self.clients[-1].late.add((room, epoch, seq))
        self._check_life((room, epoch, seq), message_id, expires_at)

    def _dropped(self, room: str, _epoch: str) -> None:
        self.clients[-1].rooms.pop(room, None)

    def _acknowledged(self, room: str, epoch: str, seq: int, at: int) -> None:
        self.clients[-1].acknowledged[room].append(Acknowledgement(epoch, seq, at))

    def _closed(self, at: int) -> None:
        self.clients[-1].closed.append(at)

    def _notice(self, notice: str, kind: str, at: int, told: int, data: dict[str, Any]) -> None:
        self.clients[-1].notices.append(Notice(notice, kind, at, told, data))

    def _overclaimed(self, room: str, seq: int, told: int, held: int) -> None:
        text = f"{room} {seq}: a receipt counted {told} when {held} held it"
        self._findings.add("acknowledged_never_held", text)

    def _after_expiry(self, room: str, seq: int, after_ms: int) -> None:
        self._findings.add(
            "after_expiry", f"{client_name(self._index)} in {room}: {seq}, {after_ms} ms after"
        )

    def _before_expiry(self, room: str, seq: int, before_ms: int) -> None:
        self._findings.add(
            "before_expiry", f"{client_name(self._index)} in {room}: {seq}, {before_ms} ms before"
        )

    def _disagreed(self, text: str) -> None:
        self._findings.add("disagreed", f"{client_name(self._index)}: {text}")

    def _check_life(self, place: Place, message_id: str, expires_at: int) -> None:
        """Compare a place and its end with what other ledgers have: no message changes in a drill."""
        known = self.life_at(place, message_id, expires_at)
        if known != Life(message_id, expires_at):
            lives = f"{message_id} until {expires_at}, {known.id} until {known.expires_at}"
            self._findings.add("disagreeing", f"{' '.join(map(str, place))}: {lives}")

    def life_at(self, place: Place, message_id: str, expires_at: int) -> Life:
        """Return the message at a place. An unknown place gets this one."""
        return self.lives.setdefault(place, Life(message_id, expires_at))

    def logs(self) -> dict[str, list[Entry]]:
        """Return {room: entries}, as far as the clients know the log of each room."""
        logs: defaultdict[str, list[Entry]] = defaultdict(list)
        for (room, _, seq), life in sorted(self.lives.items()):
            offer = self.offers.get(life.id)
            logs[room].append(Entry(seq, life.id, offer.digest if offer else ""))
        return dict(logs)
