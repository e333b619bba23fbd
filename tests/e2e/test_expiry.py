"""The expiry of a message on the screens: members who missed it are named, it is sent again, and no text remains."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from tests.e2e.axe import look, look_in_light_and_dark, look_without_contrast
from tests.e2e.conftest import OpenScreen
from tests.e2e.screen import Screen
from tests.e2e.site import Demo, Site, wait_for
from tests.e2e.test_page import standing

SHORT_S = 10  # the shortest life there is


def room_of(open_screen: OpenScreen, demo: Demo, who: int = 0, **options: object) -> Screen:
    screen = open_screen(demo.people[who], f"/r/{demo.room}/", **options)
    screen.wait_ready()
    return screen


def process(site: Site, until: Locator) -> None:
    """Run the job, which is 5 s late on purpose, until the screen shows what comes of it."""

    def once() -> bool:
        site.process_expired()
        until.page.wait_for_timeout(100)  # playwright hears of the page only while it waits
        return until.count() > 0

    wait_for("what the job tells", once, 40)


def bell(screen: Screen, count: int) -> Locator:
    """The visible bell that shows `count` notices."""
    return screen.page.locator("[data-bell]:visible").and_(
        screen.page.locator(f'[aria-label^="{count} notice"]')
    )


def notices(screen: Screen) -> Locator:
    return screen.page.locator("#notices")


def open_bell(screen: Screen) -> Locator:
    screen.page.locator("[data-bell]:visible").click()
    expect(notices(screen)).to_be_visible()
    return notices(screen)


def missed(site: Site, hers: Screen, text: str) -> None:
    """Let ada send a message that a member misses, and let the job notify ada."""
    hers.live_for(SHORT_S)
    hers.say(text)
    hers.waits_for_state(text, "sent", "delivering")
    expect(hers.message(text)).to_have_count(0, timeout=20_000)
    process(site, bell(hers, 1))


def frames_to_server(screen: Screen) -> list[str]:
    """The types of what this screen's page sends from its next connect on."""
    types: list[str] = []

    def note(payload: str | bytes) -> None:
        frames = json.loads(payload)
        types.extend(one["type"] for one in (frames if isinstance(frames, list) else [frames]))

    screen.page.on("websocket", lambda socket: socket.on("framesent", note))
    return types


LETTERS = """
import json
from messaging.models import DeadLetter, MissedRecipient
letters = DeadLetter.objects.filter(room_key={room!r})
missed = MissedRecipient.objects
print(json.dumps([list(map(list, missed.filter(dead_letter=one).values_list("name", "reason"))) for one in letters]))
"""


