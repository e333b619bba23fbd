"""The actions of the staff in the browser, in both languages, and a look at all their pages in both, light and dark.

On a site with a message in each state: `seed_demo --states`.
"""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.axe import look, look_in_light_and_dark, look_without_contrast
from tests.e2e.conftest import OpenScreen
from tests.e2e.site import Demo, Person, Site
from tests.e2e.test_overview import LATER_MS, make_staff

pytestmark = pytest.mark.xdist_group("staff_acts")  # one demo of all states is enough

LISTS = "/admin/messaging"
ROOM = "What becomes of a message"
LANGUAGES = ("en", "zh-CN")
ANSWERS = {  # of the page, by language
    "send_again": ("Sent again: 1, skipped: 0, failed: 0.", "已补发：1，跳过：0，失败：0。"),
    "discard": ("Discarded: 1, skipped: 0, failed: 0.", "已丢弃：1，跳过：0，失败：0。"),
    "take_back": ("Reopened: 1, skipped: 0, failed: 0.", "已撤销：1，跳过：0，失败：0。"),
    "delete": ("Deleted: 1, skipped: 0, failed: 0.", "已删除：1，跳过：0，失败：0。"),
    "away": ("The store cannot be reached.", "无法连接存储。"),
    "paused": ("Paused.", "已暂停。"),
    "pace": ("Updates every 5 s.", "每 5 秒更新一次。"),
}
ROWS_OF_THE_ROOM = """
import json
from messaging.models import *
room = Room.objects.get(name={room!r})
print(json.dumps({{
    "room": room.pk,
    "letters": {{row.state: str(row.pk) for row in DeadLetter.objects.filter(room=room)}},
    "notice": str(Notice.objects.filter(room_key=room.pk).first().pk),
    "membership": Membership.objects.filter(room=room, user__username="bob").get().pk,
    "audit": AuditEntry.objects.filter(room_key=room.pk).first().pk,
}}))
"""


def text_of(answer: str, language: str) -> str:
    return ANSWERS[answer][LANGUAGES.index(language)]


@pytest.fixture(scope="module")
def states(site: Site) -> dict[str, str]:
    """Make a message in each state; return the keys of their rows."""
    site.manage("seed_demo", "--states", "--stay", "0", "--force")
    keys = json.loads(site.manage("shell", "--no-imports", "-c", ROWS_OF_THE_ROOM.format(room=ROOM)))
    return keys | keys.pop("letters")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def crew(site: Site) -> Demo:
    """Somebody who may do everything."""
    demo = site.seed(users=1)
    make_staff(site, demo.people[0])
    return demo


@pytest.fixture
def operator(crew: Demo) -> Person:
    return crew.people[0]


def choose(page: Page, row: Locator, action: str) -> None:
    """Mark a row, choose an action, press the button next to it."""
    row.locator("input.action-select").check()
    page.locator("select[name=action]").first.select_option(action)
    with page.expect_navigation():
        page.locator("button[name=index]").first.click()


def confirm(page: Page) -> None:
    with page.expect_navigation():
        page.locator("#content form input[type=submit]").click()


def answer(page: Page) -> Locator:
    return page.locator(".messagelist")


