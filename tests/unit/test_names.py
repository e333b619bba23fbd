"""Names have no hidden characters and do not change the direction of the text next to them."""

from __future__ import annotations

import unicodedata

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import BadName, NoSuchUser
from messaging.rooms import memberships
from messaging.rooms.names import MAX_NAME, MAX_USERNAME, clean_name, clean_topic, find, looks_taken, skeleton

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


# Names of accounts

PASSWORD = "a-good-one-4711"


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize(
    "name",
    [
        *("\u0430da", "\u0430d\u0430", "\uff41\uff44\uff41", "ADA", "\U0001d41a\U0001d41d\U0001d41a"),
        *("ada.", ".ada", "ada_", "-ada", "ada@", "+ada"),
        *("NlCO", "N1CO", "grace0", "graceO", "rnary", "\u53e3\u6797", "\u0412ob", "vvendy"),
        *(
            "admin",
            "Admin",
            "adm1n",
            "\u0430dmin",
            "ad.min",
            "moderator",
            "Support",
            "system",
            "STAFF",
            "root",
        ),
        *("管理员", "客服", "系统", "官方"),
    ],
    ids=ascii,
)
def test_nobody_signs_up_under_a_name_that_misleads(name: str) -> None:
    for taken in ("ada", "NICO", "graceo", "mary", "\u30ed\u6797", "Bob", "wendy"):
        User.objects.create_user(taken)
    page = Client().post("/accounts/signup/", {"username": name, "password1": PASSWORD})
    assert page.status_code == 200
    assert 'id="id_username-error"' in page.content.decode()
    assert User.objects.count() == 7


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
@pytest.mark.parametrize(
    "name", ["\u0410\u043d\u043d\u0430", "Ian", "obrien", "小林", "\u0421\u0430\u0440\u0430", "administrador"]
)
def test_a_name_that_looks_like_no_other_is_free(name: str) -> None:
    User.objects.create_user("ada")
    assert sign_up(name) == 302


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
def test_a_new_account_stores_the_composed_name() -> None:
    assert sign_up("\uff47\uff52\uff41\uff43\uff45") == 302
    assert User.objects.get().username == "grace"


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
def test_a_name_that_is_too_long_when_composed_is_refused() -> None:
    assert sign_up("\ufb03" * 100) == 200
    assert not User.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_url")
def test_login_rooms_and_commands_find_the_same_user() -> None:
    for name in ("ada", "admin", "grace.", "Bob", "bob", "alan"):
        User.objects.create_user(name, password=PASSWORD)
    # Earlier versions stored names as they were typed.
    old = User.objects.create_user("old", password=PASSWORD)
    User.objects.filter(pk=old.pk).update(username="\uff47race.")
    expected = {
        "ada": "ada", "ADA": "ada", " ada ": "ada", "admin": "admin", "grace.": "grace.", "Bob": "Bob", "bob": "bob",
        "BOB": None, "\uff41\uff4c\uff41\uff4e": "alan", "\uff47race.": "\uff47race.", "nobody": None, "": None,
        "a\0da": None, "a" * 151: None,
    }  # fmt: skip
    for given_name, username in expected.items():
        user = find(User.objects.all(), given_name)
        assert (user and user.username) == username, ascii(given_name)
        if username is None:
            with pytest.raises(NoSuchUser):
                memberships.person(given_name)
        else:
            assert memberships.person(given_name) == user
        client = Client(REMOTE_ADDR=f"192.0.2.{len(given_name)}")
        form = {"login": given_name, "password": PASSWORD}
        assert client.post("/accounts/login/", form).status_code == (302 if username else 200)
        if user:
            assert client.session["_auth_user_id"] == str(user.pk)


@given(st.text(max_size=MAX_USERNAME))
def test_a_skeleton_is_its_own_skeleton_in_lower_case(name: str) -> None:
    assert skeleton(name).casefold() == skeleton(name)


@pytest.mark.django_db
def test_both_of_two_names_that_look_alike_find_the_other() -> None:
    pairs = [
        ("ada", "\u0430da"),
        ("mary", "rnary"),
        ("Bob", "\u0412ob"),
        ("口", "ロ"),
        ("Ian", "lan"),
        ("o0", "OO"),
    ]
    for one, other in pairs:
        for taken, new in ((one, other), (other, one)):
            User.objects.all().delete()
            User.objects.create(username=taken)
            assert looks_taken(User.objects.all(), new), ascii((taken, new))
            assert not looks_taken(User.objects.all(), new + "x")
