"""Take the pictures of docs/images: `python -m tests.e2e.screenshots [folder]`. Needs chromium; starts a site of its own."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.screen import Screen
from tests.e2e.site import ROOT, Demo, Person, Site, wait_for

LOOKS = [
    ("chat-desktop-light-en", {"language": "en-GB"}),
    ("chat-desktop-dark-en", {"language": "en-GB", "dark": True}),
    ("chat-desktop-light-zh", {"language": "zh-CN"}),
    ("chat-desktop-dark-zh", {"language": "zh-CN", "dark": True}),
    ("chat-phone-light-en", {"width": 390, "height": 844, "phone": True, "language": "en-GB"}),
    ("chat-phone-dark-en", {"width": 390, "height": 844, "phone": True, "language": "en-GB", "dark": True}),
    ("chat-phone-light-zh", {"width": 390, "height": 844, "phone": True, "language": "zh-CN"}),
    ("chat-phone-dark-zh", {"width": 390, "height": 844, "phone": True, "language": "zh-CN", "dark": True}),
]
PEOPLE = ("ada", "grace", "小林", "mei", "bob", "carol")
NAME_THEM = """
from django.contrib.auth import get_user_model
from messaging.models import Room
names = {names!r}
for id_, name in names.items():
    get_user_model().objects.filter(pk=id_).update(username=name)
for id_, name in {rooms!r}.items():
    Room.objects.filter(pk=id_).update(name=name)
"""
ROOMS = ("Atlas launch", "Field notes", "周末徒步与野外急救训练小组")
TALK = [
    (
        1,
        "Build 412 is green on all four machines. The drill killed the server eleven times and nothing was lost, so I would freeze here.",
    ),
    (2, "我这边也没有问题，离线两小时后重新上线，消息一条不少。"),
    (0, "Staging is frozen until the vote. Please hold your merges."),
    (3, "Held. One fix for the phone keyboard waits in my branch."),
    (0, "Good. We vote at four, then it goes out."),
    (2, "@ada the release notes still say “at most once”. See https://example.org/notes"),
    (2, "I can change it."),
    (0, "Please do, thank you."),
]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    site = Site(Path(tempfile.mkdtemp()))
    site.start()
    try:
        demo = named(site)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            stage(browser, site, demo, folder)
            browser.close()
    finally:
        site.stop()


def named(site: Site) -> Demo:
    """Seed, and give people and rooms the names that the pictures want."""
    demo = site.seed(users=len(PEOPLE), rooms=len(ROOMS))
    names = {one.id: name for one, name in zip(demo.people, PEOPLE, strict=True)}
    rooms = {room["id"]: name for room, name in zip(demo.rooms, ROOMS, strict=True)}
    site.manage("shell", "-c", NAME_THEM.format(names=names, rooms=rooms))
    people = [Person(one.id, names[one.id], one.password, one.session) for one in demo.people]
    return Demo(people, demo.rooms)


def stage(browser: Browser, site: Site, demo: Demo, folder: Path) -> None:
    """Let them talk: bob and carol never come, so ada sees whom it has not reached."""
    here = [Screen(browser, site, person, f"/r/{demo.room}/") for person in demo.people[:4]]
    for screen in here:
        screen.wait_ready()
    for who, text in TALK:
        here[who].say(text)
        for screen in here:
            screen.sees(text)
        if text.startswith("Held."):
            live_for(here[0], 12)
            here[0].say("The old door code is 1174")
            here[0].waits_for_state("The old door code", "delivering", "delivered", "read")
    for number, room in enumerate(demo.rooms[1:], start=1):
        other = Screen(browser, site, demo.people[number], f"/r/{room['id']}/")
        other.wait_ready()
        other.say(["@ada which of the two drafts goes out?", "集合地点改到北门，请大家早点到"][number - 1])
        other.waits_for_state("", "sent", "delivering")
    ada = here[0]
    expect(ada.log.locator('[data-state="expired"]')).to_contain_text("reached 3 of 5", timeout=20_000)
    alone(ada, "grace", "Then let us do it at four")
    alone(ada, "bob", "The gate code is on your desk")
    grace = Screen(browser, site, demo.people[1], "/")
    grace.page.locator(".room-link", has_text="ada").click()
    grace.sees("Then let us do it at four")
    grace.context.close()
    ada.page.locator(".room-link", has_text="Field notes").click()
    ada.box.fill("I think we should rotate the keys")
    ada.page.goto(f"{site.url}/r/{demo.room}/")
    ada.wait_ready()
    state = ada.context.storage_state()
    for name, options in LOOKS:
        shoot(browser, site, demo, here[1:3], folder / f"{name}.png", storage_state=state, **options)
    panels(ada, folder)
    for screen in here:
        screen.context.close()


def live_for(screen: Screen, seconds: int) -> None:
    """Choose a lifetime of one's own for the next message."""
    screen.page.locator("[data-lifetime] summary").click()
    screen.page.get_by_label("Custom…").check()
    screen.page.get_by_label("How long").fill(str(seconds))
    screen.page.get_by_label("Unit").select_option("1")
    screen.page.get_by_role("button", name="Use").click()


def alone(ada: Screen, whom: str, text: str) -> None:
    ada.page.locator("#room-search").fill(whom)
    ada.page.locator('[data-list="people"] a', has_text=whom).first.click()
    expect(ada.page.locator("#room-name")).to_have_text(whom)
    ada.say(text)
    ada.waits_for_state(text, "sent", "delivered", "read")


def shoot(
    browser: Browser, site: Site, demo: Demo, typists: list[Screen], picture: Path, **options: object
) -> None:
    screen = Screen(browser, site, demo.people[0], f"/r/{demo.room}/", **options)  # type: ignore[arg-type]
    screen.wait_ready()
    screen.waits_for_state("Staging is frozen", "delivering", timeout_s=20)
    wait_for("every receipt", lambda: screen.page.locator('[data-own][data-state="sent"]').count() == 0)
    wait_for("both typing", lambda: type_and_look(typists, screen))
    settle(screen)
    screen.page.screenshot(path=picture)
    screen.context.close()


def type_and_look(typists: list[Screen], screen: Screen) -> bool:
    """Press a key each: a page tells the others at most every three seconds."""
    for typist in typists:
        typist.box.press_sequentially("a")
    shown = screen.page.locator("[data-typing]").inner_text()
    return all(typist.person is not None and typist.person.name in shown for typist in typists)


def panels(ada: Screen, folder: Path) -> None:
    ada.message("Staging is frozen").hover()
    ada.message("Staging is frozen").locator('[data-action="details"]').click()
    expect(ada.page.locator("#details .recipient").first).to_be_visible()
    settle(ada)
    ada.page.screenshot(path=folder / "chat-details.png")
    ada.page.keyboard.press("Escape")
    ada.page.locator("[data-lifetime] summary").click()
    settle(ada)
    ada.page.screenshot(path=folder / "chat-lifetime.png")
    ada.page.keyboard.press("Escape")


def settle(screen: Screen) -> None:
    screen.page.evaluate(
        "Promise.all(document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations < 9).map((one) => one.finished.catch(() => {})))"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
