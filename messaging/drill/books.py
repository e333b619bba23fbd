"""All ledgers of a drill, read once: what was offered, what lived how long, what each client says that he holds and was told."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ledger
from .findings import Findings, who
from .tally import Place
from .witness import Entry


@dataclasses.dataclass(slots=True)
class Offer:
    """What a sender knows of his message. `sender`: the index of his ledger; `renewed`: it went again under another id."""

    sender: int
    room: str
    number: int
    digest: str
    places: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    refused: str = ""
    renewed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What was handed to a socket at that time (epoch ms): everything in the epoch up to `seq` is held."""

    epoch: str
    seq: int
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    """What a sender was told. `told`: to how many recipients a receipt had said it was delivered."""

    id: str
    kind: str
    at: int
    told: int
    data: dict[str, Any]


@dataclasses.dataclass(slots=True)
class Book:
    """One client's ledger. `rooms`: {room: entries in the order in which he took them}; `late`: what he took and did not show.

    `holds` has what `rooms` has, also of logs that began anew.
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
    """An accepted message: what its place in the order holds, and until when."""

    id: str
    expires_at: int


class Books:
    """The ledgers in a folder, in the order of their names. What is wrong in one by itself goes to `found`."""

    def __init__(self, folder: Path, found: Findings) -> None:
        self.offers: dict[str, Offer] = {}
        self.lives: dict[Place, Life] = {}
        self.each: list[Book] = []
        self.late_ms: list[int] = []  # of each delivery
        self._found = found
        for path in sorted(folder.glob("*.jsonl")):
            self.each.append(Book())
            for kind, *fields in ledger.read(path):
                read: Callable[..., None] = getattr(self, f"_{kind}")
                read(*fields)

    @property
    def _index(self) -> int:
        return len(self.each) - 1

    def _me(self, user: int, name: str) -> None:
        self.each[-1].user, self.each[-1].name = user, name

    def _offered(self, room: str, message_id: str, number: int, digest: str, _at: int) -> None:
        self.offers[message_id] = Offer(self._index, room, number, digest)

    def _renewed(self, _room: str, message_id: str, _new_id: str) -> None:
        self.offers[message_id].renewed = True

    def _accepted(self, room: str, message_id: str, epoch: str, seq: int, expires_at: int) -> None:
        self.offers[message_id].places.add((epoch, seq))
        self._hear((room, epoch, seq), message_id, expires_at)

    def _refused(self, _room: str, message_id: str, code: str) -> None:
        self.offers[message_id].refused = code

    def _held(
        self, room: str, epoch: str, seq: int, message_id: str, digest: str, late_ms: int, expires_at: int
    ) -> None:
        self.each[-1].rooms[room].append(Entry(seq, message_id, digest))
        self.each[-1].holds.add((room, epoch, seq))
        self.late_ms.append(late_ms)
        self._hear((room, epoch, seq), message_id, expires_at)

    def _late(self, room: str, epoch: str, seq: int, message_id: str, expires_at: int) -> None:
        self.each[-1].late.add((room, epoch, seq))
        self._hear((room, epoch, seq), message_id, expires_at)

    def _dropped(self, room: str, _epoch: str) -> None:
        self.each[-1].rooms.pop(room, None)

    def _acknowledged(self, room: str, epoch: str, seq: int, at: int) -> None:
        self.each[-1].acknowledged[room].append(Acknowledgement(epoch, seq, at))

    def _closed(self, at: int) -> None:
        self.each[-1].closed.append(at)

    def _notice(self, notice: str, kind: str, at: int, told: int, data: dict[str, Any]) -> None:
        self.each[-1].notices.append(Notice(notice, kind, at, told, data))

    def _overclaimed(self, room: str, seq: int, told: int, held: int) -> None:
        text = f"{room} {seq}: a receipt told of {told} when {held} held it"
        self._found.add("acknowledged_never_held", text)

    def _after_expiry(self, room: str, seq: int, after_ms: int) -> None:
        self._found.add("after_expiry", f"{who(self._index)} in {room}: {seq}, {after_ms} ms after")

    def _before_expiry(self, room: str, seq: int, before_ms: int) -> None:
        self._found.add("before_expiry", f"{who(self._index)} in {room}: {seq}, {before_ms} ms before")

    def _disagreed(self, text: str) -> None:
        self._found.add("disagreed", f"{who(self._index)}: {text}")

    def _hear(self, place: Place, message_id: str, expires_at: int) -> None:
        """Take somebody's word for what stands where and until when; nobody changes either in a drill."""
        known = self.heard(place, message_id, expires_at)
        if known != Life(message_id, expires_at):
            said = f"{message_id} until {expires_at}, {known.id} until {known.expires_at}"
            self._found.add("disagreeing", f"{' '.join(map(str, place))}: {said}")

    def heard(self, place: Place, message_id: str, expires_at: int) -> Life:
        """Return what stands at a place: this, unless something is known to."""
        return self.lives.setdefault(place, Life(message_id, expires_at))

    def logs(self) -> dict[str, list[Entry]]:
        """Return what the clients heard of each room's log, as a room's log is."""
        logs: defaultdict[str, list[Entry]] = defaultdict(list)
        for (room, _, seq), life in sorted(self.lives.items()):
            offer = self.offers.get(life.id)
            logs[room].append(Entry(seq, life.id, offer.digest if offer else ""))
        return dict(logs)
