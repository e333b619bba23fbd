"""The cost of the staff's pages: the same at 1,000 rows and at 20,000, on the first page, the middle page and the last page.

The tests count the round trips to Redis, with any number of commands, and the statements to the database. The start of a page of a list
of all rooms is searched by counting at ever closer scores. This takes a few more round trips if the scores are further apart, at most
as many as the longest lifetime can be halved.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from bench.fill import messages
from bench.parts import admin
from messaging.bridge import in_db_thread
from messaging.models import DeadLetter, Membership, Notice, Room
from messaging.monitoring import site_figures
from messaging.store import connections

pytestmark = pytest.mark.usefixtures("verbs")

FEW, MANY = 1_000, 20_000
# Together with the large room these are whole pages of rooms, because a shorter page needs fewer reads.
ROOMS, LETTERS, CROWD = {FEW: 199, MANY: 1_999}, {FEW: 300, MANY: 2_000}, {FEW: 150, MANY: 900}
SEARCHES_APART = 3  # round trips by which finding where a page begins may differ


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which each round trip to Redis adds how many commands it carried."""
    made: list[int] = []
    call = connections.PipelinePool.call

    async def counting(self: Any, commands: Any) -> Any:
        made.append(len(commands))
        return await call(self, commands)

    monkeypatch.setattr(connections.PipelinePool, "call", counting)
    monkeypatch.setattr(site_figures, "MAX_AGE_S", 0.0)
    return made


def fill(rows: int) -> dict[str, Any]:
    """Fill store and database by the verbs that the measurement uses, from nothing."""
    for model in (Notice, DeadLetter, Membership, Room, User):
        model.objects.all().delete()
    rooms, each = ROOMS[rows], rows * 9 // 10 // ROOMS[rows]
    options = argparse.Namespace(
        rooms=rooms,
        each=each,
        crowd=CROWD[rows],
        crowd_each=rows - rooms * each,
        letters=LETTERS[rows],
    )
    return messages.fill(options)


def ask(client: Client, path: str, trips: list[int]) -> tuple[int, int]:
    """Return how many round trips and statements a page takes."""
    trips.clear()
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(path)
    assert answer.status_code in (200, 302), path
    return len(trips), len(queries)


def costs(rows: int, trips: list[int]) -> dict[str, tuple[int, int]]:
    filled = fill(rows)
    assert filled["count"]["stored"] == rows
    client = Client()
    client.force_login(
        User.objects.get(pk=filled["staff"]["id"]), "django.contrib.auth.backends.ModelBackend"
    )
    asked = admin.pages(filled)
    for _name, path in asked:
        client.get(path)  # scripts are loaded, content types known
    return {name: ask(client, path, trips) for name, path in asked}


@pytest.mark.proof
async def test_every_page_costs_the_same_at_1000_rows_and_at_20000_from_the_first_to_the_last(
    trips: list[int],
) -> None:
    random.seed(1)
    few = await in_db_thread(costs, FEW, trips)
    await _empty()
    many = await in_db_thread(costs, MANY, trips)
    assert few.keys() == many.keys()
    statements = {name: (few[name][1], many[name][1]) for name in few}
    assert {name: pair for name, pair in statements.items() if pair[0] != pair[1]} == {}
    for name in [name for name in many if name.endswith(", last page")]:
        kind = name.removesuffix(", last page")
        page_costs = [
            costs_[f"{kind}, {where} page"] for costs_ in (few, many) for where in ("first", "middle", "last")
        ]
        assert len({queries for _, queries in page_costs}) == 1, (name, page_costs)
        taken = [made for made, _ in page_costs]
        apart = SEARCHES_APART if kind in ("undelivered", "messages") else 0
        assert max(taken) - min(taken) <= apart, (name, page_costs)
        assert max(taken) <= 25, (name, page_costs)
    for name in few:
        if "page" not in name and name not in admin.FRONT:
            assert few[name][0] == many[name][0], (name, few[name], many[name])


async def _empty() -> None:
    from messaging.store import open_store

    await open_store().client.flushdb()


@pytest.mark.proof
def test_the_measurement_of_the_pages_fills_a_site_and_gets_an_answer_from_each(tmp_path: Any) -> None:
    out = tmp_path / "admin.json"
    command = [sys.executable, "-m", "bench.parts.admin", "--check", "--out", str(out)]
    done = subprocess.run(command, cwd=admin.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["count"]["stored"] == admin.SMALL.rooms * admin.SMALL.each + admin.SMALL.crowd_each
    assert all(page["p95"] > 0 for page in report["pages"].values())