def test_member_who_missed_a_message_is_named_and_the_resend_reaches_nobody_else(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    _, bob, carol = demo.people
    hers, carols = room_of(open_screen, demo), room_of(open_screen, demo, 2)
    sent_by_carol = frames_to_server(carols)
    carols.page.reload()
    carols.wait_ready()
    hers.live_for(SHORT_S)
    hers.say("the gate code")
    carols.sees("the gate code")
    hers.waits_for_state("the gate code", "delivering")
    expect(carols.message("the gate code")).to_have_count(0, timeout=15_000)
    grave = hers.log.locator('[data-state="expired"]')
    expect(grave).to_contain_text("reached 1 of 2")
    assert "the gate code" not in hers.page.content()

    process(site, bell(hers, 1))

    expect(grave).to_contain_text(f"Never reached {bob.name} (offline).")
    assert json.loads(site.manage("shell", "-v", "0", "-c", LETTERS.format(room=demo.room))) == [
        [[bob.name, "offline"]]
    ]
    told = open_bell(hers)
    expect(told).to_contain_text(f"Never reached {bob.name}")
    expect(told).to_contain_text("offline the whole time")
    expect(told).not_to_contain_text(carol.name)
    before = len(sent_by_carol)
    bobs = room_of(open_screen, demo, 1)
    bobs.say("back again")  # and the missed message is not here
    carols.sees("back again")
    assert "the gate code" not in bobs.page.content()

    told.get_by_role("button", name="Resend to them").click()

    bobs.sees("the gate code")
    expect(bobs.message("the gate code").get_by_text("sent again")).to_be_visible()
    expect(bobs.message("back again").get_by_text("sent again")).to_be_hidden()
    expect(told.locator(".notice")).to_have_count(0)
    expect(grave).to_contain_text(f"Resent to {bob.name} at ")
    expect(grave.get_by_role("button", name="Resend to them")).to_have_count(0)
    hers.waits_for_state("the gate code", "delivered", "read")
    bobs.say("thank you")
    carols.sees("thank you")
    assert "the gate code" not in carols.page.content()
    assert "sync" not in sent_by_carol[before:]


def test_tombstone_resends_too_and_a_reload_keeps_the_notice(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    missed(site, hers, "for two who are away")
    hers.page.reload()
    hers.wait_ready()
    expect(bell(hers, 1)).to_have_count(1)
    grave = hers.log.locator('[data-state="expired"]')
    for person in demo.people[1:]:
        expect(grave).to_contain_text(f"{person.name} (offline)")
    grave.get_by_role("button", name="Resend to them").click()
    expect(grave).to_contain_text("Resent to ")
    theirs = room_of(open_screen, demo, 2)
    theirs.sees("for two who are away")
    hers.page.reload()
    hers.wait_ready()
    expect(grave).to_contain_text("Resent to ")
    expect(bell(hers, 1)).to_have_count(0)


def test_notice_dismissed_on_one_device_disappears_on_another_that_was_offline(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    hers, phone = room_of(open_screen, demo), room_of(open_screen, demo, width=390, height=844, phone=True)
    missed(site, hers, "never received")
    expect(bell(phone, 1)).to_have_count(1)
    phone.context.set_offline(True)
    expect(phone.connection).to_be_visible(timeout=20_000)
    open_bell(hers).get_by_role("button", name="Dismiss").click()
    expect(bell(hers, 1)).to_have_count(0)
    expect(bell(phone, 1)).to_have_count(1)
    phone.context.set_offline(False)
    expect(bell(phone, 1)).to_have_count(0, timeout=20_000)


def test_many_missed_in_one_room_are_one_group_by_name(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    for text in ("one", "two", "three"):
        hers.live_for(SHORT_S)
        hers.say(text)
    expect(hers.log.locator('[data-state="expired"]')).to_have_count(3, timeout=25_000)
    process(site, bell(hers, 3))
    told = open_bell(hers)
    names = [person.name for person in demo.people[1:]]
    expect(told.locator(".notice")).to_have_count(1)
    expect(told.locator(".notice > div > h3").first).to_contain_text(
        f"3 messages in “{demo.rooms[0]['name']}” expired before {names[0]} and 1 other received them"
    )
    told.get_by_text("Show each").click()
    expect(told.locator(".notice .notice")).to_have_count(3)
    look(hers, "group")
    told.locator(".notice .notice").last.get_by_role("button", name="Dismiss").click()
    expect(bell(hers, 2)).to_have_count(1)
    expect(told.locator(".notice .notice")).to_have_count(2)
    told.get_by_role("button", name="Dismiss all").click()
    expect(told).to_contain_text("No notices")
    expect(bell(hers, 2)).to_have_count(0)


def test_a_change_or_deletion_is_seen_on_every_screen_also_on_one_that_was_away(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    phone = room_of(open_screen, demo, width=390, height=844, phone=True)
    hers.say("first of ada", "second of ada")
    theirs.say("first of grace", "second of grace")
    for screen in (hers, theirs, phone):
        screen.sees("first of ada", "second of ada", "first of grace", "second of grace")
    phone.context.set_offline(True)
    expect(phone.connection).to_be_visible(timeout=20_000)
    edit(hers, "first of ada", "first, better")
    edit(theirs, "first of grace", "grace was here")
    delete(hers, "second of ada")
    delete(theirs, "second of grace")
    for screen in (hers, theirs):
        seen_as_changed(screen)
    expect(hers.log.locator('[data-state="expired"]')).to_contain_text("You deleted this message")
    phone.context.set_offline(False)
    seen_as_changed(phone)
    theirs.page.reload()
    theirs.wait_ready()
    seen_as_changed(theirs)


def test_change_made_offline_stays_visible_and_is_sent_after_the_reconnect(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say("to be changed", "to be deleted")
    theirs.sees("to be changed", "to be deleted")
    hers.context.set_offline(True)
    expect(hers.connection).to_be_visible(timeout=20_000)
    edit(hers, "to be changed", "changed offline")
    delete(hers, "to be deleted")
    for text in ("to be changed", "to be deleted"):
        expect(hers.message(text).locator(".aside")).to_contain_text("Waiting for the connection")
    hers.context.set_offline(False)
    for screen in (theirs, hers):
        screen.sees("changed offline", timeout_s=20)
        expect(screen.message("to be deleted")).to_have_count(0)


def edit(screen: Screen, text: str, better: str) -> None:
    screen.message(text).focus()  # a message that arrives now may move it away from under a pointer
    screen.message(text).locator('[data-action="edit"]').click()
    screen.box.fill(better)
    screen.box.press("Enter")


def delete(screen: Screen, text: str) -> None:
    screen.message(text).focus()
    screen.message(text).locator('[data-action="delete"]').click()
    screen.page.locator("[data-confirm] [value=yes]").click()


def seen_as_changed(screen: Screen) -> None:
    for text in ("first, better", "grace was here"):
        expect(screen.message(text)).to_have_count(1, timeout=20_000)
        expect(screen.message(text)).to_contain_text("edited")
    for text in ("first of ada", "second of ada", "first of grace", "second of grace"):
        expect(screen.message(text)).to_have_count(0)


def test_owner_deletes_the_message_of_another_and_its_author_learns_it(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    theirs.say("not here, please")
    hers.sees("not here, please")
    delete(hers, "not here, please")
    expect(theirs.message("not here, please")).to_have_count(0)
    expect(theirs.log.locator('[data-state="expired"]')).to_contain_text("This message was deleted")
    hers.say("still here")
    theirs.sees("still here")
    assert theirs.message("still here").locator('[data-action="delete"]').count() == 0


def test_extend_is_offered_while_somebody_lacks_it_and_every_screen_learns_the_new_time(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.live_for(20)
    hers.say("wait for me")
    theirs.sees("wait for me")
    offer = hers.message("wait for me").locator(".aside")
    expect(offer).to_contain_text(f"not yet received by {demo.people[2].name}", timeout=20_000)
    expect(bell(hers, 1)).to_have_count(1)
    offer.get_by_role("button", name="Extend").click()
    expect(offer).to_contain_text("Extended by 20 seconds, until ")
    expect(bell(hers, 1)).to_have_count(0)
    theirs.page.wait_for_function(
        "() => Number.parseInt(document.querySelector('[data-part=\"left-text\"]').textContent) > 10"
    )


def test_bell_offers_to_extend_a_message_in_another_room(open_screen: OpenScreen, site: Site) -> None:
    demo = site.seed(users=2, rooms=2)
    hers = room_of(open_screen, demo)
    hers.live_for(20)
    hers.say("in the first room")
    hers.waits_for_state("in the first room", "sent")
    hers.page.locator(f'.room-link[href="/r/{demo.rooms[1]["id"]}/"]').click()
    expect(hers.page.locator("#room-name")).to_have_text(demo.rooms[1]["name"])
    expect(bell(hers, 1)).to_have_count(1, timeout=20_000)
    told = open_bell(hers)
    expect(told.locator(".notice h3")).to_contain_text(f"not yet received by {demo.people[1].name}")
    expect(told.locator(".notice li")).to_contain_text("offline, will be sent when they reconnect")
    told.get_by_role("button", name="Extend by 20 seconds").click()
    expect(told).to_contain_text("No notices")


def test_a_direct_room_has_a_lifetime_that_either_of_the_two_may_change(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    hers.page.locator("#room-search").fill(demo.people[1].name)
    hers.page.locator('[data-list="people"] a', has_text=demo.people[1].name).click()
    expect(hers.page.locator("#room-name")).to_have_text(demo.people[1].name)
    hers.say("only for you")
    theirs = open_screen(demo.people[1], "/")
    theirs.page.locator('[data-list="direct"] .room-link').click()
    theirs.sees("only for you")
    sheet = about(theirs)
    expect(sheet.locator("#about-name")).to_be_hidden()
    sheet.locator("#about-ttl").select_option("300")
    sheet.get_by_role("button", name="Save").click()
    for screen in (hers, theirs):
        expect(screen.log.locator(".event")).to_contain_text(
            f"{demo.people[1].name} changed the lifetime from 1 hour to 5 minutes"
        )
    sheet = about(hers)
    sheet.locator("#about-ttl-max").select_option("30")
    sheet.get_by_role("button", name="Save").click()
    expect(sheet.locator("[data-error]")).to_contain_text("From 10 seconds to 30 seconds")


def test_reply_or_edit_shows_no_text_of_a_message_that_has_expired(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.live_for(SHORT_S)
    hers.say("hers and secret")
    theirs.sees("hers and secret")
    theirs.message("hers and secret").hover()
    theirs.message("hers and secret").locator('[data-action="reply"]').click()
    theirs.box.fill("an answer that is not finished")
    hers.box.press("ArrowUp")
    expect(hers.page.locator("[data-context]")).to_contain_text("Editing")
    for screen in (hers, theirs):
        expect(screen.page.locator("[data-context]")).to_be_hidden(timeout=15_000)
        expect(screen.message("hers and secret")).to_have_count(0)  # faded
        assert "hers and secret" not in screen.page.content()
    expect(hers.box).to_have_value("")
    expect(theirs.box).to_have_value("an answer that is not finished")


WAKES = """(text) => {
  const real = Date.now;
  Date.now = () => real() + 2 * 3600_000;  // asleep for two hours: not one timer has run
  const seen = [];
  const look = () => {
    seen.push(document.querySelector("main").textContent.includes(text));
    if (seen.length < 60) requestAnimationFrame(look);
    else window.seen = seen;
  };
  document.dispatchEvent(new Event("visibilitychange"));
  requestAnimationFrame(look);
}"""


def test_a_laptop_that_slept_past_an_expiry_shows_nothing_expired_in_any_frame(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    theirs.say("hers is over by then")
    hers.say("mine is over by then")
    hers.sees("hers is over by then", "mine is over by then")
    # Until the server has accepted it, the message is unsent, and an unsent text is shown.
    hers.waits_for_state("mine is over by then", "sent", "delivering", "delivered", "read")
    hers.page.evaluate(WAKES, "is over by then")
    seen = hers.page.wait_for_function("() => window.seen").json_value()
    assert seen == [False] * 60


def test_midnight_only_changes_the_names_of_days(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.live_for(3 * 86_400)
    hers.say("of today")
    hers.sees("of today")
    day = hers.log.locator(".day")
    today = day.first.inner_text()
    hers.page.evaluate(TOMORROW)
    expect(day.first).not_to_have_text(today)
    hers.sees("of today")
    theirs.live_for(3 * 86_400)  # the server's day is yesterday's
    theirs.say("still heard")
    hers.sees("still heard")


TOMORROW = """() => {
  const real = Date.now;
  Date.now = () => real() + 24 * 3600_000;
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_message_that_fades_above_does_not_move_the_message_being_read(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    theirs.say_many(f"line {n}." for n in range(10))
    theirs.live_for(2 * SHORT_S)  # the others take some seconds to be written
    theirs.say("gone soon\n" * 8)
    theirs.say_many(f"line {n}." for n in range(10, 60))
    hers.sees("line 59.", "gone soon")
    place = hers.message("line 30.")
    place.scroll_into_view_if_needed()
    before = standing(place)
    expect(hers.message("gone soon")).to_have_count(0, timeout=30_000)
    assert standing(place) == before


def test_a_change_of_lifetime_stands_in_the_timeline_after_a_reload(
    open_screen: OpenScreen, demo: Demo
) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say("before")
    theirs.sees("before")
    about(hers)
    hers.page.locator("#about-ttl").select_option("300")
    hers.page.get_by_role("button", name="Save").click()
    line = f"{demo.people[0].name} changed the lifetime from 1 hour to 5 minutes"
    for screen in (hers, theirs):
        expect(screen.log.locator(".event")).to_contain_text(line)
    hers.say("after")
    theirs.sees("after")
    for screen in (hers, theirs):
        screen.page.reload()
        screen.wait_ready()
        expect(screen.log.locator(".event")).to_contain_text(line)
        order = screen.log.locator(":scope > .event, :scope > article").all_inner_texts()
        assert [next(word for word in ("before", "changed", "after") if word in one) for one in order] == [
            "before",
            "changed",
            "after",
        ]


def about(screen: Screen) -> Locator:
    screen.page.get_by_role("button", name="About this room").click()
    return screen.page.locator("#about")


def test_existing_messages_are_shortened_only_after_their_count(open_screen: OpenScreen, demo: Demo) -> None:
    hers, theirs = room_of(open_screen, demo), room_of(open_screen, demo, 1)
    hers.say("one", "two")
    theirs.sees("one", "two")
    sheet = about(hers)
    sheet.locator("#about-shorten").select_option("30")
    sheet.get_by_role("button", name="Shorten existing messages").click()
    expect(sheet.locator("[data-found]")).to_contain_text("2 of 2 messages would expire sooner.")
    expect(theirs.message("two").locator(".left")).to_contain_text(" min")
    sheet.get_by_role("button", name="Shorten 2 messages").click()
    expect(sheet.locator("[data-found]")).to_contain_text("2 messages expire sooner.")
    expect(theirs.message("two").locator('.left[data-left="last-minute"]')).to_contain_text(" s left")
    sheet.get_by_role("button", name="Shorten existing messages").click()
    expect(sheet.locator("[data-found]")).to_contain_text("No message would expire sooner.")
    theirs.page.get_by_role("button", name="About this room").click()
    expect(theirs.page.locator("#about-shorten")).to_be_hidden()


def test_untracked_room_shows_that_it_is_untracked(open_screen: OpenScreen, site: Site, demo: Demo) -> None:
    untrack = (
        f"from messaging.models import Room; Room.objects.filter(pk={demo.room!r}).update(tracked=False)"
    )
    site.manage("shell", "-c", untrack)
    hers = room_of(open_screen, demo)
    expect(hers.page.locator("[data-room-line]")).to_contain_text("Not tracked, 3 members")
    expect(hers.page.locator("[data-empty-room]")).to_contain_text("nobody is told who missed one")
    hers.page.locator("[data-lifetime] summary").click()
    expect(hers.page.locator("[data-after]")).to_contain_text("This room is not tracked")
    hers.page.keyboard.press("Escape")
    expect(about(hers)).to_contain_text("nobody is told who missed one")


SUMMARIZE = """
from django.utils import timezone
from messaging.models import Notice
hour = 3_600_000
now = timezone.now()
ms = int(now.timestamp() * 1000)
data = {{"messages": 240, "from_at": ms - 9 * hour, "to_at": ms - hour, "rooms": {{{room!r}: 200, "gone": 40}}}}
Notice.objects.create(id="summary-{user}", user_id={user}, kind="summary", at=now, data=data)
"""


def test_summed_notices_are_one_row_that_can_be_dismissed(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    site.manage("shell", "-c", SUMMARIZE.format(room=demo.room, user=demo.people[0].id))
    hers = room_of(open_screen, demo)
    expect(bell(hers, 1)).to_have_count(1)
    told = open_bell(hers)
    expect(told.locator(".notice")).to_have_count(1)
    expect(told).to_contain_text("240 older messages did not reach everyone")
    expect(told.locator("li", has_text=demo.rooms[0]["name"])).to_contain_text("200")
    expect(told.locator("li", has_text="A room you have left")).to_contain_text("40")
    told.get_by_role("button", name="Dismiss").click()
    expect(told).to_contain_text("No notices")
    hers.page.reload()
    hers.wait_ready()
    expect(bell(hers, 1)).to_have_count(0)


CROWD = """
from django.utils import timezone
from messaging.models import Notice
now = timezone.now()
ms = int(now.timestamp() * 1000)
missing = [{{"user": n, "name": f"member {{n}}", "reason": "offline", "attempts": 0}} for n in range(100, 200)]
for seq in {seqs}:
    data = {{
        "room": {room!r}, "epoch": "e", "seq": seq, "id": "x", "sent_at": ms - 60_000, "expired_at": ms,
        "delivered": 9760, "total": 10_000, "missing": missing, "missing_total": 240,
    }}
    Notice.objects.create(id=f"crowd-{user}-{{seq}}", user_id={user}, kind="undelivered", at=now, data=data)
"""


@pytest.mark.parametrize("seqs", [[1], [1, 2]])
def test_a_notice_names_ten_at_once_a_hundred_when_asked_and_counts_the_rest(
    open_screen: OpenScreen, site: Site, demo: Demo, seqs: list[int]
) -> None:
    site.manage("shell", "-c", CROWD.format(room=demo.room, user=demo.people[0].id, seqs=seqs))
    hers = room_of(open_screen, demo)
    expect(bell(hers, len(seqs))).to_have_count(1)
    told = open_bell(hers)
    if len(seqs) > 1:
        expect(told.locator("h3")).to_contain_text(["expired before member 100 and 239 others received them"])
        told.get_by_text("Show each").click()
    one = told.locator(
        '.notice:has-text("Never reached member 100, member 101, member 102 and 237 more")'
    ).last
    expect(one.locator("li:visible")).to_have_count(10)
    one.get_by_text("and 230 more").click()
    expect(one.locator("li:visible")).to_have_count(101)
    expect(one.locator("li").last).to_have_text("and 140 more")
    assert told.evaluate("(sheet) => sheet.scrollWidth <= sheet.clientWidth")


REPORT = """
import time, uuid
from messaging.expiry import reports
from messaging.models import Room
from messaging.store.records import Due, Expired, Missed, RoomKey
room = Room.objects.get(pk={room!r})
ms = int(time.time() * 1000) - {ago_s} * 1000
missed = tuple(Missed(user, "offline", 0) for user in range(1_000, 1_000 + {members}))
reports.record(
    [
        Expired(
            due=Due(RoomKey(room.pk, room.partition), seq, 0, ""), epoch="e", live=True, sender={user}, id=str(uuid.uuid4()),
            name="ada", body="x", sent_at=ms - 60_000, expires_at=ms, reply_to=None, resends=None, total=400, missed=missed,
        )
        for seq in range(1, {messages} + 1)
    ],
    ms,
)
"""


def test_every_name_of_a_notice_is_shown_when_asked(open_screen: OpenScreen, site: Site, demo: Demo) -> None:
    site.manage(
        "shell", "-c", REPORT.format(room=demo.room, user=demo.people[0].id, members=350, messages=1, ago_s=0)
    )
    hers = room_of(open_screen, demo)
    told = open_bell(hers)
    told.get_by_text("and 340 more").click()
    names = told.locator("li b")
    expect(names).to_have_count(100)
    told.get_by_role("button", name="and 250 more").click()
    expect(names).to_have_count(200)
    told.get_by_role("button", name="and 250 more").click()
    expect(names).to_have_count(350)
    expect(told.get_by_role("button", name="and 250 more")).to_have_count(0)
    assert len(set(names.all_inner_texts())) == 350


def test_notices_before_the_newest_hundred_are_shown_when_asked(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    site.manage(
        "shell", "-c", REPORT.format(room=demo.room, user=demo.people[0].id, members=1, messages=230, ago_s=0)
    )
    hers = room_of(open_screen, demo)
    expect(bell(hers, 100)).to_have_count(1)
    told = open_bell(hers)
    told.get_by_role("button", name="Show earlier notices").click()
    expect(bell(hers, 200)).to_have_count(1)
    told.get_by_role("button", name="Show earlier notices").click()
    expect(bell(hers, 230)).to_have_count(1)
    expect(told.get_by_role("button", name="Show earlier notices")).to_have_count(0)


def test_messages_of_a_summary_are_shown_one_by_one_when_asked(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    user, room = demo.people[0].id, demo.room
    site.manage("shell", "-c", REPORT.format(room=room, user=user, members=12, messages=120, ago_s=7_200))
    site.manage("shell", "-c", "from messaging.models import Notice; Notice.objects.all().delete()")
    site.manage("shell", "-c", SUMMARIZE.format(room=room, user=user))
    told = open_bell(room_of(open_screen, demo))
    told.get_by_text("Show each").click()
    each = told.get_by_text("Never reached")
    expect(each).to_have_count(99)  # a page of 100, one of which is the summary
    told.get_by_role("button", name="Show more").click()
    expect(each).to_have_count(120)
    expect(told.get_by_role("button", name="Show more")).to_have_count(0)


def test_the_tombstone_and_the_notices_work_from_the_keyboard_alone(
    open_screen: OpenScreen, site: Site, demo: Demo
) -> None:
    hers = room_of(open_screen, demo)
    missed(site, hers, "by keyboard")
    keys = hers.page.keyboard
    grave = hers.log.locator('[data-state="expired"]')
    tab_to(hers, "[data-log] article")
    expect(grave).to_be_focused()
    keys.press("ArrowRight")
    expect(grave.get_by_role("button", name="Resend to them")).to_be_focused()
    tab_to(hers, "[data-bell]", back=True)
    keys.press("Enter")
    expect(notices(hers)).to_be_visible()
    tab_to(hers, "#notices .notice-actions button:last-child")
    keys.press("Enter")
    expect(notices(hers)).to_contain_text("No notices")
    assert hers.page.evaluate("document.activeElement.closest('#notices') !== null")
    keys.press("Escape")
    expect(notices(hers)).to_be_hidden()
    tab_to(hers, "[data-log] article", back=False)
    keys.press("Enter")
    keys.press("Enter")
    expect(grave).to_contain_text("Resent to ")


def tab_to(screen: Screen, selector: str, *, back: bool = False) -> None:
    key = "Shift+Tab" if back else "Tab"

    def there() -> bool:
        if screen.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return True
        screen.page.keyboard.press(key)
        return False

    wait_for(f"{selector} in the tab order", there)


@pytest.mark.parametrize(
    ("options", "look_at"),
    [
        ({}, look_in_light_and_dark),
        ({"width": 390, "height": 844, "phone": True}, look),
        (
            {"width": 320, "height": 640, "phone": True, "language": "zh-CN", "reduced_motion": "reduce"},
            look_without_contrast,
        ),
    ],
)
def test_axe_finds_nothing_serious_on_the_screens_of_expiry(
    open_screen: OpenScreen,
    site: Site,
    demo: Demo,
    options: dict[str, object],
    look_at: Callable[[Screen, str], None],
) -> None:
    hers = open_screen(demo.people[0], f"/r/{demo.room}/", **options)
    hers.wait_ready()
    hers.live_for(SHORT_S)
    hers.say("gone soon")
    hers.live_for(30)
    hers.say("soon to be extended")
    grave = hers.log.locator('[data-state="expired"]')
    expect(grave).to_have_count(1, timeout=20_000)
    process(site, grave.locator("button:visible"))
    look_at(hers, "tombstone")
    open_bell(hers)
    expect(notices(hers).locator(".notice")).to_have_count(1)
    look_at(hers, "notices")
    assert hers.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    hers.page.keyboard.press("Escape")
    expect(hers.message("soon to be extended").locator(".aside")).to_be_visible(timeout=40_000)
    look_at(hers, "extend")
    hers.page.locator("#about").evaluate("(sheet) => sheet.showPopover()")
    hers.page.locator("#about-shorten").select_option("30")
    hers.page.locator("[data-count-shortened]").click()
    expect(hers.page.locator("[data-found]")).to_be_visible()
    look_at(hers, "shorten")
