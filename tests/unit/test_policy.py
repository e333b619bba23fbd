"""The product's numbers: lifetimes, backoff, and invalid settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import policy as policies
from messaging.errors import BadSetting, BadTtl
from messaging.policy import DAY_S, Policy, Rate

POLICY = Policy()


class TestLifetime:
    def test_message_without_a_lifetime_has_the_rooms(self) -> None:
        assert POLICY.ttl(None, room_s=600, room_max_s=DAY_S) == 600

    @pytest.mark.parametrize("asked_s", [10, 11, 3_600, DAY_S])
    def test_lifetime_within_the_bounds_is_used(self, asked_s: int) -> None:
        assert POLICY.ttl(asked_s, room_s=600, room_max_s=DAY_S) == asked_s

    @pytest.mark.parametrize("asked_s", [0, 9, DAY_S + 1, 10**12])
    def test_lifetime_outside_the_bounds_is_refused_with_them(self, asked_s: int) -> None:
        with pytest.raises(BadTtl, match=f"between 10 and {DAY_S} seconds"):
            POLICY.ttl(asked_s, room_s=600, room_max_s=DAY_S)

    def test_no_room_exceeds_the_sites_longest(self) -> None:
        with pytest.raises(BadTtl):
            POLICY.ttl(POLICY.ttl_max_s + 1, room_s=600, room_max_s=10**9)

    @given(room_s=st.integers(0, 10**10), room_max_s=st.integers(10, 10**10))
    def test_a_rooms_own_lifetime_is_cut_to_the_bounds(self, room_s: int, room_max_s: int) -> None:
        ttl_s = POLICY.ttl(None, room_s=room_s, room_max_s=room_max_s)
        assert POLICY.ttl_min_s <= ttl_s <= min(room_max_s, POLICY.ttl_max_s)


class TestBackoff:
    def test_bounds_double_up_to_the_cap(self) -> None:
        assert [POLICY.bound_s(attempt) for attempt in range(1, 9)] == [5, 10, 20, 40, 60, 60, 60, 60]

    def test_waits_without_jitter_are_half_the_bound_but_never_under_the_first(self) -> None:
        assert [POLICY.wait_s(attempt, 0.0) for attempt in range(1, 9)] == [5, 5, 10, 20, 30, 30, 30, 30]

    @given(attempt=st.integers(1, 8), jitter=st.floats(0, 1, exclude_max=True))
    def test_a_wait_is_drawn_from_the_upper_half_of_its_bound(self, attempt: int, jitter: float) -> None:
        bound_s = POLICY.bound_s(attempt)
        assert bound_s / 2 <= POLICY.wait_s(attempt, jitter) <= bound_s

    @given(attempt=st.integers(2, 8), low=st.floats(0, 1), high=st.floats(0, 1))
    def test_more_jitter_never_waits_less(self, attempt: int, low: float, high: float) -> None:
        low, high = sorted((low, high))
        assert POLICY.wait_s(attempt, low) <= POLICY.wait_s(attempt, high)


class TestRates:
    def test_the_contracts_floor_for_send_holds_for_one_connection(self) -> None:
        assert POLICY.send_rate.per_s >= 50
        assert POLICY.send_rate.burst >= 300

    def test_all_rates_are_scaled_by_one_number(self) -> None:
        scaled = dataclasses.replace(POLICY, rate_limit_scale=10.0)
        assert scaled.rate(Rate(50, 300)) == Rate(500, 3_000)

    def test_a_small_scale_leaves_a_bucket_that_can_give_a_token(self) -> None:
        scaled = dataclasses.replace(POLICY, rate_limit_scale=0.001)
        assert scaled.rate(Rate(10, 100)).burst == 1


class TestSettings:
    def test_defaults_have_no_problems(self) -> None:
        assert policies.problems({}) == []
        assert policies.read({}) == POLICY

    def test_a_value_replaces_the_default(self) -> None:
        assert policies.read({"ack_timeout_s": 2.5, "recovery": False}) == dataclasses.replace(
            POLICY, ack_timeout_s=2.5, recovery=False
        )

    def test_retention_alone_may_be_zero(self) -> None:
        assert policies.read({"dead_letter_retention_s": 0}).dead_letter_retention_s == 0

    @pytest.mark.parametrize(
        "values",
        [
            {"no_such_setting": 1},
            {"ttl_default_s": "3600"},
            {"ttl_default_s": 1.5},
            {"ttl_default_s": True},
            {"ttl_default_s": 0},
            {"attempts_max": -1},
            {"ack_timeout_s": float("nan")},
            {"ack_timeout_s": float("inf")},
            {"recovery": 1},
            {"send_rate": 50},
            {"send_rate": {"per_s": 50}},
            {"dead_letter_retention_s": -1},
            {"frame_max": 10**12},
            {"send_rate": Rate(0, 300)},
            {"send_rate": Rate(float("nan"), 300)},
            {"send_rate": Rate(50, 0)},
            {"ttl_min_s": 7_200},
            {"ttl_default_s": 29 * DAY_S},
            {"ack_timeout_s": 61},
            {"lease_s": 90},
            {"answer_max": 600_000},
            {"ttl_max_s": 3_650 * DAY_S + 1},
        ],
    )
    def test_an_invalid_value_is_refused_in_one_sentence_that_names_it(self, values: dict[str, Any]) -> None:
        [name] = values
        [sentence] = policies.problems(values)
        assert name in sentence
        assert sentence.endswith(".")
        with pytest.raises(BadSetting, match=name):
            policies.read(values)

    def test_every_problem_is_named_at_once(self) -> None:
        sentences = policies.problems({"ttl_min_s": 0, "recovery": "yes", "frame_max": None})
        assert len(sentences) == 3
