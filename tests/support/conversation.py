"""A room whose people sit at two server processes each, and what ends a message in it without a wait."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from messaging.expiry import job as expiry
from messaging.models import Room
from messaging.rooms.memberships import key_of
from messaging.store import Store
from messaging.store.records import RoomKey
from tests.support.clients import Frame, Wire
from tests.support.sites import Person, Site, add_row, later, people, person, room

OVERDUE_MS = 60_000  # more than the job leaves for acknowledgements in flight


def _key(room_id: str) -> RoomKey:
    return key_of(Room.objects.get(pk=room_id))


@dataclasses.dataclass(slots=True)
class Talk:
    """The people of a room. `devices` are a person's sockets, the first at the first process and so on; () for an offline person."""

    sites: tuple[Site, ...]
    store: Store
    key: RoomKey
    people: dict[str, Person]
    devices: dict[str, list[Wire]]
    epoch: str
    _open: Callable[..., Any]

    @classmethod
    async def begin(
        cls,
        sites: tuple[Site, ...],
        store: Store,
        open_wire: Callable[..., Any],
        *names: str,
        away: tuple[str, ...] = (),
        **fields: Any,
    ) -> Talk:
        members = await later(people)(*names, *away)
        room_id = await later(room)(*members, **fields)
        key = await later(_key)(room_id)
        talk = cls(sites, store, key, {one.name: one for one in members}, {}, "", open_wire)
        for name in names:
            for site in sites:
                await talk.arrive(name, site)
        return talk

    @property
    def id(self) -> str:
        return self.key.id

    @property
    def wires(self) -> list[Wire]:
        return [wire for wires in self.devices.values() for wire in wires]

    def here(self, name: str) -> Wire:
        return self.devices[name][0]

    def there(self, name: str) -> Wire:
        return self.devices[name][1]

    async def arrive(self, name: str, site: Site | None = None, **held: Any) -> Wire:
        """Open one more device of a person. `held`: the fields of the room in its `hello`, except its epoch."""
        wire: Wire = await self._open(site or self.sites[0], self.people[name])
        welcome = await wire.hello(*([{"room": self.id, "epoch": self.epoch, **held}] if held else []))
        [entry] = [entry for entry in welcome["rooms"] if entry["room"] == self.id]
        self.epoch = entry["epoch"]
        await wire.fence()  # behind it: the resumed
        wire.seen = 0
        self.devices.setdefault(name, []).append(wire)
        return wire

    def frame(self, kind: str, seq: int | None = None, **fields: Any) -> Frame:
        return {"type": kind, "room": self.id, **({} if seq is None else {"seq": seq}), **fields}

    async def join(self, name: str) -> None:
        """Make somebody a member who never owed what is there."""
        self.people[name] = await later(person)(name)
        await later(add_row)(self.id, self.people[name])

    async def ask(self, wire: Wire, answer: str, frame: Frame, **fields: Any) -> Frame:
        """Send a frame; return the next frame of type `answer` that arrives from now on. Frames before it can still be awaited."""
        at = wire.seen = len(wire.frames)
        await wire.send(frame)
        found = await wire.next(answer, **fields)
        wire.seen = at
        return found

    async def refused(self, wire: Wire, frame: Frame, code: str) -> Frame:
        """Say a frame that gets one final error of this code and a sentence, and nothing else."""
        at = wire.seen = len(wire.frames)
        await wire.send(frame)
        error = await wire.next("error")
        await wire.fence()
        assert [one["type"] for one in wire.frames[at:] if one["type"] != "receipt"] == ["error", "pong"]
        assert (error["code"], error["of"], error["retryable"]) == (code, frame["type"], False), error
        assert error["detail"].endswith("."), error
        for name in {"id", "room", "seq"} & frame.keys():
            assert error[name] == frame[name], error
        return error

    async def settle(self, *wires: Wire) -> None:
        """Wait until all that the room was told so far has come to every socket, or to these."""
        sign = random.randrange(2**40, 2**50)
        at = {wire: wire.seen for wire in wires or self.wires}
        await self.store.client.publish(self.key.key, f"T {sign}")  # a channel's news come in order
        for wire, seen in at.items():
            await wire.next("typing", user=sign)
            wire.seen = seen

    async def lapse(self, *seqs: int) -> None:
        """Let messages be over, and due: their times are moved instead of the clock. No job runs."""
        now_ms = await self.store.now_ms()
        for seq in seqs:
            await self.store.client.hset(f"{self.key.key}:msg:{seq}", "expires_at", now_ms - 1)
            entry = f"{self.id}|{seq}"
            await self.store.client.zadd(f"{self.key.prefix}expiring", {entry: now_ms - OVERDUE_MS}, xx=True)

    async def run_job(self, *, all_rooms: bool = False) -> expiry.Processed:
        """Run the expiry job, here: a further process of the site."""
        return await expiry.process(expiry.ExpiryOptions(room=None if all_rooms else self.key))

    async def expire(self, *seqs: int) -> expiry.Processed:
        await self.lapse(*seqs)
        return await self.run_job()

    async def stored(self) -> dict[str, bytes | None]:
        """Return all that the store keeps of the room, to compare two moments."""
        names = sorted([name async for name in self.store.client.scan_iter(f"{self.key.key}*")])
        return {name.decode(): await self.store.client.dump(name) for name in names}
