"""The screen of one person: their view and their actions, in their own words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright, ViewportSize, expect

from tests.e2e.site import Person, Site

TELLS_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
SENDS = """(box, texts) => {
  for (const text of texts) {
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  }
}"""
# A killed server and a refused handshake are part of the tests; the browser reports them and the page copes.
EXPECTED = (
    "WebSocket connection to",
    "Failed to load resource",
    "ERR_CONNECTION_REFUSED",
    "ERR_INTERNET_DISCONNECTED",
)


def launch(playwright: Playwright) -> Browser:
    """Start chromium. Without its windows it opens a page with a third of the work: 0.9 s of the processor, not 2.5 s."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser")
    path = next((path for name in names if (path := shutil.which(name))), None)
    assert path, "no chromium: apt-get install chromium-headless-shell"
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


class Contexts:
    """The contexts of a browser, used again: a page opens with a third of the work where its scripts are cached."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._unused: dict[str, list[BrowserContext]] = {}

    def take(self, **options: Any) -> BrowserContext:
        """Return a context with these options. It has no page, cookie or stored data."""
        unused = self._unused.get(json.dumps(options, sort_keys=True))
        return unused.pop() if unused else self._browser.new_context(**options)

    def give_back(self, context: BrowserContext, origin: str, **options: Any) -> None:
        """Delete the pages, cookies and stored data of a context."""
        context.set_offline(False)
        context.clear_cookies()
        for page in context.pages:
            page.close()
        page = context.new_page()
        deletion = {"origin": origin, "storageTypes": "all"}
        context.new_cdp_session(page).send("Storage.clearDataForOrigin", deletion)
        page.close()
        self._unused.setdefault(json.dumps(options, sort_keys=True), []).append(context)


class Screen:
    """A browser context with one page, logged in as `person`."""

    def __init__(
        self,
        contexts: Contexts,
        site: Site,
        person: Person | None,
        path: str = "/",
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        language: str = "en",
        phone: bool = False,
        scale: float = 1,
        **options: Any,
    ) -> None:
        self.site = site
        self.person = person
        self._viewport: ViewportSize = {"width": width, "height": height}
        self._colors: Literal["dark", "light"] = "dark" if dark else "light"
        self._contexts = contexts
        self._options = {
            "locale": language,
            "has_touch": phone,
            "is_mobile": phone,
            "device_scale_factor": scale,
            **options,
        }
        self.context = contexts.take(**self._options)
        self._faults: list[str] = []
        if person:
            self.context.add_cookies([{"name": "sessionid", "value": person.session, "url": site.url}])
        self.page = self.tab(path)

    def tab(self, path: str) -> Page:
        """Open another tab of the same browser."""
        page = self.context.new_page()
        page.set_viewport_size(self._viewport)
        page.emulate_media(color_scheme=self._colors)
        page.add_init_script(TELLS_VIOLATIONS)
        page.on("console", lambda line: self._note(line.type, line.text))
        page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        page.goto(self.site.url + path)
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not any(known in text for known in EXPECTED):
            self._faults.append(text)

    def faults(self) -> list[str]:
        return self._faults

    def close(self) -> None:
        self._contexts.give_back(self.context, self.site.url, **self._options)

    def take_picture(self, path: Path) -> None:
        if not self.page.is_closed():
            self.page.screenshot(path=path)

    # ---- what is there

    @property
    def box(self) -> Locator:
        return self.page.locator("#message-text")

    @property
    def log(self) -> Locator:
        return self.page.locator("[data-log]")

    @property
    def connection(self) -> Locator:
        return self.page.locator("[data-room] [data-connection]")

    def message(self, text: str) -> Locator:
        return self.log.locator("article", has_text=text)

    def texts(self) -> list[str]:
        return self.log.locator(".message-text").all_inner_texts()

    def wait_ready(self) -> None:
        expect(self.page.locator('[data-me-avatar] [data-presence="online"]')).to_have_count(1)
        expect(self.box).to_be_visible()

    # ---- what the person does

    def say(self, *texts: str) -> None:
        for text in texts:
            self.box.fill(text)
            self.box.press("Enter")

    def say_many(self, texts: Iterable[str]) -> None:
        """Send messages as `say` does, in one call of the browser."""
        self.box.evaluate(SENDS, list(texts))

    def live_for(self, seconds: int) -> None:
        """Choose a custom lifetime for the next message."""
        self.page.locator("[data-lifetime] summary").click()
        self.page.locator('[data-lifetime] input[value="custom"]').check()
        self.page.locator("#custom-ttl").fill(str(seconds))
        self.page.locator("[data-lifetime] select").select_option("1")
        self.page.locator("[data-lifetime] .field button").click()

    def sees(self, *texts: str, timeout_s: float = 10) -> None:
        for text in texts:
            expect(self.message(text)).to_have_count(1, timeout=timeout_s * 1000)

    def waits_for_state(self, text: str, *states: str, timeout_s: float = 10) -> None:
        found = ", ".join(f'[data-state="{state}"]' for state in states)
        expect(self.message(text).and_(self.page.locator(found))).to_have_count(1, timeout=timeout_s * 1000)
