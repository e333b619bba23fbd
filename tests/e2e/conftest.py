"""One site for all browser tests, one browser, and a person's screen in it. A violation of the content policy fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.screen import Contexts, Screen, launch
from tests.e2e.site import Demo, Person, Site

OpenScreen = Callable[..., Screen]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, site_data: Path) -> Iterator[Site]:
    one = Site(tmp_path_factory.mktemp("site"), site_data)
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def contexts() -> Iterator[Contexts]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield Contexts(browser)
        browser.close()


@pytest.fixture(scope="session")
def demos(site: Site) -> Iterator[Callable[[], Demo]]:
    """Return a function that gives the next three people; the ones after them are seeded while a test runs."""
    with ThreadPoolExecutor(1) as seeding:
        waiting = [seeding.submit(site.seed, users=3)]

        def take() -> Demo:
            waiting.append(seeding.submit(site.seed, users=3))
            return waiting.pop(0).result()

        yield take


@pytest.fixture
def demo(demos: Callable[[], Demo]) -> Demo:
    """Three people who share a room that nobody has used."""
    return demos()


@pytest.fixture
def open_screen(
    contexts: Contexts, site: Site, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[OpenScreen]:
    """Return a function that opens a screen for a person: `open_screen(ada, room, width=..., dark=...)`.

    After a failure a picture of each screen is in the test's folder.
    """
    screens: list[Screen] = []
    failures = request.session.testsfailed

    def make(person: Person | None = None, path: str = "/", **options: Any) -> Screen:
        screen = Screen(contexts, site, person, path, **options)
        screens.append(screen)
        return screen

    yield make
    faults = [fault for screen in screens for fault in screen.faults()]
    for number, screen in enumerate(screens):
        if faults or request.session.testsfailed > failures:
            screen.take_picture(tmp_path / f"screen-{number}.png")
        screen.close()
    assert faults == []
