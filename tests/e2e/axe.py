"""Accessibility checks with axe."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe

from tests.e2e.screen import Screen

# The contrast of a page does not depend on its language, and the other rules do not depend on its colours.
CONTRAST = {"runOnly": ["color-contrast"]}
ALL_BUT_CONTRAST = {"rules": {"color-contrast": {"enabled": False}}}


def look(screen: Screen, where: str, rules: dict[str, object] | None = None) -> None:
    """Find nothing serious with axe; `rules`: its options that restrict the rules."""
    # Sheets slide in and buttons fade: half of a fade has half of the contrast.
    screen.page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})))")
    # It would read imported style sheets by inline ones in a separate document, which our policy forbids there as well.
    options = {"preload": False, "resultTypes": ["violations"], **(rules or {})}
    found = Axe().run(screen.page, options=options).response["violations"]
    serious = [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == [], where


def look_in_light_and_dark(screen: Screen, where: str) -> None:
    """Find nothing serious in the light, and no lack of contrast in the dark."""
    look(screen, where)
    screen.page.emulate_media(color_scheme="dark")
    look(screen, f"{where}, dark", CONTRAST)
    screen.page.emulate_media(color_scheme="light")


def look_without_contrast(screen: Screen, where: str) -> None:
    """Find nothing serious, on a page whose colours are looked at in another language."""
    look(screen, where, ALL_BUT_CONTRAST)
