"""Bulk actions of the staff over many dead letters, started from the staff's pages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from messaging import checkpoints
from messaging.admin.action_admin import ActionAdmin
from messaging.bridge import run_async
from messaging.expiry import reports
from messaging.models import BulkAction, DeadLetter, Room
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support.expired_records import TEXT, expired, missed
from tests.support.people import person, room_of

PAGES = "/admin/messaging"
RECORDS_BATCH = 500
BACKEND = "django.contrib.auth.backends.ModelBackend"
MAY = ("view_deadletter", "requeue_deadletter", "discard_deadletter", "view_bulkaction")


def staff(*rights: str, name: str = "staff", **fields: Any) -> Client:
    """Return the browser of a staff member with these permissions."""
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
    for at in range(0, count, RECORDS_BATCH):
        reports.record(rows[at : at + RECORDS_BATCH], now_ms)
    return room


def ask(client: Client, path: str, action: str, **form: Any) -> Any:
    """Select all rows of a list and an action; return the confirmation page."""
    key = "0"  # the ticked row does not matter
    data = {"action": action, "_selected_action": key, "select_across": "1", **form}
    answer = client.post(f"{PAGES}/{path}", data, follow=True)
    assert answer.status_code == 200, answer.content.decode()
    return answer


def confirm(client: Client, path: str, action: str, page: Any, **form: Any) -> str:
    """Confirm on a confirmation page; return the messages of the list after it."""
    data = {"action": action, "bulk": page.context["bulk"], "confirmed": "yes", **form}
    answer = client.post(f"{PAGES}/{path}", data, follow=True)
    assert answer.status_code == 200, answer.content.decode()
    return " ".join(
        re.findall(r'<li class="(?:success|warning|error)">(.*?)</li>', answer.content.decode(), re.S)
    )


def begin(client: Client, action: str, path: str = "deadletter/", **form: Any) -> BulkAction:
    """Select all rows and confirm; return the bulk action, which is running."""
    page = ask(client, path, action, **form)
    shown = confirm(client, path, action, page, **form)
    assert shown.startswith("Started: "), shown
    return BulkAction.objects.get(state="running", verb=action)


def small(monkeypatch: pytest.MonkeyPatch, page: type[ActionAdmin], **changes: Any) -> None:
    """Make more than one row a bulk action; `changes`: other fields of the actions."""
    changed = {"max_rows": 1, **changes}
    actions = tuple(dataclasses.replace(action, **changed) for action in page.row_actions)
    monkeypatch.setattr(page, "row_actions", actions)


def result_of(action: BulkAction) -> tuple[str, int, int, int, dict[str, int]]:
    """Return the current state and counts of a bulk action."""
    action.refresh_from_db()
    return str(action.state), action.done, action.skipped, action.failed, action.reasons


def sent_again(room: Room) -> list[int]:
    """Return the seqs that were sent again, each as often as it was sent."""

    async def read() -> list[int]:
        messages = await open_store().lists.live(0, 10_000, key_of(room))
        return sorted(message.resends for message in messages if message.resends is not None)

    return run_async(read)


def states() -> dict[str, int]:
    """Return {state: number of dead letters}."""
    values = list(DeadLetter.objects.values_list("state", flat=True))
    return {state: values.count(state) for state in set(values)}


def progress(client: Client, action: BulkAction) -> str:
    """Return the page of a bulk action."""
    answer = client.get(f"{PAGES}/bulkaction/{action.pk}/change/")
    assert answer.status_code == 200
    page: str = answer.content.decode()
    assert TEXT not in page
    return page


def at_step(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], Any], nth: int = 1) -> None:
    """Call `happens` when the job reaches a step for the nth time."""
    left = [nth]

    def reach(checkpoint: str) -> None:
        if checkpoint == f"bulk_job.{name}":
            left[0] -= 1
            if left[0] == 0:
                happens()

    monkeypatch.setattr(checkpoints, "reach", reach)
