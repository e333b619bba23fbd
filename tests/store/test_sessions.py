"""The job `clear_sessions`: ended web sessions leave the database, those of deleted users with their names."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from messaging import jobs
from messaging.jobs import sessions
from tests.support.sites import session_of

pytestmark = [pytest.mark.usefixtures("redis_url"), pytest.mark.django_db]


def key_of(cookie: str) -> str:
    return cookie.partition("=")[2]


def test_sessions_of_deleted_users_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ROW_BATCH", 2)
    users = [User.objects.create_user(f"user{number}") for number in range(5)]
    keys = [key_of(session_of(user)) for user in users for _ in range(2)]
    anonymous = Client().session
    anonymous["language"] = "en"
    anonymous.save()
    for user in users[1:4]:
        user.delete()
    assert jobs.clear_sessions() == 6
    assert set(Session.objects.values_list("session_key", flat=True)) == {
        *keys[:2],
        *keys[8:],
        anonymous.session_key,
    }
    assert jobs.clear_sessions() == 0


def test_expired_sessions_are_deleted() -> None:
    user = User.objects.create_user("ada")
    expired, live = key_of(session_of(user)), key_of(session_of(user))
    Session.objects.filter(pk=expired).update(expire_date=timezone.now() - timedelta(seconds=1))
    assert jobs.clear_sessions() == 1
    assert Session.objects.get().pk == live


def test_a_session_that_cannot_be_read_is_kept_until_it_expires() -> None:
    later = timezone.now() + timedelta(days=1)
    Session.objects.create(session_key="a" * 32, session_data="not signed", expire_date=later)
    assert jobs.clear_sessions() == 0
    assert Session.objects.exists()


def test_the_job_runs_every_hour() -> None:
    assert jobs.SCHEDULES["clear_sessions"] == {"func": "messaging.jobs.clear_sessions", "minutes": 60}
