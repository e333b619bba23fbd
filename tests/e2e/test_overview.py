"""The staff's front page keeps itself up to date, stops when it is told to or not seen, and is whole without a script."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.axe import look_in_light_and_dark, look_without_contrast
from tests.e2e.conftest import OpenScreen
from tests.e2e.screen import Screen
from tests.e2e.site import Demo, Person, Site, wait_for

REFRESH_S = 5
LATER_MS = 15_000  # a refresh and what it may take
MAKE_STAFF = """
from django.contrib.auth import get_user_model
get_user_model().objects.filter(pk={id}).update(is_staff={staff}, is_superuser={staff})
"""
PRETEND_HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def make_staff(site: Site, person: Person, *, staff: bool = True) -> None:
    site.manage("shell", "-c", MAKE_STAFF.format(id=person.id, staff=staff))


@pytest.fixture
def operator(site: Site, demo: Demo) -> Person:
    """One of the three people, who is staff as well."""
    make_staff(site, demo.people[2])
    return demo.people[2]


def value(page: Page, card: str) -> str:
    return page.locator(f'[data-card="{card}"] b').inner_text()


def number(page: Page, card: str) -> int:
    return int(value(page, card).replace(",", ""))


def watch(page: Page) -> list[str]:
    """Return the list in which the page's own requests for the part that changes appear."""
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if one.url.endswith("/overview/") else None)
    return asked


def wait_for_request(page: Page) -> None:
    with page.expect_response("**/admin/overview/", timeout=LATER_MS):
        pass


def say(open_screen: OpenScreen, demo: Demo, text: str) -> None:
    hers: Screen = open_screen(demo.people[0], f"/r/{demo.room}/")
    hers.wait_ready()
    hers.say(text)
    hers.waits_for_state(text, "sent", "delivering", "delivered")


def test_figure_is_updated_and_the_actions_of_the_reader_are_kept(
    open_screen: OpenScreen, demo: Demo, operator: Person
) -> None:
    page = open_screen(operator, "/admin/").page
    before = number(page, "stored")
    page.locator("summary").first.click()
    page.locator('[data-card="workers"] a').focus()
    say(open_screen, demo, "counted")
    expect(page.locator('[data-card="stored"] b')).to_have_text(f"{before + 1:,}", timeout=3 * LATER_MS)
    expect(page.locator("details").first).to_have_attribute("open", "")
    expect(page.locator('[data-card="workers"] a')).to_be_focused()
    assert page.locator("[data-overview]").count() == 1


def test_pause_button_stops_and_resumes_the_figures(open_screen: OpenScreen, operator: Person) -> None:
    page = open_screen(operator, "/admin/").page
    pause = page.get_by_role("button", name="Pause")
    status = page.get_by_role("status")
    expect(status).to_have_text("Updates every 5 s.")
    wait_for_request(page)
    pause.focus()
    page.keyboard.press("Space")
    expect(pause).to_have_attribute("aria-pressed", "true")
    expect(status).to_have_text("Paused.")
    asked, shown = watch(page), page.locator("time").inner_text()
    page.wait_for_timeout((REFRESH_S + 2) * 1000)
    assert asked == []
    assert page.locator("time").inner_text() == shown
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "false")
    expect(status).to_have_text("Updates every 5 s.")
    expect(page.locator("time")).not_to_have_text(shown)


def test_a_hidden_tab_asks_for_nothing_and_asks_at_once_when_it_is_seen_again(
    open_screen: OpenScreen, operator: Person
) -> None:
    page = open_screen(operator, "/admin/").page
    asked = watch(page)
    page.evaluate(PRETEND_HIDDEN, True)
    page.wait_for_timeout((REFRESH_S + 2) * 1000)
    assert asked == []
    page.evaluate(PRETEND_HIDDEN, False)
    wait_for("a request", lambda: asked or page.wait_for_timeout(50), 2)


def test_a_screen_reader_hears_of_changes_of_state_alone(open_screen: OpenScreen, operator: Person) -> None:
    page = open_screen(operator, "/admin/").page
    expect(page.get_by_role("status")).to_have_text("Updates every 5 s.")
    page.evaluate(
        """() => {
          window.heard = [];
          const note = (changes) => window.heard.push(...changes.map((one) => one.target.textContent));
          for (const place of document.querySelectorAll("[role=status], [role=alert]")) {
            new MutationObserver(note).observe(place, { subtree: true, childList: true, characterData: true, attributes: true });
          }
        }"""
    )
    shown = page.locator("time").inner_text()
    expect(page.locator("time")).not_to_have_text(shown, timeout=LATER_MS)
    assert page.evaluate("window.heard") == []


def test_failed_server_or_ended_session_is_shown_and_the_figures_stay(
    site: Site, open_screen: OpenScreen, operator: Person
) -> None:
    page = open_screen(operator, "/admin/").page
    status = page.get_by_role("status")

    def fail(route: Route) -> None:
        route.fulfill(status=502, body="")

    page.route("**/admin/overview/", fail)
    expect(status).to_have_text(re.compile("^The server does not answer"), timeout=LATER_MS)
    assert page.locator("[data-card]").count() >= 10
    page.unroute("**/admin/overview/", fail)
    expect(status).to_have_text("Updates every 5 s.", timeout=LATER_MS)

    make_staff(site, operator, staff=False)
    expect(status).to_have_text(
        re.compile("^You are logged out, or you no longer have permission"), timeout=LATER_MS
    )
    asked = watch(page)
    page.wait_for_timeout((REFRESH_S + 2) * 1000)
    assert asked == []


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_nothing_serious_and_nothing_sideways(
    open_screen: OpenScreen, operator: Person, language: str
) -> None:
    look_at = look_in_light_and_dark if language == "en" else look_without_contrast
    for width, phone in ((1280, False), (390, True)):
        screen = open_screen(operator, "/admin/", language=language, width=width, phone=phone)
        expect(screen.page.locator("#overview")).to_have_text("Overview" if language == "en" else "概览")
        screen.page.locator("summary").first.click()
        look_at(screen, f"{language} {width}")
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_is_complete_without_javascript(open_screen: OpenScreen, operator: Person) -> None:
    page = open_screen(operator, "/admin/", java_script_enabled=False).page
    expect(page.locator("[data-pause]")).to_be_hidden()
    expect(page.locator("[data-pace]")).to_be_hidden()
    assert page.locator("[data-card]").count() >= 10
    assert page.locator("figure svg polyline").count() == 2
    assert re.search(r"As of [\d:]{8} UTC", page.locator("[data-overview]").inner_text())
