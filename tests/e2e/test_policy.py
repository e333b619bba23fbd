"""No page breaks the content policy, and none has anything serious for axe."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.axe import look
from tests.e2e.conftest import OpenScreen
from tests.e2e.site import Demo

OUTSIDE = ["/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/nowhere/"]
INSIDE = ["/", "/accounts/password/change/", "/accounts/logout/", "/accounts/email/"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_pages_for_everybody_keep_the_policy(open_screen: OpenScreen, path: str) -> None:
    screen = open_screen(None, path)
    expect(screen.page.locator("main")).to_be_visible()
    look(screen, path)


@pytest.mark.parametrize("path", INSIDE)
def test_pages_for_members_keep_the_policy(open_screen: OpenScreen, demo: Demo, path: str) -> None:
    screen = open_screen(demo.people[0], path)
    expect(screen.page.locator("main")).to_be_visible()
    look(screen, path)
