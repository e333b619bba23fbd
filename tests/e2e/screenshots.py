"""Take the pictures of docs/images: `python -m tests.e2e.screenshots [chat|staff] [folder]`. Needs chromium; starts its own sites."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.e2e.screen import Contexts, Screen, launch
from tests.e2e.site import ROOT, Demo, Person, Site, wait_for
from tests.e2e.test_overview import make_staff

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
ROOMS = ("Atlas launch", "Field notes", "周末徒步与野外急救训练小组", "发布筹备")
ENGLISH = [
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
CHINESE = [
    (
        1,
        "412 号构建在四台机器上全部通过。演练里服务器被强行终止了十一次，一条消息都没丢，我建议就此冻结代码。",
    ),
    (2, "我这边也没有问题，离线两小时后重新上线，消息一条不少。"),
    (0, "投票之前预发布环境冻结，请先不要合并。"),
    (3, "好的，先不合并。手机键盘那处修复还在我的分支里。"),
    (0, "好，四点投票，通过就发布。"),
    (2, "@ada 发布说明里还写着“最多一次”，见 https://example.org/notes"),
    (2, "我来改。"),
    (0, "麻烦你了，谢谢。"),
]


def main(folder: Path, which: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        contexts = Contexts(browser)
        for name, shooting in (("chat", chat_pages), ("staff", staff_pages)):
            if which not in (name, "all"):
                continue
            site = Site(Path(tempfile.mkdtemp()))
            site.start()
            try:
                shooting(contexts, site, folder)
            finally:
                site.stop()
        browser.close()


def chat_pages(contexts: Contexts, site: Site, folder: Path) -> None:
    stage(contexts, site, named(site), folder)


def named(site: Site) -> Demo:
    """Seed, and give people and rooms the names that the pictures want."""
    demo = site.seed(users=len(PEOPLE), rooms=len(ROOMS))
    names = {one.id: name for one, name in zip(demo.people, PEOPLE, strict=True)}
    rooms = {room["id"]: name for room, name in zip(demo.rooms, ROOMS, strict=True)}
    site.manage("shell", "-c", NAME_THEM.format(names=names, rooms=rooms))
    people = [Person(one.id, names[one.id], one.password, one.session) for one in demo.people]
    return Demo(people, demo.rooms)


def stage(contexts: Contexts, site: Site, demo: Demo, folder: Path) -> None:
    """Let them talk: bob and carol never come, so ada sees whom it has not reached."""
    others(contexts, site, demo)
    for words, room, looks in (
        (CHINESE, str(demo.rooms[3]["id"]), [look for look in LOOKS if look[0].endswith("zh")]),
        (ENGLISH, demo.room, [look for look in LOOKS if look[0].endswith("en")]),
    ):
        here = [Screen(contexts, site, person, f"/r/{room}/") for person in demo.people[:4]]
        talk(here, words)
        for name, options in looks:
            state = here[0].context.storage_state()
            shoot(contexts, site, here, f"/r/{room}/", folder / f"{name}.png", storage_state=state, **options)
        if words is ENGLISH:
            panels(here[0], folder)
        for screen in here:
            screen.close()


def others(contexts: Contexts, site: Site, demo: Demo) -> None:
    """Fill the other entries of ada's list: two rooms with new messages, two direct rooms."""
    for person, room, text in (
        (demo.people[1], demo.rooms[1], "@ada which of the two drafts goes out?"),
        (demo.people[2], demo.rooms[2], "集合地点改到北门，请大家早点到"),
    ):
        one = Screen(contexts, site, person, f"/r/{room['id']}/")
        one.wait_ready()
        one.say(text)
        one.waits_for_state(text, "sent", "delivering")
        one.close()
    ada = Screen(contexts, site, demo.people[0], f"/r/{demo.room}/")
    ada.wait_ready()
    alone(ada, "bob", "The gate code is on your desk")
    alone(ada, "grace", "Then let us do it at four")
    grace = Screen(contexts, site, demo.people[1], "/")
    grace.page.locator('[data-list="direct"] .room-link', has_text="ada").click()
    grace.sees("Then let us do it at four")
    ada.waits_for_state("Then let us do it at four", "read")
    grace.close()
    ada.close()


def talk(here: list[Screen], words: list[tuple[int, str]]) -> None:
    ada = here[0]
    for screen in here:
        screen.wait_ready()
    for number, (who, text) in enumerate(words):
        here[who].say(text)
        for screen in here:
            screen.sees(text)
        if number == 3:
            ada.live_for(12)
            ada.say("1174 4711")
            ada.waits_for_state("1174 4711", "delivering")
    grave = ada.log.locator('[data-state="expired"]')
    expect(grave).to_contain_text("reached 3 of 5", timeout=20_000)
    wait_for("who missed it", lambda: tells_who_missed(ada))