@pytest.mark.parametrize(("language", "state"), [("en", "open"), ("zh-CN", "discarded")])
def test_dead_letter_is_discarded_after_a_question_restored_and_sent_again(
    open_screen: OpenScreen, states: dict[str, str], operator: Person, language: str, state: str
) -> None:
    screen = open_screen(operator, language=language)
    page = screen.page
    letter = page.locator("#result_list tbody tr", has=page.locator(f'a[href*="{states[state]}"]'))

    def go(wanted: str) -> None:
        page.goto(f"{screen.site.url}{LISTS}/deadletter/?state__exact={wanted}&q={states['room']}")
        expect(letter).to_have_count(1)

    if state == "open":
        go("open")
        choose(page, letter, "discard")
        expect(page.locator("#content")).to_contain_text(ROOM)
        look(screen, "discard")
        page.locator(".cancel-link").click()
        expect(letter).to_have_count(1)
        choose(page, letter, "discard")
        confirm(page)
        expect(answer(page)).to_contain_text(text_of("discard", language))
        look(screen, "discarded")
        expect(letter).to_have_count(0)
    go("discarded")
    choose(page, letter, "take_back")
    expect(answer(page)).to_contain_text(text_of("take_back", language))
    go("open")
    choose(page, letter, "send_again")
    look(screen, "send again")
    confirm(page)
    expect(answer(page)).to_contain_text(text_of("send_again", language))
    go("requeued")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_message_is_deleted_after_a_question_and_its_text_shown_after_a_reason(
    open_screen: OpenScreen, states: dict[str, str], operator: Person, language: str
) -> None:
    screen = open_screen(operator, f"{LISTS}/storedmessage/?room={states['room']}", language=language)
    page = screen.page
    page.locator("#result_list tbody th a").last.click()
    expect(page.locator("#content")).not_to_contain_text("ends as well")
    page.locator("#id_reason").fill("somebody reported it")
    look(screen, "a reason")
    with page.expect_navigation():
        page.locator("form[action$='/text/'] [type=submit]").click()
    expect(page.locator("#content")).to_contain_text(re.compile("ends as well|Everybody has"))
    look(screen, "the text")

    page.goto(f"{screen.site.url}{LISTS}/storedmessage/?room={states['room']}")
    rows = page.locator("#result_list tbody tr")
    before = rows.count()
    choose(page, rows.last, "delete")
    look(screen, "delete")
    confirm(page)
    expect(answer(page)).to_contain_text(text_of("delete", language))
    expect(rows).to_have_count(before - 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_member_is_retried_and_their_attempts_are_reset(
    open_screen: OpenScreen, states: dict[str, str], operator: Person, language: str
) -> None:
    path = f"{LISTS}/undeliveredmember/?room={states['room']}"
    screen = open_screen(operator, path, language=language)
    page = screen.page
    person = page.locator("#result_list tbody tr", has_text="carol" if language == "en" else "bob")
    expect(person).to_contain_text(re.compile("[2-8]/8"))
    for action in ("retry", "reset"):
        choose(page, person, action)
        look(screen, action)
        confirm(page)
        expect(answer(page)).to_be_visible()
    expect(person).to_contain_text("0/8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_lifetime_is_changed_after_a_count_and_connections_are_closed(
    site: Site, open_screen: OpenScreen, operator: Person, language: str
) -> None:
    demo = site.seed(users=2)
    ada = demo.people[0]
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    hers.say("an hour at most")
    hers.waits_for_state("an hour at most", "sent", "delivering")
    screen = open_screen(operator, f"{LISTS}/room/?q={demo.room}", language=language)
    page = screen.page
    row = page.locator("#result_list tbody tr")
    choose(page, row, "lifetime")
    page.locator("#id_ttl").fill("5")
    confirm(page)
    expect(page.locator(".errorlist")).to_be_visible()
    look(screen, "too short")
    page.locator("#id_ttl").fill("600")
    page.locator("#id_shorten").check()
    confirm(page)
    expect(page.locator("#content p").nth(1)).to_contain_text(re.compile(r"\b1\b.*\b1\b.*\b0\b"))
    look(screen, "lifetime")
    confirm(page)
    expect(row).to_contain_text(re.compile("10 (min|分钟)"))

    page.goto(f"{site.url}{LISTS}/membership/?q={demo.room}")
    mine = page.get_by_role("link", name=ada.name, exact=True)
    choose(page, page.locator("#result_list tbody tr", has=mine), "close")
    look(screen, "close")
    with hers.page.expect_websocket():
        confirm(page)
    expect(answer(page)).to_contain_text("1")
    hers.wait_ready()


@pytest.mark.parametrize("language", LANGUAGES)
def test_filtered_dead_letters_are_exported(
    open_screen: OpenScreen, states: dict[str, str], operator: Person, language: str
) -> None:
    screen = open_screen(operator, f"{LISTS}/deadletter/?q={states['room']}", language=language)
    page = screen.page
    with page.expect_navigation():
        page.locator('a[href*="deadletter/export/"]').click()
    look(screen, "export")
    with page.expect_download() as download:
        page.locator("#content form [type=submit]").click()
    lines = download.value.path().read_text("utf-8-sig").splitlines()
    assert (len(lines), lines[0].split(",")[0]) == (1 + 3, "state")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_front_page_follows_pauses_and_outlives_the_store(
    site: Site, open_screen: OpenScreen, operator: Person, language: str
) -> None:
    screen = open_screen(operator, "/admin/", language=language)
    page = screen.page
    status, clock = page.get_by_role("status"), page.locator("[data-overview] time").first
    expect(status).to_have_text(text_of("pace", language))
    shown = clock.inner_text()
    expect(clock).not_to_have_text(shown, timeout=LATER_MS)
    page.locator("[data-pause]").click()
    expect(status).to_have_text(text_of("paused", language))
    page.locator("[data-pause]").click()
    expect(status).to_have_text(text_of("pace", language))

    banner = page.get_by_role("alert").filter(has_text=text_of("away", language))
    pid = site.store_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        expect(banner).to_be_visible(timeout=2 * LATER_MS)
        expect(page.locator('[data-card="letters"]')).to_be_visible()
        look(screen, "away")
    finally:
        os.kill(pid, signal.SIGKILL)
    expect(banner).to_have_count(0, timeout=3 * LATER_MS)
    expect(page.locator('[data-card="stored"]')).to_be_visible()


PAGES = (
    "/admin/",
    "/admin/messaging/",
    "/admin/auth/group/",
    "undeliveredroom/",
    "undeliveredroom/?q=user:carol",
    "undeliveredmember/?room={room}",
    "storedmessage/",
    "storedmessage/?room={room}",
    "storedmessage/{room}:6/change/",
    "storedmessage/{room}:99/change/",
    "storedmessage/{room}:6/history/",
    "deadletter/",
    "deadletter/?q=nosuch",
    "deadletter/{requeued}/change/",
    "deadletter/{requeued}/history/",
    "deadletter/export/",
    "notice/",
    "notice/{notice}/change/",
    "room/",
    "room/{room}/change/",
    "room/add/",
    "membership/",
    "membership/{membership}/change/",
    "membership/{membership}/delete/",
    "auditentry/",
    "auditentry/{audit}/change/",
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_page_has_anything_serious_or_breaks_the_policy(
    open_screen: OpenScreen, states: dict[str, str], operator: Person, language: str
) -> None:
    """The screen records violations of the content policy and errors, which fail the test at its end."""
    screen = open_screen(operator, "/admin/", language=language)
    look_at = look_in_light_and_dark if language == "en" else look_without_contrast
    for path in PAGES:
        address = path if path.startswith("/") else f"{LISTS}/{path.format(**states)}"
        screen.page.goto(screen.site.url + address)
        expect(screen.page.locator("h1").last).to_be_visible()
        look_at(screen, path)


def test_no_list_or_page_is_wider_than_a_phone(
    open_screen: OpenScreen, states: dict[str, str], operator: Person
) -> None:
    for language in LANGUAGES:
        screen = open_screen(operator, "/admin/", width=390, phone=True, language=language)
        for path in PAGES:
            address = path if path.startswith("/") else f"{LISTS}/{path.format(**states)}"
            screen.page.goto(screen.site.url + address)
            assert screen.page.evaluate("document.documentElement.scrollWidth") <= 390, path
