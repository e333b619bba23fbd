"""Dead letters as CSV: the filtered letters, without a text, and no cell that a spreadsheet would compute."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import AsyncClient

from messaging.admin import export
from messaging.bridge import in_db_thread
from messaging.models import DeadLetter, Room
from tests.support.expired_records import TEXT, letter
from tests.support.people import person, room_of

pytestmark = pytest.mark.usefixtures("verbs")
EXPORT = "/admin/messaging/deadletter/export/"


@pytest.fixture
async def staff(verbs: None) -> AsyncClient:
    user = await person("staff", is_staff=True, is_superuser=True)
    client = AsyncClient(headers={"accept-language": "en"})
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
async def people(verbs: None) -> tuple[User, User]:
    return await person("ada"), await person("grace")


@pytest.fixture
async def room(people: tuple[User, User]) -> Room:
    return await room_of(*people)


async def exported(staff: AsyncClient, query: str = "") -> tuple[str, list[dict[str, str]]]:
    """Return the file, and its rows by column."""
    answer = await staff.post(EXPORT + query)
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.streaming
    parts = [part async for part in answer]
    text = b"".join(parts).decode("utf-8-sig")
    return text, list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("batch", [500, 2])
async def test_export_has_all_filtered_letters_and_no_text(
    staff: AsyncClient, room: Room, people: tuple[User, User], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LETTERS_BATCH", batch)
    for seq in range(1, 6):  # at the same time: only the id distinguishes them
        await in_db_thread(letter, room, people[0], people[1], seq=seq)
    await DeadLetter.objects.filter(seq=3).aupdate(state="discarded")

    text, rows = await exported(staff)
    assert {row["seq"] for row in rows} == set("12345")
    assert len(rows) == 5
    assert rows[0]["missed_by"] == "grace (offline)"
    assert rows[0]["sender_name"] == "ada"
    assert TEXT not in text
    _, rows = await exported(staff, "?state__exact=discarded")
    assert [row["seq"] for row in rows] == ["3"]
    entry = await LogEntry.objects.alatest("pk")
    assert (entry.object_repr, entry.change_message) == ("dead letters", "exported: 1")


async def test_no_cell_is_a_formula(staff: AsyncClient, room: Room, people: tuple[User, User]) -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "quoted", name', "小林"]
    for seq, name in enumerate(names, start=1):
        made = await in_db_thread(letter, room, people[0], people[1], seq=seq)
        await DeadLetter.objects.filter(pk=made.pk).aupdate(sender_name=name)
    _, rows = await exported(staff)
    by_seq = {int(row["seq"]): row["sender_name"] for row in rows}
    assert [by_seq[seq] for seq in range(1, 9)] == [*(f"'{name}" for name in names[:6]), *names[6:]]


async def test_a_page_shows_the_number_first_and_an_unknown_filter_is_refused(
    staff: AsyncClient, room: Room, people: tuple[User, User]
) -> None:
    await in_db_thread(letter, room, people[0], people[1], seq=1)
    page: Any = await staff.get(EXPORT)
    assert "1 dead letter from the filtered list" in page.content.decode()
    assert EXPORT in (await staff.get("/admin/messaging/deadletter/")).content.decode()
    assert (await staff.post(EXPORT + "?state__nonsense=1")).status_code == 400
    assert not await LogEntry.objects.aexists()