def tells_who_missed(ada: Screen) -> bool:
    """Run the job, which is 5 s late on purpose, and look."""
    ada.site.process_expired()
    ada.page.wait_for_timeout(100)
    return ada.log.locator('[data-state="expired"] button:visible').count() > 0


def alone(ada: Screen, whom: str, text: str) -> None:
    ada.page.locator("#room-search").fill(whom)
    ada.page.locator('[data-list="people"] a', has_text=whom).first.click()
    expect(ada.page.locator("#room-name")).to_have_text(whom)
    ada.say(text)
    ada.waits_for_state(text, "sent", "delivered", "read")


def shoot(
    contexts: Contexts, site: Site, here: list[Screen], path: str, picture: Path, **options: object
) -> None:
    """Take ada's screen with the others typing; the tombstone needs the state of ada's own device."""
    screen = Screen(contexts, site, here[0].person, path, **options)  # type: ignore[arg-type]
    screen.wait_ready()
    wait_for("every receipt", lambda: screen.log.locator('[data-own][data-state="sent"]').count() == 0)
    expect(
        screen.page.locator('[data-list="direct"] li', has_text="grace").locator('use[href$="#read"]')
    ).to_have_count(1)
    wait_for("both typing", lambda: type_and_look(here[1:3], screen))
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
    ada.page.locator("[data-bell]:visible").click()
    expect(ada.page.locator("#notices .notice").first).to_be_visible()
    settle(ada)
    ada.page.screenshot(path=folder / "chat-notices.png")
    ada.page.keyboard.press("Escape")
    ada.message("Staging is frozen").hover()
    ada.message("Staging is frozen").locator('[data-action="details"]').click()
    expect(ada.page.locator("#details .recipient").first).to_be_visible()
    ada.page.mouse.move(0, 0)
    settle(ada)
    ada.page.screenshot(path=folder / "chat-details.png")
    ada.page.keyboard.press("Escape")
    ada.page.locator("[data-jump]").click()
    expect(ada.page.locator("[data-jump]")).to_be_hidden()
    ada.page.locator("[data-lifetime] summary").click()
    settle(ada)
    ada.page.screenshot(path=folder / "chat-lifetime.png")
    ada.page.keyboard.press("Escape")


def staff_pages(contexts: Contexts, site: Site, folder: Path) -> None:
    """How a site stands with a message in each state, where something waits, and why one has not reached three people."""
    site.manage("seed_demo", "--states", "--stay", "0", "--force")
    site.manage("process_expired", "--once")  # a job has run: no banner
    crew = site.seed(users=1)
    make_staff(site, crew.people[0])
    staying = subprocess.Popen(
        [sys.executable, "manage.py", "seed_demo", "--states", "--stay", "5m", "--force", "--verbosity", "0"],
        cwd=ROOT,
        env=site.environment,
    )
    try:
        for name, path, options in (
            ("staff-overview", "/admin/", {"language": "en-GB", "height": 880}),
            ("staff-undelivered", "/admin/messaging/undeliveredroom/", {"language": "zh-CN", "dark": True}),
            ("staff-message", "/admin/messaging/undeliveredroom/", {"language": "en-GB"}),
        ):
            screen = Screen(contexts, site, crew.people[0], path, **{"height": 720, **options})  # type: ignore[arg-type]
            page = screen.page
            if name == "staff-overview":
                expect(page.locator('[data-card="lagging"] b')).to_have_text("1", timeout=30_000)
                # The minute that has begun is not drawn.
                hour = page.locator('[data-chart="hour"]')
                expect(hour).to_contain_text("8 messages accepted", timeout=90_000)
            else:
                page.locator('#result_list a[href*="undeliveredmember/"]', has_text="What becomes").click()
            if name == "staff-message":
                page.locator('#result_list a[href*="/storedmessage/"]').first.click()
            page.screenshot(path=folder / f"{name}.png")
            screen.close()
    finally:
        staying.terminate()
        staying.wait()


def settle(screen: Screen) -> None:
    screen.page.evaluate(
        "Promise.all(document.getAnimations().filter((one) => one.effect.getComputedTiming().iterations < 9).map((one) => one.finished.catch(() => {})))"
    )


if __name__ == "__main__":
    words = sys.argv[1:]
    wanted = words.pop(0) if words and words[0] in ("chat", "staff") else "all"
    main(Path(words[0]) if words else ROOT / "docs" / "images", wanted)
