"""Fixtures of the tests that need no store."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from messaging.models import Room
from tests.support.expired_records import people


@pytest.fixture
def room(db: None) -> Room:
    return Room.objects.create(name="Atlas")


@pytest.fixture
def ada(db: None) -> User:
    return people("ada")[0]


@pytest.fixture
def grace(db: None) -> User:
    return people("grace")[0]
