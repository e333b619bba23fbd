"""Among 100,000 messages that wait and 10,000 dead letters an operator finds why one did not reach one person: three clicks, one search."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.screen import Contexts, Screen
from tests.e2e.site import ROOT, Person, Site

pytestmark = pytest.mark.xdist_group("busy")  # one site of this size is enough

WAITING, LETTERS = 100_000, 10_000
ROOMS, EACH = 1_000, 100
PAGE_MS = 3_000  # far more than a page takes: it is not what is measured here
OPERATOR = """
from django.contrib.auth.models import Group, User
User.objects.filter(pk={id}).update(is_superuser=False)
User.objects.get(pk={id}).groups.set([Group.objects.get(name="Operators")])
"""


class Operator:
    """A member of the Operators at the front page, who counts their actions."""

    def __init__(self, screen: Screen) -> None:
        self.page: Page = screen.page
        self.page.set_default_timeout(PAGE_MS)
        self.clicks = self.searches = 0

    def click(self, what: Locator) -> None:
        self.clicks += 1
        with self.page.expect_navigation():
            what.click()

    def search(self, words: str) -> None:
        self.searches += 1
        self.page.locator("#searchbar").fill(words)
        with self.page.expect_navigation():
            self.page.locator("#searchbar").press("Enter")

    def card(self, name: str) -> Locator:
        return self.page.locator(f'[data-card="{name}"] a')


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, site_data: Path
) -> Iterator[tuple[Site, dict[str, Any]]]:
    """Start a separate site and fill it."""
    site = Site(tmp_path_factory.mktemp("busy"), site_data)
    site.start()
    command = [sys.executable, "-m", "bench.fill.messages", "--rooms", str(ROOMS), "--each", str(EACH)]
    done = subprocess.run(
        [*command, "--letters", str(LETTERS)],
        cwd=ROOT,
        env=site.environment,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    site.manage("shell", "-c", OPERATOR.format(id=found["staff"]["id"]))
    yield site, found
    site.stop()


@pytest.fixture
def operator(filled: tuple[Site, dict[str, Any]], contexts: Contexts) -> Iterator[Operator]:
    site, found = filled
    person = Person(found["staff"]["id"], "", "", found["staff"]["session"].partition("=")[2])
    screen = Screen(contexts, site, person, "/admin/")
    yield Operator(screen)
    assert screen.faults() == []
    screen.close()


def test_site_holds_the_promised_numbers(operator: Operator, filled: tuple[Site, dict[str, Any]]) -> None:
    count = filled[1]["count"]
    assert (count["stored"], count["letters"]) == (WAITING, LETTERS)
    expect(operator.card("stored").locator("b")).to_have_text(f"{WAITING:,}")
    expect(operator.card("letters").locator("b")).to_have_text(f"{LETTERS:,}")


def test_waiting_message_is_found_by_its_recipient(
    operator: Operator, filled: tuple[Site, dict[str, Any]]
) -> None:
    wanted, page = filled[1]["wanted"], operator.page
    operator.click(operator.card("parked"))
    operator.search(f"user:{wanted['person']}")
    operator.click(page.locator(f'#result_list a[href*="undeliveredmember/?room={wanted["room"]}"]'))
    row = page.locator("#result_list tbody tr", has_text=wanted["person"])
    expect(row).to_contain_text(f"{EACH} messages")
    operator.click(row.locator('a[href*="/storedmessage/"]'))
    expect(recipient(page, wanted["person"])).to_contain_text("offline: sent when they reconnect")
    assert (operator.clicks, operator.searches) == (3, 1)


def test_waiting_message_is_found_by_its_number(
    operator: Operator, filled: tuple[Site, dict[str, Any]]
) -> None:
    wanted, page = filled[1]["wanted"], operator.page
    operator.click(operator.card("stored"))
    operator.search(wanted["message"])
    expect(page.locator("h1").last).to_have_text(f"Message {wanted['seq']} in Room {ROOMS // 2:05}")
    expect(recipient(page, wanted["person"])).to_contain_text("offline: sent when they reconnect")
    assert (operator.clicks, operator.searches) == (1, 1)


def test_expired_message_is_found_by_its_number(
    operator: Operator, filled: tuple[Site, dict[str, Any]]
) -> None:
    letter, page = filled[1]["letter"], operator.page
    operator.click(operator.card("stored"))
    operator.search(letter["message"])
    assert page.url.endswith(f"/deadletter/{letter['id']}/change/")
    expect(page.locator("#missed_recipients-group tr", has_text=letter["person"])).to_have_count(1)
    assert (operator.clicks, operator.searches) == (1, 1)


def recipient(page: Page, name: str) -> Locator:
    return page.locator(".ops-people tr", has_text=name)
