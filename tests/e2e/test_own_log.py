"""The store loses messages that it has accepted: the page of their sender offers them again."""

from __future__ import annotations

import json

import pytest
import redis
from playwright.sync_api import expect

from chatsite import environment
from tests.e2e.axe import look_in_light_and_dark
from tests.e2e.conftest import OpenScreen
from tests.e2e.screen import Screen
from tests.e2e.site import Demo, Site, wait_for

KEPT = """([user, age_ms]) => new Promise((done) => {
  const open = indexedDB.open(`chat-own-log-${user}`);
  open.onsuccess = () => {
    const store = open.result.transaction("outbox", "readwrite").objectStore("outbox");
    store.getAll().onsuccess = ({ target }) => {
      for (const entry of target.result) if (age_ms) store.put({ ...entry, created_at: entry.created_at - age_ms });
      done(target.result.map(({ body }) => body).sort());
    };
  };
})"""
MORE_THAN_A_DAY_MS = 25 * 3600 * 1000
TEXTS = ["the first", "the second", "the third"]


@pytest.fixture
def hers(open_screen: OpenScreen, demo: Demo) -> Screen:
    """Ada's screen, with three sent messages that nobody else has received."""
    screen = open_screen(demo.people[0], f"/r/{demo.room}/")
    screen.wait_ready()
    screen.say(*TEXTS)
    for text in TEXTS:
        screen.waits_for_state(text, "sent", "delivering")
    wait_for("all three on the device", lambda: kept(screen) == TEXTS)
    return screen


def kept(screen: Screen, *, older_by_ms: int = 0) -> list[str]:
    """Return the texts in the own log on the device; make its messages older."""
    assert screen.person is not None
    return list(screen.page.evaluate(KEPT, [screen.person.id, older_by_ms]))


def lose_everything(site: Site) -> None:
    with redis.Redis(unix_socket_path=str(environment.socket_path(site.folder / "data"))) as client:
        client.flushall()


def ids_sent(screen: Screen) -> list[str]:
    """The ids of the messages that this page sends from its next connect on."""
    ids: list[str] = []

    def note(payload: str | bytes) -> None:
        frames = json.loads(payload)
        ids.extend(
            one["id"] for one in (frames if isinstance(frames, list) else [frames]) if one["type"] == "send"
        )

    screen.page.on("websocket", lambda socket: socket.on("framesent", note))
    return ids


def test_messages_that_the_store_lost_are_sent_again_without_a_click_and_shown_once(
    open_screen: OpenScreen, site: Site, demo: Demo, hers: Screen
) -> None:
    ids = ids_sent(hers)
    hers.page.reload()
    hers.wait_ready()
    hers.say("the fourth")
    hers.waits_for_state("the fourth", "sent", "delivering")
    hers.page.evaluate("window.sameDocument = true")
    texts = [*TEXTS, "the fourth"]
    wait_for("all four on the device", lambda: kept(hers) == sorted(texts))
    lose_everything(site)
    hers.context.set_offline(True)
    expect(hers.connection).to_be_visible(timeout=20_000)
    hers.say("written offline")
    hers.context.set_offline(False)
    hers.waits_for_state("written offline", "sent", "delivering", timeout_s=30)
    assert hers.texts() == [*texts, "written offline"]
    assert ids.count(ids[0]) == 2, "the id of the fourth message"
    assert len(set(ids)) == 5
    theirs = open_screen(demo.people[1], f"/r/{demo.room}/")
    theirs.sees("written offline")
    assert theirs.texts() == [*texts, "written offline"]
    carols = open_screen(demo.people[2], f"/r/{demo.room}/")
    carols.sees("written offline")
    hers.waits_for_state("written offline", "delivered", "read")
    wait_for("nothing is kept that everybody has", lambda: kept(hers) == [])
    assert hers.page.evaluate("window.sameDocument") is True


def test_message_in_doubt_asks_its_sender_and_is_sent_again_with_a_new_id(
    open_screen: OpenScreen, site: Site, demo: Demo, hers: Screen
) -> None:
    kept(hers, older_by_ms=MORE_THAN_A_DAY_MS)
    lose_everything(site)
    ids = ids_sent(hers)
    hers.page.reload()
    hers.wait_ready()
    doubtful = hers.message("the first")
    expect(doubtful).to_contain_text("The server lost data while this message was under way.")
    expect(doubtful).to_contain_text("Some recipients may have missed it. Send it again?")
    assert hers.texts() == TEXTS
    look_in_light_and_dark(hers, "in doubt")
    doubtful.get_by_role("button", name="Retry").click()
    hers.waits_for_state("the first", "sent", "delivering")
    hers.message("the second").get_by_role("button", name="Delete").click()
    expect(hers.message("the second")).to_have_count(0)
    assert len(ids) == 1
    theirs = open_screen(demo.people[1], f"/r/{demo.room}/")
    theirs.sees("the first")
    assert theirs.texts() == ["the first"]
