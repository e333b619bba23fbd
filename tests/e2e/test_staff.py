"""The staff find why one message did not reach one person, with a keyboard alone, in both languages, and while the store is away."""

from __future__ import annotations

import os
import signal

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.axe import look
from tests.e2e.conftest import OpenScreen
from tests.e2e.screen import Contexts, Screen
from tests.e2e.site import Demo, Person, Site, wait_for
from tests.e2e.test_overview import make_staff

MAX_TABS = 150
LISTS = "/admin/messaging"


@pytest.fixture(scope="module")
def rooms(site: Site) -> Demo:
    """Four rooms of four people, of whom the first is staff."""
    demo = site.seed(users=4, rooms=4)
    make_staff(site, demo.people[0])
    return demo


@pytest.fixture
def operator(rooms: Demo) -> Person:
    return rooms.people[0]


@pytest.fixture(scope="module")
def waiting(site: Site, contexts: Contexts, rooms: Demo) -> Demo:
    """Every room has a message that was sent while nobody else was connected."""
    for at, room in enumerate(rooms.rooms):
        screen = Screen(contexts, site, rooms.people[1 + at % 2], f"/r/{room['id']}/")
        screen.wait_ready()
        screen.say("said to nobody")
        screen.waits_for_state("said to nobody", "sent")
        screen.close()
    return rooms


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until `wanted` has the focus."""
    expect(wanted).to_be_visible()
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        if wanted.evaluate("(one) => one === document.activeElement"):
            return
    raise AssertionError(f"not reached by Tab: {wanted}")


def press(page: Page, wanted: Locator) -> None:
    """Follow a link with the keyboard, as a click does with a mouse."""
    tab_to(page, wanted)
    with page.expect_navigation():
        page.keyboard.press("Enter")


@pytest.mark.parametrize(
    ("language", "offline", "why"),
    [
        ("en", "offline", "offline: sent when they reconnect"),
        ("zh-CN", "离线", "离线：上线后立即送达"),
    ],
)
def test_reason_of_a_missed_message_is_three_links_and_a_search_away(
    open_screen: OpenScreen, waiting: Demo, operator: Person, language: str, offline: str, why: str
) -> None:
    room, lacking = waiting.rooms[2], waiting.people[3]
    screen = open_screen(operator, "/admin/", language=language)
    page = screen.page
    press(page, page.locator('[data-card="parked"] a'))
    look(screen, "rooms")
    tab_to(page, page.locator("#searchbar"))
    page.keyboard.type(f"user:{lacking.name}")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("#result_list tbody tr")).to_have_count(len(waiting.rooms))

    press(page, page.locator(f'#result_list a[href*="undeliveredmember/?room={room["id"]}"]'))
    row = page.locator("#result_list tbody tr", has_text=lacking.name)
    expect(row).to_contain_text(offline)
    look(screen, "members")

    press(page, row.locator('a[href*="/storedmessage/"]'))
    recipient = page.locator(".ops-people tr", has_text=lacking.name)
    expect(recipient).to_contain_text(why)
    assert "said to nobody" not in page.content()
    tab_to(page, page.locator(".ops-keys summary"))
    page.keyboard.press("Enter")
    look(screen, "message")


def test_nothing_serious_and_nothing_sideways_on_a_phone_in_the_dark(
    open_screen: OpenScreen, waiting: Demo, operator: Person
) -> None:
    room = waiting.rooms[1]["id"]
    screen = open_screen(operator, "/admin/", width=390, phone=True, dark=True, language="zh-CN")
    for path in (
        "undeliveredroom/",
        f"undeliveredmember/?room={room}",
        "storedmessage/",
        f"storedmessage/?room={room}",
        f"storedmessage/{room}:1/change/",
        f"storedmessage/{room}:99/change/",
        "storedmessage/?q=nosuch",
        "deadletter/",
        "notice/",
    ):
        screen.page.goto(f"{screen.site.url}{LISTS}/{path}")
        look(screen, path)
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_a_store_that_is_away_is_reported_and_the_page_works_again(
    site: Site, open_screen: OpenScreen, waiting: Demo, operator: Person
) -> None:
    screen = open_screen(operator, f"{LISTS}/storedmessage/")
    page = screen.page
    expect(page.locator("#result_list tbody tr").first).to_be_visible()
    pid = site.store_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("The store does not answer.")
        look(screen, "away")
        page.get_by_role("link", name="Dead letters").last.click()
        expect(page.locator("h1").last).to_have_text("Dead letters")
    finally:
        os.kill(pid, signal.SIGKILL)
    page.goto(f"{site.url}{LISTS}/storedmessage/")
    wait_for("the list", lambda: listed(screen), 30)


def listed(screen: Screen) -> bool:
    """Reload, with the link on the page."""
    if screen.page.locator("#result_list tbody tr").count():
        return True
    screen.page.locator(".ops-again").click()
    return False
