"""The server dies, the network fails, the page is reloaded: no reload is necessary, no message is lost, none arrives twice."""

from __future__ import annotations

import os
import signal

from playwright.sync_api import expect

from tests.e2e.conftest import OpenScreen
from tests.e2e.site import Demo, Site, wait_for


def test_server_killed_during_a_send_restarts_and_no_message_is_lost_or_doubled(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada, grace, _ = demo.people
    hers = open_screen(ada, f"/r/{demo.room}/")
    theirs = open_screen(grace, f"/r/{demo.room}/")
    hers.wait_ready()
    theirs.wait_ready()
    hers.page.evaluate("window.sameDocument = true")
    hers.say(*[f"before {n}" for n in range(5)])
    died = site.kill_server()
    hers.say(*[f"after {n}" for n in range(5)])
    wait_for("another server", lambda: site.server_pid() != died)
    expected = [f"before {n}" for n in range(5)] + [f"after {n}" for n in range(5)]
    for screen in (hers, theirs):
        screen.sees("after 4", timeout_s=40)
        wait_for("every message once and in order", lambda screen=screen: screen.texts() == expected)
    expect(
        hers.log.locator('[data-state="sending"], [data-state="waiting"], [data-state="failed"]')
    ).to_have_count(0)
    assert hers.page.evaluate("window.sameDocument") is True


def test_frozen_server_is_noticed_and_messages_are_sent_when_it_wakes(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada = demo.people[0]
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    pid = site.freeze_server()
    try:
        hers.say("into the ice")
        hers.waits_for_state("into the ice", "sending")
    finally:
        os.kill(pid, signal.SIGCONT)
    hers.waits_for_state("into the ice", "sent", timeout_s=30)
    assert hers.texts() == ["into the ice"]


def test_a_reload_without_a_connection_keeps_the_outbox(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada = demo.people[0]
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    hers.context.set_offline(True)  # the server is back within a second
    site.kill_server()
    expect(hers.connection).to_contain_text("Your messages are kept and will be sent.", timeout=15_000)
    expect(hers.page.locator("[data-announce]")).to_contain_text("Connection lost.")
    hers.say("kept one", "kept two")
    hers.waits_for_state("kept two", "waiting")
    wait_for("the server again", site.answers)
    hers.page.close()
    hers.context.set_offline(False)
    hers.page = hers.tab(f"/r/{demo.room}/")
    hers.waits_for_state("kept two", "sent", timeout_s=30)
    assert hers.texts() == ["kept one", "kept two"]


def test_message_written_before_a_reload_is_sent_after_it(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada, grace, _ = demo.people
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    pid = site.freeze_server()
    try:
        hers.say("first", "second")
        hers.waits_for_state("second", "sending", "waiting")
        kept = "() => new Promise((done) => { const open = indexedDB.open(`chat-outbox-%d`); open.onsuccess = () => { const all = open.result.transaction('outbox').objectStore('outbox').getAll(); all.onsuccess = () => done(all.result.length); }; })"
        wait_for("both on the device", lambda: hers.page.evaluate(kept % ada.id) == 2)
        hers.page.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    hers.page = hers.tab(f"/r/{demo.room}/")
    hers.waits_for_state("second", "sent", timeout_s=30)
    assert hers.texts() == ["first", "second"]
    theirs = open_screen(grace, f"/r/{demo.room}/")
    theirs.sees("first", "second")


def test_offline_page_keeps_messages_and_sends_them_once_after_the_reconnect(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada = demo.people[0]
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    died = site.kill_server()
    hers.context.set_offline(True)
    expect(hers.connection).to_contain_text("Connection lost.", timeout=20_000)
    hers.say("written offline")
    hers.waits_for_state("written offline", "waiting")
    expect(hers.message("written offline")).to_contain_text("Waiting for the connection")
    wait_for("another server", lambda: site.server_pid() != died)
    hers.context.set_offline(False)
    hers.waits_for_state("written offline", "sent", timeout_s=40)
    expect(hers.connection).to_be_hidden(timeout=20_000)


def test_two_tabs_share_one_outbox_and_send_each_message_once(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada, grace, _ = demo.people
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    theirs = open_screen(grace, f"/r/{demo.room}/")
    theirs.wait_ready()
    first = hers.page
    hers.page = hers.tab(f"/r/{demo.room}/")
    hers.wait_ready()
    hers.say("from the second tab")
    theirs.sees("from the second tab")
    hers.waits_for_state("from the second tab", "delivering")
    first.close()
    hers.say("after the first tab closed")
    theirs.sees("after the first tab closed")
    assert theirs.texts() == ["from the second tab", "after the first tab closed"]


def test_ended_session_is_shown_and_the_draft_is_kept(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    ada = demo.people[0]
    hers = open_screen(ada, f"/r/{demo.room}/")
    hers.wait_ready()
    hers.box.fill("a draft")
    hers.context.clear_cookies()
    site.kill_server()
    expect(hers.connection).to_contain_text("You were logged out.", timeout=40_000)
    hers.connection.get_by_role("button", name="Log in").click()
    expect(hers.page).to_have_url(f"{site.url}/accounts/login/?next=%2Fr%2F{demo.room}%2F")
    hers.context.add_cookies([{"name": "sessionid", "value": ada.session, "url": site.url}])
    hers.page.goto(f"{site.url}/r/{demo.room}/")
    expect(hers.box).to_have_value("a draft")
