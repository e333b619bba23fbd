"""Names have no hidden characters and do not change the direction of the text next to them."""

from __future__ import annotations

import unicodedata

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import BadName
from messaging.rooms.names import MAX_NAME, clean_name, clean_topic

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HIDDEN = "\0\x07\x1b\x7f\x85\u00ad\u200b\u2028\u2029\u2060\ufeff\u3164\uffa0\U000e0041\ud800"


@given(st.text())
def test_accepted_names_are_short_visible_and_accepted_again(text: str) -> None:
    try:
        name = clean_name(text)
    except BadName:
        return
    assert 1 <= len(name) <= MAX_NAME
    assert name == name.strip()
    assert clean_name(name) == name
    assert not {unicodedata.category(c) for c in name} & {"Cc", "Cs", "Zl", "Zp"}
    name.encode()


@pytest.mark.parametrize("character", BIDI + HIDDEN, ids=lambda c: f"U+{ord(c):04X}")
def test_no_name_and_no_topic_has_a_character_that_hides(character: str) -> None:
    for rule in (clean_name, clean_topic):
        with pytest.raises(BadName):
            rule(f"ada{character}lovelace")


def test_a_name_of_joiners_alone_is_refused() -> None:
    with pytest.raises(BadName):
        clean_name("\u200d\u200c \u200d")


def test_two_ways_of_writing_an_accent_are_one_name() -> None:
    assert clean_name("Cafe\u0301") == clean_name("Caf\u00e9")


def test_a_topic_may_be_empty() -> None:
    assert clean_topic("  ") == ""


def sign_up(name: str) -> int:
    fields = {"username": name, "password1": "a-good-one-4711", "password2": "a-good-one-4711"}
    return Client().post("/accounts/signup/", fields).status_code


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize(
    "character", BIDI + HIDDEN.replace("\ud800", "") + " <", ids=lambda c: f"U+{ord(c):04X}"
)
def test_nobody_signs_up_under_a_name_that_hides_something(character: str) -> None:
    assert sign_up(f"ada{character}lovelace") == 200  # the form with an error
    assert not User.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize("name", ["ada", "小林", "José", "grace.hopper+1@example"])
def test_people_sign_up_under_their_names(name: str) -> None:
    assert sign_up(name) == 302
    assert User.objects.get().username == name
