"""The page itself: hostile text, the keyboard, the phone, lifetimes, paging, and the announcements of a screen reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import FloatRect, Locator, expect

from tests.e2e.axe import look, look_in_light_and_dark, look_without_contrast
from tests.e2e.conftest import OpenScreen
from tests.e2e.screen import Screen
from tests.e2e.site import Demo, Person, Site, wait_for

HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>",
    "javascript:window.hit=1",
    "</template><iframe srcdoc='<script>parent.hit=1</script>'>",
    "&lt;b&gt; \u202egnp.exe",
]


def room_of(open_screen: OpenScreen, demo: Demo, who: int = 0, **options: object) -> Screen:
    screen = open_screen(demo.people[who], f"/r/{demo.room}/", **options)
    screen.wait_ready()
    return screen


def test_hostile_text_stays_text_and_real_links_are_harmless(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say(*HOSTILE, "see https://example.org/a?b=c#d, please")
    theirs.sees("see https://example.org/a?b=c#d, please")
    for screen in (hers, theirs):
        assert screen.texts() == [*HOSTILE, "see https://example.org/a?b=c#d, please"]
        assert screen.page.evaluate("window.hit") is None
        assert screen.log.locator(".message-text :not(a):not(code):not(.mention)").count() == 0
        link = screen.log.locator(".message-text a")
        expect(link).to_have_count(1)
        expect(link).to_have_attribute("href", "https://example.org/a?b=c#d")
        expect(link).to_have_attribute("rel", "noopener nofollow")
        expect(link).to_have_attribute("target", "_blank")


@pytest.mark.parametrize(
    ("options", "look_at"),
    [
        ({}, look_in_light_and_dark),
        ({"width": 390, "height": 844, "phone": True}, look),
        ({"language": "zh-CN"}, look_without_contrast),
    ],
)
def test_axe_finds_nothing_serious(
    open_screen: OpenScreen, demo: Demo, options: dict[str, object], look_at: Callable[[Screen, str], None]
) -> None:
    hers = room_of(open_screen, demo, **options)
    theirs = room_of(open_screen, demo, 1)
    hers.say("hello", "see https://example.org `code`")
    theirs.say(f"@{demo.people[0].name} are you there?")
    hers.sees("are you there?")
    look_at(hers, "room")
    for sheet in ("notices", "about", "settings", "new-room"):
        hers.page.locator(f"#{sheet}").evaluate("(sheet) => sheet.showPopover()")
        look_at(hers, sheet)
        hers.page.keyboard.press("Escape")
    hers.message("code").focus()
    hers.page.locator("[data-lifetime] summary").click()
    look_at(hers, "lifetime")


def test_everything_works_from_the_keyboard_alone(open_screen: OpenScreen, demo: Demo) -> None:
    theirs = room_of(open_screen, demo, 1)
    theirs.say("first of grace", "second of grace")
    hers = room_of(open_screen, demo)
    keys = hers.page.keyboard
    hers.sees("second of grace")
    expect(hers.box).to_be_focused()
    keys.type("typed with ")
    keys.press("Shift+Enter")
    keys.type("two lines")
    keys.press("Enter")
    theirs.sees("two lines")
    keys.press("Shift+Tab")
    wait_for(
        "the log in the tab order",
        lambda: (
            hers.page.evaluate("document.activeElement.closest('[data-log] article') !== null")
            or keys.press("Shift+Tab")
        ),
    )
    keys.press("Home")
    expect(hers.message("first of grace")).to_be_focused()
    keys.press("ArrowDown")
    expect(hers.message("second of grace")).to_be_focused()
    keys.press("ArrowRight")
    expect(hers.message("second of grace").get_by_role("button", name="Reply")).to_be_focused()
    keys.press("Enter")
    expect(hers.page.locator("[data-context]")).to_contain_text(f"Replying to {demo.people[1].name}")
    keys.type("an answer")
    keys.press("Enter")
    theirs.sees("an answer")
    expect(theirs.message("an answer").locator(".quote")).to_contain_text("second of grace")
    keys.press("ArrowUp")
    expect(hers.page.locator("[data-context]")).to_contain_text("Editing")
    keys.press("Escape")
    expect(hers.page.locator("[data-context]")).to_be_hidden()
    expect(hers.box).to_have_value("")


def test_an_input_method_that_takes_enter_does_not_send(open_screen: OpenScreen, demo: Demo) -> None:
    hers = room_of(open_screen, demo)
    hers.box.fill("zhong")
    for detail in ("isComposing: true", "keyCode: 229"):
        hers.box.evaluate(
            f"(box) => box.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true, cancelable: true, {detail}}}))"
        )
    expect(hers.box).to_have_value("zhong")
    expect(hers.log.locator("article")).to_have_count(0)


def test_a_phone_shows_one_pane_and_back_leads_to_the_list(open_screen: OpenScreen, demo: Demo) -> None:
    hers = room_of(open_screen, demo, width=390, height=844, phone=True)
    expect(hers.page.locator(".rooms")).to_be_hidden()
    hers.page.locator("[data-back]").click()
    expect(hers.page.locator(".rooms")).to_be_visible()
    expect(hers.page.locator("[data-room]")).to_be_hidden()
    hers.page.locator(".room-link").first.click()
    expect(hers.box).to_be_visible()
    hers.page.go_back()
    expect(hers.page.locator(".rooms")).to_be_visible()


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_scrolls_sideways_on_a_narrow_screen(open_screen: OpenScreen, demo: Demo, width: int) -> None:
    hers = room_of(open_screen, demo, width=width, height=640, phone=True)
    hers.say(
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " * 3,
        "https://example.org/" + "long" * 60,
    )
    hers.sees("Donau", "example.org")
    assert hers.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert hers.page.evaluate(
        "(() => { const t = document.querySelector('[data-timeline]'); return t.scrollWidth <= t.clientWidth; })()"
    )


def test_a_lifetime_for_one_message_ends_it_for_everybody_and_leaves_its_sender_a_tombstone(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    summary = hers.page.locator("[data-lifetime] summary")
    summary.click()
    hers.page.get_by_label("Custom…").check()
    hers.page.get_by_label("How long").fill("1")
    hers.page.get_by_label("Unit").select_option("1")
    hers.page.get_by_role("button", name="Set", exact=True).click()
    expect(hers.page.locator("#custom-ttl-error")).to_contain_text("From 10 seconds")
    hers.page.get_by_label("How long").fill("10")
    hers.page.get_by_role("button", name="Set", exact=True).click()
    expect(summary).to_contain_text("10 s, this message")
    hers.say("gone soon")
    expect(summary).not_to_contain_text("this message")
    theirs.sees("gone soon")
    expect(theirs.message("gone soon").locator('.left[data-left="last-minute"]')).to_contain_text(" s left")
    expect(theirs.message("gone soon")).to_have_count(0, timeout=15_000)
    grave = hers.log.locator('[data-state="expired"]')
    expect(grave).to_contain_text("Expired")
    expect(grave).to_contain_text("reached 1 of 2")
    assert "gone soon" not in hers.page.content()
    hers.page.reload()
    hers.wait_ready()
    expect(grave).to_contain_text("reached 1 of 2")


def test_a_clock_that_is_an_hour_wrong_changes_no_lifetime(open_screen: OpenScreen, demo: Demo) -> None:
    theirs = room_of(open_screen, demo, 1)
    theirs.say("hello from the right time")
    hers = open_screen(demo.people[0], "/accounts/password/change/")
    hers.page.add_init_script("const real = Date.now; Date.now = () => real() + 3600_000;")
    hers.page.goto(f"{hers.site.url}/r/{demo.room}/")
    hers.sees("hello from the right time")
    expect(hers.message("right time").locator(".left")).to_contain_text("59 min")


def test_drafts_stay_in_their_rooms_and_survive_a_reload(open_screen: OpenScreen, site: Site) -> None:
    demo = site.seed(users=2, rooms=2)
    first, second = (room["id"] for room in demo.rooms)
    hers = open_screen(demo.people[0], f"/r/{first}/")
    hers.wait_ready()
    hers.box.fill("not finished")
    hers.page.locator(f'.room-link[href="/r/{second}/"]').click()
    expect(hers.box).to_have_value("")
    expect(hers.page.locator(f'.room-link[href="/r/{first}/"]')).to_contain_text("Draft not finished")
    hers.page.goto(f"{site.url}/r/{first}/")
    expect(hers.box).to_have_value("not finished")


def standing(place: Locator) -> FloatRect | None:
    """Return where a message stands once it stands still: a page that is put above it is laid out first, then scrolled over."""
    boxes: list[FloatRect | None] = []

    def still() -> bool:
        boxes.append(place.bounding_box())
        return len(boxes) > 2 and boxes[-1] == boxes[-2] == boxes[-3]

    wait_for("the message to stand still", still)
    return boxes[-1]


def test_pages_come_from_before_and_the_place_is_kept(open_screen: OpenScreen, demo: Demo) -> None:
    theirs = room_of(open_screen, demo, 1)
    theirs.say_many(f"message number {n} " for n in range(130))
    theirs.waits_for_state("message number 129 ", "sent", "delivering", timeout_s=60)
    hers = room_of(open_screen, demo)
    hers.sees("message number 0 ")
    expect(hers.page.locator(".since")).to_be_visible()
    hers.page.get_by_role("button", name="Jump to latest").click()
    wait_for("all of it read", lambda: not hers.page.title().startswith("("))
    hers.page.reload()
    hers.wait_ready()
    hers.sees("message number 129 ")
    expect(hers.message("message number 0 ")).to_have_count(0)
    place = hers.message("message number 85 ")
    place.scroll_into_view_if_needed()
    top = standing(place)
    hers.sees("message number 31 ")
    assert standing(place) == top
    first = hers.message("message number 30 ")
    hers.page.locator("[data-timeline]").evaluate("(place) => place.scrollTo({top: 0, behavior: 'instant'})")
    hers.sees("message number 0 ")
    expect(first).to_be_in_viewport()  # the day's line above it went up, what was read did not


def test_reading_older_messages_is_not_disturbed_by_new_ones(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    theirs.say_many(f"line {n}." for n in range(40))
    hers.sees("line 39.")
    hers.message("line 5.").scroll_into_view_if_needed()
    before = hers.message("line 5.").bounding_box()
    theirs.say("something new")
    expect(hers.page.locator("[data-jump]")).to_have_text("Jump to latest (1)")
    assert hers.message("line 5.").bounding_box() == before
    hers.page.locator("[data-jump]").click()
    expect(hers.message("something new")).to_be_in_viewport()
    expect(hers.page.locator("[data-jump]")).to_be_hidden()


def test_a_link_to_a_message_opens_its_room_at_it(open_screen: OpenScreen, demo: Demo) -> None:
    theirs = room_of(open_screen, demo, 1)
    theirs.say_many(f"row {n}." for n in range(90))
    theirs.waits_for_state("row 89.", "sent", "delivering", timeout_s=60)
    seq = theirs.message("row 3.").get_attribute("data-seq")
    hers = open_screen(demo.people[0], f"/r/{demo.room}/{seq}/")
    expect(hers.message("row 3.")).to_be_in_viewport(timeout=10_000)
    expect(hers.message("row 3.")).to_have_attribute("data-linked", "")


def test_failed_message_can_be_retried_edited_and_deleted(open_screen: OpenScreen, demo: Demo) -> None:
    hers = open_screen(demo.people[0], "/accounts/password/change/")
    refuse_sends(hers, "forbidden")
    hers.page.goto(f"{hers.site.url}/r/{demo.room}/")
    hers.wait_ready()
    hers.say("one", "two", "three")
    bar = hers.page.locator("[data-not-sent]")
    expect(bar).to_contain_text("3 messages not sent")
    expect(hers.message("one")).to_contain_text("Not sent: not allowed")
    hers.message("one").get_by_role("button", name="Delete").click()
    expect(hers.message("one")).to_have_count(0)
    hers.message("two").get_by_role("button", name="Edit").click()
    expect(hers.box).to_have_value("two")
    expect(bar).to_contain_text("1 message not sent")
    hers.page.goto(f"{hers.site.url}/accounts/password/change/")
    hers.page = hers.tab(f"/r/{demo.room}/")
    expect(bar_of(hers)).to_contain_text("1 message not sent")
    hers.page.get_by_role("button", name="Retry all").click()
    hers.waits_for_state("three", "sent")
    expect(bar_of(hers)).to_be_hidden()


def bar_of(screen: Screen):
    return screen.page.locator("[data-not-sent]")


def refuse_sends(screen: Screen, code: str) -> None:
    """Answer every `send` of this page with an error; let everything else through to the server."""

    def between(socket) -> None:
        server = socket.connect_to_server()

        def from_page(text: str) -> None:
            import json

            frame = json.loads(text)
            if isinstance(frame, dict) and frame["type"] == "send":
                socket.send(
                    json.dumps(
                        {
                            "type": "error",
                            "code": code,
                            "detail": "",
                            "retryable": False,
                            "of": "send",
                            "id": frame["id"],
                            "room": frame["room"],
                        }
                    )
                )
            else:
                server.send(text)

        socket.on_message(from_page)

    screen.page.route_web_socket("**/ws/chat/", between)


def test_too_long_message_is_counted_as_the_server_counts_and_not_sent(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    count = hers.page.locator("[data-composer] [data-count]")
    hers.box.fill("🙂" * 3990)
    expect(count).to_have_text("10 characters left")
    hers.box.fill("🙂" * 4036)
    expect(count).to_have_text("36 characters too many")
    expect(hers.page.get_by_role("button", name="Send")).to_be_disabled()
    hers.box.press("Enter")
    expect(hers.log.locator("article")).to_have_count(0)


def test_details_name_every_recipient_and_their_state(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say("who has this?")
    theirs.sees("who has this?")
    hers.waits_for_state("who has this?", "delivering")
    hers.message("who has this?").hover()
    hers.message("who has this?").get_by_role("button", name="Message details").click()
    sheet = hers.page.locator("#details")
    expect(sheet.locator("li", has_text=demo.people[2].name)).to_contain_text(
        "Offline. Will be sent when they reconnect"
    )
    expect(sheet.locator("h3", has_text="Read")).to_be_visible()
    expect(sheet.locator("li", has_text=demo.people[1].name)).to_be_visible()
    hers.page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()


def test_only_new_messages_of_others_are_read_out(open_screen: OpenScreen, demo: Demo) -> None:
    theirs = room_of(open_screen, demo, 1)
    theirs.say("said before")
    hers = room_of(open_screen, demo)
    hers.sees("said before")
    expect(hers.log).to_have_attribute("aria-live", "off")
    hers.say("my own")
    hers.waits_for_state("my own", "delivering")
    expect(hers.log).to_have_attribute("aria-live", "off")
    theirs.say("said now")
    hers.sees("said now")
    expect(hers.log).to_have_attribute("aria-live", "polite")


def test_typing_is_seen_by_the_others_only(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.box.press_sequentially("hm")
    expect(theirs.page.locator("[data-typing]")).to_have_text(f"{demo.people[0].name} is typing")
    expect(hers.page.locator("[data-typing]")).to_have_text("")
    hers.box.press("Enter")
    expect(theirs.page.locator("[data-typing]")).to_have_text("")


def test_a_room_is_made_found_joined_and_left(open_screen: OpenScreen, site: Site, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    name = f"Garden {demo.room}"
    hers.page.get_by_role("button", name="New room").click()
    hers.page.locator("#new-name").fill(name)
    hers.page.get_by_role("button", name="Create room").click()
    expect(hers.page.locator("#room-name")).to_have_text(name)
    expect(hers.page.locator("[data-empty-room]")).to_contain_text("Nothing here yet")
    hers.say("welcome")
    theirs.page.locator("#room-search").fill("Garden")
    theirs.page.locator('[data-list="public"] a', has_text=name).click()
    expect(theirs.page.locator("#room-name")).to_have_text(name)
    theirs.say("thank you")
    hers.sees("thank you")
    theirs.page.get_by_role("button", name="About this room").click()
    theirs.page.get_by_role("button", name="Leave this room").click()
    theirs.page.get_by_role("button", name="Leave", exact=True).click()
    expect(theirs.page.locator("[data-closed]")).to_contain_text("You are no longer in this room.")
    expect(hers.page.locator("[data-room-line]")).to_contain_text("1 member")


def test_the_lifetime_of_a_room_is_changed_by_its_owner_and_written_into_the_timeline(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say("before")
    theirs.sees("before")
    hers.page.get_by_role("button", name="About this room").click()
    hers.page.locator("#about-ttl").select_option("300")
    hers.page.get_by_role("button", name="Save").click()
    for screen in (hers, theirs):
        expect(screen.page.locator("[data-room-ttl]")).to_have_text("5 minutes")
        expect(screen.log.locator(".event")).to_contain_text("from 1 hour to 5 minutes")


def test_the_page_speaks_chinese(open_screen: OpenScreen, demo: Demo) -> None:
    hers = room_of_chinese(open_screen, demo.people[0], demo)
    hers.say("你好")
    hers.waits_for_state("你好", "sent")
    expect(hers.message("你好").locator(".send-state")).to_have_attribute("title", "已发出")
    expect(hers.message("你好").locator(".left")).to_contain_text("分钟后过期")
    expect(hers.box).to_have_attribute("placeholder", f"发消息到“{demo.rooms[0]['name']}”")
    expect(hers.page.locator("html")).to_have_attribute("lang", "zh-hans")


def room_of_chinese(open_screen: OpenScreen, person: Person, demo: Demo) -> Screen:
    screen = open_screen(person, f"/r/{demo.room}/", language="zh-CN")
    expect(screen.page.locator("[data-me-state]")).to_have_text("在线")
    return screen


def test_appearance_is_chosen_and_does_not_flash_on_the_next_page(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    hers.page.get_by_role("button", name="Settings").click()
    hers.page.get_by_label("Dark").check()
    expect(hers.page.locator("html")).to_have_attribute("data-theme", "dark")
    assert 'data-theme="dark"' in hers.page.request.get(hers.page.url).text()
