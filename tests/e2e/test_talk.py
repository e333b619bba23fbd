"""Two people talk: what one writes the other sees, and the ladder climbs."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.conftest import OpenScreen
from tests.e2e.site import Demo


def test_two_browsers_talk_and_the_ladder_ends_at_read_by_all(open_screen: OpenScreen, demo: Demo) -> None:
    ada, grace, _ = demo.people
    room = f"/r/{demo.room}/"
    hers = open_screen(ada, room)
    hers.wait_ready()
    theirs = open_screen(grace, room)
    theirs.wait_ready()
    hers.say("hello from ada")
    theirs.sees("hello from ada")
    theirs.say("hello from grace")
    hers.sees("hello from grace")
    hers.waits_for_state("hello from ada", "delivering")
    expect(hers.message("hello from ada").locator(".send-state")).to_contain_text("1/2")
    third = open_screen(demo.people[2], room)
    third.sees("hello from ada")
    hers.waits_for_state("hello from ada", "read")
    hers.page.reload()
    hers.waits_for_state("hello from ada", "read")


def test_unread_counts_stand_in_the_list_and_the_title_and_go_when_the_room_is_opened(
    open_screen: OpenScreen, site, demo: Demo
) -> None:
    other = site.seed(users=2, rooms=2)
    ada, grace = other.people
    first, second = (room["id"] for room in other.rooms)
    hers = open_screen(ada, f"/r/{first}/")
    hers.wait_ready()
    theirs = open_screen(grace, f"/r/{second}/")
    theirs.wait_ready()
    theirs.say("one", "two", f"@{ada.name} three")
    row = hers.page.locator(f'.room-link[href="/r/{second}/"]')
    expect(row).to_contain_text("3 unread")
    expect(row).to_contain_text("1 mention")
    assert hers.page.title().startswith("(3) ")
    row.click()
    hers.sees("one", "two", "three")
    expect(hers.page.locator(".since")).to_be_visible()
    expect(row).not_to_contain_text("unread")
    assert not hers.page.title().startswith("(")
