"""Operations for many users in one call: every user gets their own answer, and shared parts are read once."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from messaging.errors import NotMember
from messaging.store import Store
from messaging.store.records import Held, MemberPosition, OtherEpoch, Read, Slice
from tests.store.test_store import STRANGER, heard
from tests.support.messages import (
    ADA,
    ALAN,
    GRACE,
    ROOM,
    accept,
    acknowledge,
    expire,
    members_of,
    message,
    missing,
    read_together,
    stand_together,
)


class TestReadForMany:
    async def together(
        self, store: Store, *users: int, since: int = 0, rev: int | None = None
    ) -> list[Slice]:
        """Read for users in one call; every answer must equal that of a separate call."""
        [place] = await store.log.positions([ROOM])
        assert place is not None
        asked = Read(room=ROOM, epoch=place.epoch, since=since, rev=rev)
        answers = await read_together(store, asked, users)
        assert answers == [(await store.log.read_after(user, [asked]))[0] for user in users]
        slices = [answer for answer in answers if isinstance(answer, Slice)]
        assert len(slices) == len(users)
        return slices

    async def test_members_with_equal_views_share_one_read(self, store: Store) -> None:
        accepted, *_ = await accept(store, *(message() for _ in range(30)))
        await store.client.config_resetstat()
        asked = Read(room=ROOM, epoch=accepted.epoch, since=0)
        [[first, *others]] = await store.log.read_for_many([(asked, [ADA, GRACE, ALAN, GRACE])])
        stats = await store.client.info("commandstats")
        assert all(other is first for other in others)
        assert stats["cmdstat_hmget"]["calls"] == 30 + 1  # each message, and the room
        assert len((await self.together(store, GRACE, ADA))[0].messages) == 30

    async def test_later_member_sees_later_messages_only(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        await store.members.join(ROOM, [STRANGER])
        await accept(store, message("c"))
        graces, strangers, _ = await self.together(store, GRACE, STRANGER, ALAN)
        assert [[row.body for row in answer.messages] for answer in (graces, strangers)] == [
            ["a", "b", "c"],
            ["c"],
        ]
        graces, strangers = await self.together(store, GRACE, STRANGER, since=2)
        assert strangers is graces

    async def test_later_member_gets_no_changes_of_earlier_messages(self, store: Store) -> None:
        await accept(store, message("a"), message("b"))
        await store.members.join(ROOM, [STRANGER])
        await store.changes.edit(ROOM, ADA, None, 1, "other", open_history=False)
        graces, strangers = await self.together(store, GRACE, STRANGER, since=2, rev=0)
        assert [row.body for _, row in graces.changed] == ["other"]
        assert strangers.changed == []

    async def test_messages_for_some_reach_only_these(self, store: Store) -> None:
        await accept(store, message("a"), msgspec.structs.replace(message("b"), only=(ALAN,)))
        graces, alans, adas = await self.together(store, GRACE, ALAN, ADA)
        assert [[row.body for row in answer.messages] for answer in (graces, alans, adas)] == [
            ["a"],
            ["a", "b"],
            ["a", "b"],
        ]

    async def test_every_member_who_passes_over_an_expired_message_is_remembered(self, store: Store) -> None:
        accepted, _ = await accept(store, message("a"), message("b"))
        await expire(store, 1)
        asked = Read(room=ROOM, epoch=accepted.epoch, since=0)
        await read_together(store, asked, [ADA, GRACE, ALAN])
        for user in (GRACE, ALAN):
            await acknowledge(store, user, 2)
        assert await missing(store, 1) == {GRACE: "offline", ALAN: "offline"}

    async def test_non_member_among_them_does_not_affect_the_others(self, store: Store) -> None:
        [accepted] = await accept(store)
        asked = Read(room=ROOM, epoch=accepted.epoch, since=0)
        stranger, grace = await read_together(store, asked, [STRANGER, GRACE])
        assert isinstance(stranger, NotMember)
        assert isinstance(grace, Slice)
        elsewhere = dataclasses.replace(asked, epoch="other")
        stranger, grace = await read_together(store, elsewhere, [STRANGER, GRACE])
        assert isinstance(stranger, NotMember)
        assert grace == OtherEpoch(accepted.epoch)


class TestStandingsForMany:
    @pytest.mark.parametrize("only", [(), (ALAN,)])
    async def test_every_member_has_their_own_unread_count(self, store: Store, only: tuple[int, ...]) -> None:
        await accept(store, *(message() for _ in range(3)), message(user=GRACE))
        await accept(store, msgspec.structs.replace(message(), only=only))
        await acknowledge(store, ALAN, 2, 2)
        asked = [(user, Held()) for user in (GRACE, ADA, ALAN, GRACE)]
        rows = await stand_together(store, ROOM, asked)
        graces = 3 if only else 4
        assert [row.unread for row in rows if isinstance(row, MemberPosition)] == [graces, 1, 3, graces]
        assert rows == [
            (await store.members.member_positions(user, [(ROOM, Held())]))[0] for user, *_ in asked
        ]

    async def test_acknowledgements_of_all_are_counted_and_told_once(self, store: Store) -> None:
        accepted, *_ = await accept(store, message(), message(), message())
        await acknowledge(store, ALAN, 1)
        async with store.client.pubsub() as pubsub:
            await pubsub.subscribe(ROOM.key)
            await pubsub.get_message(timeout=3)
            asked = [(ALAN, Held(accepted.epoch, 3)), (GRACE, Held(accepted.epoch, 2)), (ADA, Held())]
            [rows] = await store.members.member_positions_for_many([(ROOM, asked)])
            assert [row.delivered for row in rows if isinstance(row, MemberPosition)] == [3, 2, 3]
            assert await heard(pubsub) == "A 0"
            await accept(store)
            assert (await heard(pubsub)).startswith("M ")

    async def test_unknown_member_does_not_affect_the_others(self, store: Store) -> None:
        async def with_a_newcomer(room: str) -> list[int]:
            return [*await members_of(room), STRANGER]

        await accept(store)
        store.members.members_of = with_a_newcomer
        nobody = STRANGER + 1
        asked = [(user, Held()) for user in (nobody, STRANGER, GRACE)]
        [together] = await store.members.member_positions_for_many([(ROOM, asked)])
        assert together[:2] == [None, None]
        rows = await stand_together(store, ROOM, asked)
        assert rows[0] is None
        assert [row.joined for row in rows[1:] if isinstance(row, MemberPosition)] == [1, 0]
