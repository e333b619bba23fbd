"""Bulk actions as the staff start them on their pages, over many dead letters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from messaging.admin import bulk_job
from messaging.admin.actions import ActionAdmin
from messaging.bridge import run_async
from messaging.expiry import reports
from messaging.models import BulkAction, DeadLetter, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support.expired_records import TEXT, expired, missed
from tests.support.people import person, room_of

PAGES = "/admin/messaging"
RECORDED_AT_ONCE = 500
BACKEND = "django.contrib.auth.backends.ModelBackend"
MAY = ("view_deadletter", "requeue_deadletter", "discard_deadletter", "view_bulkaction")


def staff(*rights: str, name: str = "staff", **fields: Any) -> Client:
    """Return a browser of one of the staff with these rights."""
    user = User.objects.create(username=name, is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client(headers={"accept-language": "en"})
    client.force_login(user, BACKEND)
    return client


def letters(count: int) -> Room:
    """Report messages of ada's that bob missed, in a room of the two; return the room."""

    async def make() -> tuple[Room, User, User, int]:
        ada, bob = await person("ada"), await person("bob")
        return await room_of(ada, bob), ada, bob, await open_store().now_ms()

    room, ada, bob, now_ms = run_async(make)
    seqs = range(1, count + 1)
    rows = [expired(room, ada, missed(bob), seq=seq, expires_at=now_ms - count + seq) for seq in seqs]
    for at in range(0, count, RECORDED_AT_ONCE):
        reports.record(rows[at : at + RECORDED_AT_ONCE], now_ms)
    return room


def ask(client: Client, path: str, verb: str, **given: Any) -> Any:
    """Select everything on a list and an action; return the page that asks."""
    key = "0"  # what is ticked does not matter
    data = {"action": verb, "_selected_action": key, "select_across": "1", **given}
    answer = client.post(f"{PAGES}/{path}", data, follow=True)
    assert answer.status_code == 200, answer.content.decode()
    return answer


def confirm(client: Client, path: str, verb: str, asked: Any, **given: Any) -> str:
    """Say yes to a page that asked; return what the list says after it."""
    data = {"action": verb, "bulk": asked.context["bulk"], "confirmed": "yes", **given}
    answer = client.post(f"{PAGES}/{path}", data, follow=True)
    assert answer.status_code == 200, answer.content.decode()
    return " ".join(
        re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', answer.content.decode(), re.S)
    )


def begin(client: Client, verb: str, path: str = "deadletter/", **given: Any) -> BulkAction:
    """Select everything, say yes; return the action, which runs from now on."""
    asked = ask(client, path, verb, **given)
    said = confirm(client, path, verb, asked, **given)
    assert said.startswith("It begins: "), said
    return BulkAction.objects.get(state="running", verb=verb)


def small(monkeypatch: pytest.MonkeyPatch, page: type[ActionAdmin], **changes: Any) -> None:
    """Let more than one row be more than one request does, in steps of one unless asked otherwise."""
    changed = {"most": 1, **changes}
    monkeypatch.setattr(page, "verbs", tuple(dataclasses.replace(verb, **changed) for verb in page.verbs))


def became(action: BulkAction) -> tuple[str, int, int, int, dict[str, int]]:
    """Return the state and the counts of an action as they are now."""
    action.refresh_from_db()
    return str(action.state), action.done, action.skipped, action.failed, action.reasons


def sent_again(room: Room) -> list[int]:
    """Return which seqs were sent again, each as often as that was done."""

    async def read() -> list[int]:
        found = await open_store().lists.live(0, 10_000, key_of(room))
        return sorted(one.resends for one in found if one.resends is not None)

    return run_async(read)


def states() -> dict[str, int]:
    """Return {state: how many dead letters}."""
    found = list(DeadLetter.objects.values_list("state", flat=True))
    return {state: found.count(state) for state in set(found)}


def progress(client: Client, action: BulkAction) -> str:
    """Return the page of an action."""
    answer = client.get(f"{PAGES}/bulkaction/{action.pk}/change/")
    assert answer.status_code == 200
    page: str = answer.content.decode()
    assert TEXT not in page
    return page


def at_step(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], Any], nth: int = 1) -> None:
    """Let something happen the first time that the job is at a place."""
    left = [nth]

    def step(here: str) -> None:
        if here == name:
            left[0] -= 1
            if left[0] == 0:
                happens()

    monkeypatch.setattr(bulk_job, "step", step)
