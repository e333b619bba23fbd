"""The rows of rooms in the database."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError
from hypothesis import given
from hypothesis import strategies as st

from messaging.models import PARTITIONS, Membership, Room, new_room_id, partition_of

IDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=11, max_size=11)


@given(IDS)
def test_every_room_has_one_of_the_partitions_for_ever(room: str) -> None:
    assert 0 <= partition_of(room) < PARTITIONS
    assert partition_of(room) == partition_of(room)


def test_the_partition_of_an_id_never_changes_between_releases() -> None:
    assert [partition_of(room) for room in ("", "a", "commons")] == [0, 3, 25]


def test_a_new_id_fits_into_an_address_and_a_key() -> None:
    ids = {new_room_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(len(room) == 11 and room.isalnum() and room.isascii() for room in ids)


@pytest.mark.django_db
def test_a_room_keeps_its_partition_when_it_is_saved_again() -> None:
    room = Room.objects.create(name="Atlas", partition=None)
    kept = room.partition
    Room.objects.filter(pk=room.pk).update(partition=(kept + 1) % PARTITIONS)

    again = Room.objects.get(pk=room.pk)
    again.name = "Borealis"
    again.save()

    assert Room.objects.get(pk=room.pk).partition == (kept + 1) % PARTITIONS


@pytest.mark.django_db
def test_a_user_has_one_membership_in_a_room() -> None:
    room, ada = Room.objects.create(name="Atlas"), User.objects.create(username="ada")
    Membership.objects.create(room=room, user=ada)
    with pytest.raises(IntegrityError):
        Membership.objects.create(room=room, user=ada)


@pytest.mark.django_db
def test_a_pair_has_one_room_and_other_rooms_have_no_pair() -> None:
    Room.objects.create(name="a")
    Room.objects.create(name="b")
    Room.objects.create(name="c", pair="1:2")
    with pytest.raises(IntegrityError):
        Room.objects.create(name="d", pair="1:2")


@pytest.mark.django_db
def test_rooms_are_ordered_by_name_without_regard_to_case() -> None:
    for name in ("beta", "Alpha", "alpine"):
        Room.objects.create(name=name)
    assert [room.name for room in Room.objects.all()] == ["Alpha", "alpine", "beta"]
