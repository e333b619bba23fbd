"""The store loses messages: the loss is detected, recorded and told, and every room concerned is read again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from messaging import losses, rooms
from messaging.bridge import in_db_thread
from messaging.errors import Unavailable
from messaging.expiry import job, reports
from messaging.live.positions import Positions
from messaging.live.registry import HubRoom, Registry
from messaging.losses import detection
from messaging.models import DeadLetter, Membership, Room, StoreLoss, StoreMark, epoch_ms
from messaging.monitoring import health, site_figures
from messaging.policy import Policy
from messaging.rooms.memberships import key_of
from messaging.store import Store, open_store
from messaging.store.marks import Marks
from messaging.store.records import Due, RoomKey, Slice
from tests.support.messages import GRACE, ROOM, accept, due, expire, message, new_id, read
from tests.support.people import person, room_of
from tests.support.servers import Server
from tests.support.sites import until

pytestmark = pytest.mark.usefixtures("verbs")


@pytest.fixture
async def ada() -> User:
    return await person("ada")


@pytest.fixture
async def atlas(ada: User) -> Room:
    return await room_of(ada, await person("grace"))


async def say(room: Room, sender: User, *texts: str) -> list[int]:
    messages = [message(body, user=sender.pk, room=key_of(room), id_=new_id()) for body in texts]
    return [accepted.seq for accepted in await accept(open_store(), *messages)]


async def look(room: Room, user: User) -> Slice:
    return await read(open_store(), user.pk, room=key_of(room))


async def epoch_of(room: Room) -> str:
    [position] = await open_store().log.positions([key_of(room)])
    assert position is not None
    return position.epoch


async def recorded() -> list[StoreLoss]:
    return [loss async for loss in StoreLoss.objects.order_by("at")]


async def unaccounted() -> int:
    account = (await in_db_thread(site_figures.count)).account
    assert account is not None
    return account.lost


async def faults() -> set[str]:
    return {fault.key for fault in (await in_db_thread(health.expiry)).faults}


class Keys:
    """A copy of all that the store keeps."""

    @classmethod
    async def of(cls, store: Store) -> Keys:
        copy = cls()
        names = [key async for key in store.client.scan_iter()]
        copy.values = {key: await store.client.dump(key) for key in names}
        return copy

    async def put_back(self, store: Store) -> None:
        await store.client.flushall()
        for key, value in self.values.items():
            await store.client.restore(key, 0, value)


class TestMarks:
    async def test_nothing_is_reported_while_the_store_keeps_its_data(self, atlas: Room, ada: User) -> None:
        await losses.check()
        epoch = await epoch_of(atlas)
        for text in ("one", "two"):
            await say(atlas, ada, text)
            await losses.mark()
            await losses.check()
        assert await recorded() == []
        assert (await epoch_of(atlas), (await look(atlas, ada)).doubt) == (epoch, None)
        assert (await StoreMark.objects.aget()).number == 2

    async def test_an_emptied_store_is_noticed_and_told(self, atlas: Room, ada: User) -> None:
        await say(atlas, ada, "one", "two", "three")
        await losses.mark()
        epoch = await epoch_of(atlas)
        await open_store().client.flushall()
        await losses.check()
        [loss] = await recorded()
        assert (loss.safe_until, loss.messages) == (None, 3)
        slice_ = await look(atlas, ada)
        assert slice_.epoch != epoch
        assert slice_.doubt is not None
        assert slice_.doubt[0] == 0
        assert await unaccounted() == 3
        assert "store_emptied" in await faults()

    async def test_an_older_copy_is_noticed_and_the_period_is_told(self, atlas: Room, ada: User) -> None:
        await say(atlas, ada, "one")
        await losses.mark()
        copy = await Keys.of(open_store())
        safe = min(await open_store().marks.read(), key=lambda mark: mark.at_ms)
        await say(atlas, ada, "two", "three")
        await losses.mark()
        await copy.put_back(open_store())
        await losses.check()
        [loss] = await recorded()
        assert loss.safe_until is not None
        assert (epoch_ms(loss.safe_until), loss.messages) == (safe.at_ms, 2)
        slice_ = await look(atlas, ada)
        assert [stored.body for stored in slice_.messages] == ["one"]
        assert slice_.doubt is not None
        assert safe.at_ms <= slice_.doubt[0] <= slice_.doubt[1] <= await open_store().now_ms()
        assert await unaccounted() == 2
        assert "store_lost_messages" in await faults()

    async def test_a_loss_is_reported_once(self, atlas: Room, ada: User) -> None:
        await say(atlas, ada, "one")
        await losses.mark()
        await open_store().client.flushall()
        for step in (losses.check, losses.check, losses.mark, losses.check):
            await step()
            seen = await epoch_of(atlas)
        assert [loss.messages for loss in await recorded()] == [1]
        await losses.check()
        assert await epoch_of(atlas) == seen

    async def test_a_repair_that_was_interrupted_is_finished(self, atlas: Room, ada: User) -> None:
        await say(atlas, ada, "one")
        await losses.mark()
        await open_store().client.flushall()
        await losses.check()
        await StoreLoss.objects.aupdate(repaired_at=None)
        other = await room_of(ada, name="Elsewhere")
        await losses.check()
        [loss] = await recorded()
        assert loss.repaired_at is not None
        assert (await look(other, ada)).doubt is not None

    async def test_a_mark_that_only_the_store_has_is_no_loss(self, atlas: Room) -> None:
        """The worker was killed between the two writes, or the database was put back to an older copy."""
        await losses.mark()
        await open_store().marks.write(9, "")
        await losses.check()
        await losses.mark()
        assert await recorded() == []
        assert (await StoreMark.objects.aget()).number == 10


async def test_messages_that_were_reported_before_a_loss_are_not_reported_again(
    atlas: Room, ada: User
) -> None:
    """The claim of a killed job ends after the room has its new epoch."""
    [seq] = await say(atlas, ada, "one")
    await losses.mark()
    await expire(open_store(), seq, room=key_of(atlas))
    await due(open_store(), seq, room=key_of(atlas))
    [claimed] = await open_store().expiry.claim("killed")
    [record] = await open_store().expiry.read([claimed])
    await in_db_thread(reports.record, [record], record.expires_at)
    await losses.record_rooms({key_of(atlas): 1})
    await due(open_store(), seq, room=key_of(atlas))
    await job.process(job.ExpiryOptions(room=key_of(atlas)))
    assert await DeadLetter.objects.acount() == 1


async def test_a_loss_is_recorded_although_the_repair_ends_early(
    atlas: Room, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> list[bool]:
        raise Unavailable()

    with monkeypatch.context() as patched:
        patched.setattr(Marks, "renew", fail)
        with pytest.raises(Unavailable):
            await losses.record_rooms({key_of(atlas): 7})
    assert [loss.messages for loss in await recorded()] == [0]
    await losses.record_rooms({key_of(atlas): 7})
    assert [loss.messages for loss in await recorded()] == [7]


async def test_a_mark_of_the_present_life_does_not_end_the_period_in_doubt(atlas: Room, ada: User) -> None:
    await say(atlas, ada, "kept")
    await losses.mark()
    await losses.record_rooms({key_of(atlas): 1})
    [loss] = await recorded()
    assert loss.safe_until is None
    slice_ = await look(atlas, ada)
    assert slice_.doubt is not None
    assert slice_.doubt[0] == slice_.messages[0].sent_at


async def test_a_worker_that_was_stopped_lowers_no_mark(atlas: Room) -> None:
    await open_store().marks.write(7, "life")
    await open_store().marks.write(3, "life")
    assert {mark.number for mark in await open_store().marks.read()} == {7}


class TestOlderDatabase:
    @staticmethod
    async def put_back(room: Room, *users: User) -> None:
        """Leave the database as it was before these users joined and before the last marks."""
        for _ in range(3):
            await losses.mark()
        await StoreMark.objects.aupdate(number=1)
        await Membership.objects.filter(room=room, user__in=users).adelete()

    async def test_members_who_are_only_in_the_store_are_removed(self, ada: User) -> None:
        yuri = await person("yuri")
        atlas = await room_of(ada, yuri)
        await say(atlas, ada, "one")
        await self.put_back(atlas, yuri)
        await losses.check()
        assert await open_store().members.members_of_rooms([key_of(atlas)]) == [{ada.pk}]
        [record] = await open_store().expiry.read([Due(key_of(atlas), 1, 0, "")])
        assert (record.total, record.missed) == (0, ())
        assert await recorded() == []

    async def test_new_user_with_the_id_of_a_removed_one_does_not_read_older_messages(
        self, ada: User
    ) -> None:
        yuri = await person("yuri")
        atlas = await room_of(ada, yuri)
        await say(atlas, ada, "secret")
        await self.put_back(atlas, yuri)
        await losses.check()
        await rooms.add_member(ada.pk, atlas.pk, "yuri")
        assert (await look(atlas, yuri)).messages == []

    async def test_leaving_members_and_others_stay(self, atlas: Room, ada: User) -> None:
        await say(atlas, ada, "one")
        await self.put_back(atlas)
        await Membership.objects.filter(room=atlas).exclude(user=ada).aupdate(leaving_at=timezone.now())
        await losses.check()
        [users] = await open_store().members.members_of_rooms([key_of(atlas)])
        assert len(users) == 2


async def test_message_of_a_deleted_log_is_accepted_again(atlas: Room, ada: User) -> None:
    lost = [message(text, user=ada.pk, room=key_of(atlas)) for text in ("one", "two")]
    await accept(open_store(), *lost)
    await open_store().client.delete(key_of(atlas).key)
    again = await accept(open_store(), *lost, lost[0])
    assert [answer.duplicate for answer in again] == [False, False, True]
    assert [stored.body for stored in (await look(atlas, ada)).messages] == ["one", "two"]


async def test_a_deleted_log_is_told(atlas: Room, ada: User) -> None:
    await say(atlas, ada, "one")
    await open_store().client.delete(key_of(atlas).key)
    await open_store().members.create_log(key_of(atlas))  # as the first reader or sender does
    slice_ = await look(atlas, ada)
    assert slice_.messages == []
    assert slice_.doubt is not None


class TestRoomsOfSockets:
    """A server process knows the newest messages of the rooms of its sockets."""

    @staticmethod
    async def check(store: Store, room: HubRoom) -> dict[RoomKey, int]:
        """Check the positions of a process that knows this room; return the messages that it reports as lost."""
        registry, found = Registry(), {}
        registry.rooms[room.key.id] = room

        async def record(lost: Mapping[RoomKey, int]) -> None:
            found.update(lost)

        positions = Positions(
            store, registry, Policy(), members_changed=lambda room: None, record_lost=record
        )
        await positions.check()
        return found

    @pytest.mark.parametrize("appended", [0, 1, 30], ids=["idle", "one-message-later", "many-messages-later"])
    async def test_lost_end_of_a_log_is_noticed(
        self, server: Server, own_store: Store, appended: int
    ) -> None:
        first = await accept(own_store, *(message(f"{n} {'x' * 200}") for n in range(60)))
        room = HubRoom(ROOM)
        for n in range(20):
            [accepted] = await accept(own_store, message(f"{n} {'y' * 200}", user=GRACE))
            room.update_position(accepted.epoch, accepted.seq, 0)
        server.kill()
        server.cut_tail(4_096)
        server.start()
        [position] = await own_store.log.positions([ROOM])
        assert position is not None
        for _ in range(appended):
            [accepted] = await accept(own_store, message())
            room.update_position(accepted.epoch, accepted.seq, 0)
        assert await self.check(own_store, room) == {ROOM: 80 - position.top}
        assert first[0].epoch == room.epoch

    async def test_part_of_a_transaction_at_the_end_of_the_log_is_never_executed(
        self, server: Server, own_store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the rewrite the store executes the part at its second start: the message is stored, and its id is not known."""
        monkeypatch.setattr(detection, "open_store", lambda: own_store)
        await accept(own_store, message("kept"))
        cut = message("cut")
        await accept(own_store, cut)
        server.kill()
        server.cut_tail(200)  # before the record of the id is complete
        server.start()
        await losses.mark()
        await until(lambda: list(server.folder.glob("appendonlydir/*.2.base.*")), what="the log is rewritten")
        [again] = await accept(own_store, cut)
        assert not again.duplicate
        server.kill()
        server.start()
        assert [row.body for row in (await read(own_store, GRACE)).messages] == ["kept", "cut"]
        for _ in range(2):
            await losses.mark()
        assert (await own_store.client.info("persistence"))["aof_rewrites"] == 1

    @pytest.mark.parametrize("appended", [0, 1])
    async def test_restart_without_a_loss_is_no_loss(
        self, server: Server, own_store: Store, appended: int
    ) -> None:
        room = HubRoom(ROOM)
        for _ in range(2):
            for _ in range(3):
                [accepted] = await accept(own_store, message())
                room.update_position(accepted.epoch, accepted.seq, 0)
            server.kill()
            server.start()
        for _ in range(appended):
            [accepted] = await accept(own_store, message())
            room.update_position(accepted.epoch, accepted.seq, 0)
        assert await self.check(own_store, room) == {}

    async def test_their_loss_is_recorded_once_and_their_rooms_are_read_again(
        self, atlas: Room, ada: User
    ) -> None:
        await losses.mark()
        await say(atlas, ada, "one")
        epoch = await epoch_of(atlas)
        for _ in range(2):
            await losses.record_rooms({key_of(atlas): 7})
        [loss] = await recorded()
        assert loss.messages == 7
        assert await epoch_of(atlas) != epoch
        assert (await look(atlas, ada)).doubt is not None
        assert await unaccounted() == 7
