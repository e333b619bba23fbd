"""One room on one connection: the transitions of its feed, and those that are errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from messaging.live.feed import Feed, FeedState, IllegalTransition
from messaging.live.publications import Batch, Change
from messaging.store.records import Slice
from tests.support.sockets import MEMBER_ROOM

BATCH = Batch("e", 1, 2, 1, "{}", frozenset({1}))


def slice_of(
    upto: int, *, top: int | None = None, rev: int = 0, more: bool = False, epoch: str = "e"
) -> Slice:
    return Slice(epoch, upto if top is None else top, rev, upto, more, [], [], [])


def change(rev: int, epoch: str = "e") -> Change:
    return Change(epoch, rev, 1, 1, "changed", "bare")


def new() -> Feed:
    return Feed(MEMBER_ROOM)


def reading() -> Feed:
    feed = new()
    feed.begin_read()
    return feed


def opened(upto: int = 0, rev: int = 0) -> Feed:
    feed = reading()
    feed.complete_read(slice_of(upto, rev=rev))
    assert feed.state is FeedState.OPEN
    return feed


def behind() -> Feed:
    feed = opened()
    feed.fall_behind(0, 0)
    return feed


class TestTransitions:
    @pytest.mark.parametrize("feed_of", [new, reading, opened, behind])
    def test_a_read_begins_in_every_state(self, feed_of: Callable[[], Feed]) -> None:
        feed = feed_of()
        feed.begin_read()
        assert feed.state is FeedState.READING

    @pytest.mark.parametrize(("more", "state"), [(False, FeedState.OPEN), (True, FeedState.BEHIND)])
    def test_a_completed_read_opens_the_feed_unless_the_log_has_more(
        self, more: bool, state: FeedState
    ) -> None:
        feed = reading()
        feed.complete_read(slice_of(3, top=5, rev=2, more=more))
        assert (feed.state, feed.epoch, feed.last, feed.rev, feed.position_sent) == (state, "e", 3, 2, (5, 2))

    def test_a_completed_read_returns_what_was_held(self) -> None:
        feed = reading()
        feed.hold(BATCH, limit=2)
        feed.hold_change(change(1), limit=2)
        assert feed.complete_read(slice_of(1)) == ([BATCH], [change(1)])
        assert (feed.held, feed.held_changes) == ([], [])

    def test_too_many_held_batches_leave_the_feed_behind_after_the_read(self) -> None:
        feed = reading()
        for _ in range(3):
            assert feed.state is FeedState.READING
            feed.hold(BATCH, limit=2)
        assert feed.state is FeedState.BEHIND
        assert feed.complete_read(slice_of(1)) == ([], [])
        assert feed.state is FeedState.BEHIND

    def test_held_changes_above_the_limit_are_dropped(self) -> None:
        feed = reading()
        for rev in (1, 2, 3):
            feed.hold_change(change(rev), limit=2)
        assert feed.held_changes == [change(1), change(2)]
        assert feed.state is FeedState.READING

    def test_a_refused_read_leaves_it_behind_with_nothing_held(self) -> None:
        feed = reading()
        feed.hold(BATCH, limit=2)
        feed.refuse_read()
        assert (feed.state, feed.held) == (FeedState.BEHIND, [])

    @pytest.mark.parametrize(
        ("feed_of", "state"),
        [(reading, FeedState.BEHIND), (opened, FeedState.OPEN), (behind, FeedState.BEHIND)],
    )
    def test_the_end_of_a_read_changes_only_one_that_was_not_answered(
        self, feed_of: Callable[[], Feed], state: FeedState
    ) -> None:
        feed = feed_of()
        feed.end_read()
        assert feed.state is state

    @pytest.mark.parametrize("feed_of", [reading, opened, behind])
    def test_a_feed_falls_behind_in_every_state_and_notes_the_position(
        self, feed_of: Callable[[], Feed]
    ) -> None:
        feed = feed_of()
        feed.fall_behind(9, 4)
        assert (feed.state, feed.position_sent) == (FeedState.BEHIND, (9, 4))

    @pytest.mark.parametrize("feed_of", [opened, behind])
    @pytest.mark.parametrize("hold", ["hold", "hold_change"])
    def test_only_a_feed_that_is_read_for_holds(self, feed_of: Callable[[], Feed], hold: str) -> None:
        with pytest.raises(IllegalTransition):
            getattr(feed_of(), hold)(BATCH if hold == "hold" else change(1), limit=9)

    def test_an_open_feed_has_no_read_to_complete_or_refuse(self) -> None:
        with pytest.raises(IllegalTransition):
            opened().complete_read(slice_of(1))
        with pytest.raises(IllegalTransition):
            opened().refuse_read()


class TestPosition:
    def test_a_position_is_told_once_to_a_client_that_has_everything(self) -> None:
        feed = opened(3)
        assert feed.check_position("e", 3, 1)
        assert not feed.check_position("e", 3, 1)
        assert feed.state is FeedState.OPEN

    @pytest.mark.parametrize(("epoch", "top"), [("e", 4), ("another", 3)])
    def test_missing_messages_or_another_log_leave_it_behind(self, epoch: str, top: int) -> None:
        feed = opened(3)
        assert feed.check_position(epoch, top, 0)
        assert feed.state is FeedState.BEHIND
        assert feed.check_position(epoch, top, 0), "until it syncs it is told again"

    def test_nothing_is_told_during_a_read(self) -> None:
        feed = reading()
        assert not feed.check_position("e", 4, 0)
        assert feed.state is FeedState.READING


class TestChanges:
    def test_a_published_change_is_sent_once(self) -> None:
        feed = opened(rev=1)
        assert [feed.publish_change(change(rev)) for rev in (1, 2, 2, 3)] == [False, True, False, True]

    @pytest.mark.parametrize("feed_of", [reading, behind])
    def test_a_feed_that_is_not_open_is_sent_none(self, feed_of: Callable[[], Feed]) -> None:
        assert not feed_of().publish_change(change(1))

    def test_a_change_of_another_log_is_not_sent(self) -> None:
        assert not opened().publish_change(change(1, "another"))

    def test_an_answered_change_is_not_published_to_the_same_client(self) -> None:
        feed = opened()
        assert feed.answer_change(change(2))
        assert [feed.publish_change(change(rev)) for rev in (1, 2, 3)] == [True, False, True]

    def test_a_change_that_was_published_first_is_not_answered(self) -> None:
        feed = opened()
        feed.publish_change(change(1))
        assert not feed.answer_change(change(1))

    def test_another_log_forgets_the_changes_of_the_one_before(self) -> None:
        feed = opened(rev=7)
        feed.restart("another", 4)
        assert (feed.epoch, feed.last, feed.rev) == ("another", 4, 0)
        assert feed.publish_change(change(1, "another"))


class TestSilence:
    def test_an_acknowledgement_ends_it(self) -> None:
        feed = opened(3)
        feed.begin_silence(5.0)
        feed.acknowledged(2)
        assert (feed.acked, feed.silence) == (2, None)

    def test_a_check_ends_only_the_silence_that_it_began_with(self) -> None:
        feed = opened(3)
        feed.begin_silence(5.0)
        first = feed.silence
        feed.begin_silence(None)
        assert first is not None
        feed.end_silence(first)
        assert feed.silence is not None
        feed.end_silence(feed.silence)
        assert feed.silence is None
