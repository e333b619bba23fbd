"""The demo's message in every state: created once by connections, jobs and staff, and visible on the pages of staff."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.test import Client, override_settings

from messaging.admin import overview
from messaging.bridge import in_db_thread
from messaging.demo import people as demo
from messaging.demo import states
from messaging.demo.people import Note
from messaging.errors import Conflict
from messaging.models import AuditEntry, DeadLetter, Membership, Notice, Room
from messaging.monitoring import site_figures
from messaging.store import open_store
from tests.support.expired_records import with_policy
from tests.support.messages import dump

pytestmark = pytest.mark.usefixtures("verbs", "hurry")
ADMIN = "/admin/messaging"
WITHIN_S = 30.0


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Let the job run a second after an end; keep the note in a separate folder."""
    with_policy(monkeypatch, claim_delay_s=1)
    with override_settings(DATA_DIR=tmp_path):
        yield


async def seeded() -> Note:
    note = await in_db_thread(demo.seed_first_run)
    assert note is not None
    return note


async def noted() -> Note:
    note = await in_db_thread(demo.kept_note)
    assert note is not None
    return note


async def cards() -> dict[str, str]:
    figures = await in_db_thread(site_figures.count)
    assert figures.account is not None
    assert figures.account.unaccounted == 0
    return {card.key: card.value for card in overview.cards(figures)}


async def staff_client() -> Client:
    client = Client(headers={"accept-language": "en"})
    user = await User.objects.aget(is_superuser=True)
    await in_db_thread(client.force_login, user, "django.contrib.auth.backends.ModelBackend")
    return client


async def get(client: Client, path: str) -> str:
    answer = await in_db_thread(client.get, f"{ADMIN}/{path}")
    assert answer.status_code == 200
    return str(answer.content.decode())


def row(page: str, name: str) -> str:
    """Return the text of the row of a name in a list, without tags."""
    [figures] = [markup for markup in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if f">{name}<" in markup]
    return " ".join(re.sub(r"<[^>]+>", " ", figures).split())


@pytest.mark.proof  # a page must answer within 50 ms: not next to other tests
async def test_every_state_is_visible_to_the_staff() -> None:
    note = await seeded()
    assert await states.make(note)
    figures = await cards()
    assert {
        key: figures[key] for key in ("stored", "lagging", "parked", "retrying", "gave_up", "letters")
    } == {
        "stored": "5",  # the one sent again, delivered, rejected, waiting, parked
        "lagging": "0",  # nobody is connected
        "parked": "4",  # three do not have `waiting`, carol not the one of the other room
        "retrying": "1",
        "gave_up": "1",
        "letters": "1",
    }
    client = await staff_client()
    room = (await noted()).states
    members = await get(client, f"undeliveredmember/?room={room}")
    assert re.search(r"bob offline 1 message .* [2-7]/8 no answer", row(members, "bob"))
    assert re.search(r"carol offline 1 message .* 8/8 no answer", row(members, "carol"))
    assert re.search(r"小林 offline 1 message .* 0/8 offline", row(members, "小林"))
    parked = await Room.objects.aget(name="读书会")
    assert re.search(
        r"carol offline 1 message .* 0/8",
        row(await get(client, f"undeliveredmember/?room={parked.pk}"), "carol"),
    )

    messages = await get(client, f"storedmessage/?room={room}")
    assert re.findall(r'ops-state" data-kind="(\w+)">([^<]+)<', messages) == [
        ("waits", "not received by 3"),
        ("missed", "not displayed for 1"),
        ("held", "received by all"),
        ("held", "received by all"),
    ]
    last = max(int(seq) for seq in re.findall(rf"{room}_3A(\d+)/change/", messages))
    page = await get(client, f"storedmessage/{room}:{last}/change/")
    assert "gave up: no answer" in row(page, "carol")
    assert "could not be displayed" in row(
        await get(client, f"storedmessage/{room}:{last - 1}/change/"), "grace"
    )

    letters = {letter.state: letter async for letter in DeadLetter.objects.all()}
    assert set(letters) == {"open", "requeued", "discarded"}
    page = await get(client, f"deadletter/{letters['open'].pk}/change/")
    assert "bob" in page
    missed = {(markup.name, markup.reason) async for markup in letters["discarded"].missed_recipients.all()}
    assert missed == {
        ("grace", "client_rejected"),
        ("bob", "offline"),
        ("carol", "no_ack"),
        ("小林", "offline"),
    }
    assert await Notice.objects.filter(user__username="ada").acount() == 3
    assert {entry.verb async for entry in AuditEntry.objects.exclude(verb="lifetime")} == {
        "requeue",
        "discard",
    }
    assert await Session.objects.acount() == 1, "only this staff member is still logged in"


async def test_connected_member_lags_until_they_disconnect() -> None:
    note = await seeded()
    await states.make(note)
    gone = False
    staying = asyncio.ensure_future(states.stay(await noted(), 60, stopping=lambda: gone))
    seen: dict[str, str] = {}

    async def lags() -> bool:
        seen.update(await cards())
        return seen["lagging"] == "1"

    async with asyncio.timeout(WITHIN_S):
        while not await lags():
            assert not staying.done()
            await asyncio.sleep(0.05)
    assert (seen["connections"], seen["parked"]) == ("1", "3")
    gone = True
    await staying
    assert (await cards())["lagging"] == "0"


async def test_a_second_run_adds_nothing() -> None:
    await states.make(await seeded())
    before = await kept()
    assert not await states.make(await noted())
    assert await kept() == before


async def kept() -> dict[str, Any]:
    """Return the content of store and database, without presence and the times of jobs."""
    held = {
        key: value
        for key, value in (await dump(open_store())).items()
        if not key.startswith(("chat:online", "chat:jobs"))
    }
    models = (Room, Membership, DeadLetter, Notice, AuditEntry, LogEntry, User)
    return {**held, **{model.__name__: await model.objects.acount() for model in models}}


@pytest.mark.parametrize("looks", [1, 30, 90, 130])
async def test_interrupted_run_that_is_repeated_sends_nothing_twice(looks: int) -> None:
    note = await seeded()
    counted = itertools.count()
    with pytest.raises(states.Stopped):
        await states.make(note, stopping=lambda: next(counted) >= looks)
    note = await noted()
    assert note.states
    assert not note.states_done
    assert await states.make(note)
    figures = await in_db_thread(site_figures.count)
    assert figures.account is not None
    assert (figures.account.accepted, figures.account.unaccounted) == (8, 0)
    assert await Room.objects.filter(name=states.ROOM).acount() == 1
    assert await DeadLetter.objects.acount() == 3


async def test_states_need_the_people_of_the_demo() -> None:
    await seeded()
    await User.objects.filter(username="carol").adelete()
    with pytest.raises(Conflict, match="not all here"):
        await states.make(await noted())
    assert (await noted()).states == ""


async def test_numbers_and_states_exclude_each_other() -> None:
    with pytest.raises(CommandError) as refused:
        await in_db_thread(call_command, "seed_demo", states=True, users=3, force=True)
    assert refused.value.returncode == 2
