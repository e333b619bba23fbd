"""The permissions of the staff: every cell of the table in docs/reference/staff-rights.md, asked of the server."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.test import AsyncClient

from messaging.admin.action_admin import ActionAdmin
from messaging.bridge import in_db_thread
from messaging.models import BulkAction, Membership
from messaging.rooms.memberships import key_of
from messaging.store import open_store
from tests.support.expired_records import letter
from tests.support.messages import accept, message
from tests.support.people import person, room_of
from tests.unit.test_docs import DOCS, names_in, table

pytestmark = pytest.mark.usefixtures("verbs")

LISTS = {
    "undelivered rooms": "undeliveredroom",
    "undelivered members": "undeliveredmember",
    "messages": "storedmessage",
    "dead letters": "deadletter",
    "rooms": "room",
    "memberships": "membership",
    "bulk actions": "bulkaction",
}
ROLES = ("none", "Operators", "Moderators", "superuser")
GIVEN: dict[str, dict[str, Any]] = {"extend": {"ttl": 60}, "lifetime": {"ttl": 60}}
GROUPS = "messaging.migrations.0006_groups_of_the_staff"
LATER = "messaging.migrations.0008_groups_see_bulk_actions"

Cell = tuple[str, str]  # page, POST


def table_rows() -> dict[tuple[str, str], tuple[str, dict[str, Cell]]]:
    """Return {(list, action): (right, {role: cell})} of the page."""
    rows = {}
    for action, on, right, *cells in table(DOCS / "reference" / "staff-rights.md", "# Staff rights"):
        pairs = [tuple(cell.split(" / ")) for cell in cells]
        rows[LISTS[on], names_in(action)[0]] = names_in(right)[0], dict(zip(ROLES, pairs, strict=True))
    return rows  # type: ignore[return-value]


def migrated(back_to: str) -> None:
    call_command("migrate", "messaging", back_to, verbosity=0)
    Group.objects.all().delete()
    Permission.objects.filter(content_type__app_label="messaging").delete()
    call_command("migrate", "messaging", verbosity=0)


@pytest.fixture
async def groups(verbs: None) -> None:
    """Make the groups as the migration does where no right is there yet."""
    await in_db_thread(migrated, "0005_rights_of_the_staff")


def test_every_action_of_a_list_is_in_the_table_with_its_right() -> None:
    there = {
        (model._meta.model_name, action.name): action.permission.removeprefix("messaging.")
        for model, page in admin.site._registry.items()
        if isinstance(page, ActionAdmin)
        for action in page.row_actions
    }
    pages = {
        ("storedmessage", "text"): "view_body",
        ("deadletter", "export"): "export_deadletter",
        ("bulkaction", "stop"): "discard_deadletter",  # that of its action
    }
    assert {key: right for key, (right, _) in table_rows().items()} == there | pages


async def test_the_groups_have_what_the_migration_gives_them_and_keep_what_else_they_may(
    groups: None,
) -> None:
    first, later = import_module(GROUPS).GROUPS, import_module(LATER).GROUPS
    for name, wanted in {name: (*first[name], *later[name]) for name in first}.items():
        group = await Group.objects.aget(name=name)
        assert {permission.codename async for permission in group.permissions.all()} == set(wanted)
    operators = await Group.objects.aget(name="Operators")
    await operators.permissions.aadd(await Permission.objects.aget(codename="change_room"))
    await in_db_thread(call_command, "migrate", "messaging", "0005_rights_of_the_staff", verbosity=0)
    await in_db_thread(call_command, "migrate", "messaging", verbosity=0)
    assert await operators.permissions.acount() == len((*first["Operators"], *later["Operators"])) + 1


@pytest.mark.parametrize("role", ROLES)
async def test_every_cell_matches_the_table(role: str) -> None:
    ada, grace = await person("ada"), await person("grace")
    rows = await rows_of(ada, grace)
    user = await person("staff", is_staff=True, is_superuser=role == "superuser")
    if role in ("Operators", "Moderators"):
        await user.groups.aset([await Group.objects.aget(name=role)])
    client = AsyncClient(headers={"accept-language": "en"})
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")

    wanted = {key: cells[role] for key, (_right, cells) in table_rows().items()}
    seen = {key: await cell_of(client, *key, rows[key], wanted[key]) for key in wanted}
    assert seen == wanted
    if role == "none":
        assert not await LogEntry.objects.aexists()


async def rows_of(ada: User, grace: User) -> dict[tuple[str, str], str]:
    """Return a row for each action, none of which another action changes."""
    room = await room_of(ada, grace)
    key = key_of(room)
    await accept(open_store(), *(message(user=ada.pk, room=key) for _ in range(3)))
    made = {name: await in_db_thread(letter, room, ada, grace, seq=seq) for seq, name in enumerate("abc", 1)}
    bulk_action = await BulkAction.objects.acreate(
        listed="deadletter", verb="discard", state="running", total=1, asked_at=made["a"].processed_at
    )
    membership = await Membership.objects.aget(user=grace)
    return {
        ("undeliveredroom", "retry"): room.pk,
        ("undeliveredmember", "retry"): f"{room.pk}:{grace.pk}",
        ("undeliveredmember", "reset"): f"{room.pk}:{grace.pk}",
        ("storedmessage", "delete"): f"{room.pk}:1",
        ("storedmessage", "extend"): f"{room.pk}:2",
        ("storedmessage", "text"): f"{room.pk}:3",
        ("deadletter", "send_again"): str(made["a"].pk),
        ("deadletter", "discard"): str(made["b"].pk),
        ("deadletter", "take_back"): str(made["c"].pk),
        ("deadletter", "export"): "",
        ("room", "lifetime"): room.pk,
        ("membership", "close"): str(membership.pk),
        ("bulkaction", "stop"): str(bulk_action.pk),
    }


async def cell_of(client: AsyncClient, model: str, action: str, row: str, wanted: Cell) -> Cell:
    """Request the confirmation page, and post the action without it."""
    base = f"/admin/messaging/{model}/"
    if action in ("text", "export"):
        path = f"{base}{row}/text/" if action == "text" else f"{base}export/"
        asked = await client.get(path)
        done = await client.post(path, {"reason": "reported"})
        return _cell(asked, 200), _cell(done, 200)
    if action == "stop":
        asked = await client.get(f"{base}{row}/change/")
        return _cell(asked, 200), _cell(await client.post(f"{base}{row}/stop/"), 302)
    chosen = {"action": action, "_selected_action": row, **GIVEN.get(action, {})}
    asked = None if wanted[0] == "–" else await client.post(base, chosen)
    done = await client.post(
        base, {"action": action, "chosen": row, "confirmed": "yes", **GIVEN.get(action, {})}
    )
    if asked is not None and asked.status_code == 200:
        assert asked.context["chosen"] == row
    return "–" if asked is None else _cell(asked, 200), _cell(done, 302)


def _cell(answer: Any, allowed: int) -> str:
    return {403: "403", allowed: "allowed"}[answer.status_code]
