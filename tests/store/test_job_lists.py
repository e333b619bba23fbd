"""The lists of jobs: nobody can make the worker run another function through them."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django_q.models import Schedule

pytestmark = pytest.mark.django_db


@pytest.fixture
def superuser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"), "django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize("name", ["schedule", "success", "failure"])
def test_a_superuser_may_only_read_the_lists_of_jobs(superuser: Client, name: str) -> None:
    listed = superuser.get(f"/admin/django_q/{name}/")
    assert listed.status_code == 200
    assert b'name="action"' not in listed.content
    assert superuser.post(f"/admin/django_q/{name}/add/", {"func": "os.system"}).status_code == 403


def test_a_schedule_can_be_neither_changed_nor_deleted(superuser: Client) -> None:
    schedule = Schedule.objects.get(name="process_expired")
    page = f"/admin/django_q/schedule/{schedule.pk}"
    assert superuser.get(f"{page}/change/").status_code == 200
    assert superuser.post(f"{page}/change/", {"func": "os.system", "args": "'id',"}).status_code == 403
    assert superuser.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    schedule.refresh_from_db()
    assert schedule.func == "messaging.jobs.process_expired"
