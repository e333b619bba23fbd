"""A bulk action on all rows of a list: confirmed, followed and stopped on its page; in both languages, on a phone, without a script."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.axe import look
from tests.e2e.conftest import OpenScreen
from tests.e2e.site import Demo, Person, Site
from tests.e2e.test_overview import LATER_MS, make_staff

ROWS = 1_201
LETTERS = "/admin/messaging/deadletter/?q={room}&state__exact=open"
# Many dead letters as the job writes them, and the job, which `TWO_CHUNKS` ends after two chunks.
MAKE_LETTERS = """
from uuid import uuid4
from django.utils import timezone
from messaging.models import DeadLetter
now = timezone.now()
DeadLetter.objects.bulk_create(DeadLetter(id=uuid4(), room_id="{room}", room_key="{room}", room_name="Atlas", epoch="e", seq=n + 1,
    message_id=str(uuid4()), sender_key=1, sender_name="ada", sent_at=now, expired_at=now, processed_at=now, delivered=0, total=1,
    missing_total=1, missing="", body="kept to themselves") for n in range({rows}))
"""
CONFIRMED_AND_STARTED = """
from django.contrib.auth import get_user_model
from messaging.admin import bulk_rows
from messaging.bridge import run_async
from messaging.store import clock_ms
now_ms = run_async(clock_ms)
user = get_user_model().objects.get(pk={id})
action = bulk_rows.create(user, "deadletter", "discard", ["1"], query="", now_ms=now_ms)
bulk_rows.start(action, {{}}, "", now_ms)
print(action.pk)
"""
CARRY_ON = "from messaging.admin.bulk_job import carry_on; carry_on()"
TWO_CHUNKS = """
from messaging import checkpoints
from messaging.admin import bulk_job
class Enough(Exception): pass
reached = []
def reach(checkpoint):
    reached.append(checkpoint)
    if reached.count("bulk_job.recorded") == 2: raise Enough
checkpoints.reach = reach
try: bulk_job.carry_on()
except Enough: pass
"""


@pytest.fixture
def operator(site: Site, demo: Demo) -> Person:
    """A staff member, for whom many dead letters are listed."""
    make_staff(site, demo.people[2])
    site.manage("shell", "-c", MAKE_LETTERS.format(room=demo.room, rows=ROWS))
    return demo.people[2]


def choose_all(page: Page, action: str) -> None:
    """Tick the page, then all rows, and choose an action."""
    page.locator("#action-toggle").check()
    page.locator(".actions .question a").click()
    page.locator('select[name="action"]').first.select_option(action)
    with page.expect_navigation():
        page.locator('.actions button[type="submit"]').first.click()


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "en",
            {
                "asks": "1,201 dead letters will be discarded",
                "waits": "Waiting for a worker",
                "stop": "Stop",
                "stopped": "Stopped by {name}. Finished rows stay changed; the others are unchanged.",
                "ended": "This bulk action has ended.",
                "finished": "Finished.",
            },
        ),
        (
            "zh-CN",
            {
                "asks": "将丢弃 1,201",
                "waits": "等待后台进程",
                "stop": "停止",
                "stopped": "已由 {name} 停止。",
                "ended": "这个批量操作已结束。",
                "finished": "已完成。",
            },
        ),
    ],
)
def test_all_rows_of_a_list_are_confirmed_followed_and_stopped(
    site: Site, open_screen: OpenScreen, demo: Demo, operator: Person, language: str, words: dict[str, str]
) -> None:
    screen = open_screen(operator, LETTERS.format(room=demo.room), language=language)
    page = screen.page
    choose_all(page, "discard")
    expect(page.locator("#content")).to_contain_text(words["asks"])
    look(screen, "asks")
    with page.expect_navigation():
        page.locator('input[type="submit"]').click()
    page.locator('.messagelist a[href*="/bulkaction/"]').click()
    expect(page.locator("[data-overview]")).to_contain_text(words["waits"])
    look(screen, "waits")

    site.manage("shell", "-c", TWO_CHUNKS)
    expect(page.locator('[data-part="all"] b')).to_have_text("400", timeout=LATER_MS)
    assert "kept to themselves" not in page.content()
    with page.expect_navigation():
        page.get_by_role("button", name=words["stop"], exact=True).click()
    expect(page.locator("[data-overview]")).to_contain_text(words["stopped"].format(name=operator.name))
    expect(page.locator("[data-pace]")).to_have_text(words["ended"])
    expect(page.locator("[data-pause]")).to_be_hidden()
    look(screen, "stopped")

    page.goto(site.url + LETTERS.format(room=demo.room))
    choose_all(page, "discard")
    with page.expect_navigation():
        page.locator('input[type="submit"]').click()
    expect(page.locator(".errorlist, .messagelist .error")).to_have_count(0)


def test_the_page_follows_to_the_end_and_the_list_names_it(
    site: Site, open_screen: OpenScreen, demo: Demo, operator: Person
) -> None:
    screen = open_screen(
        operator, LETTERS.format(room=demo.room), width=390, phone=True, dark=True, language="zh-CN"
    )
    page = screen.page
    choose_all(page, "discard")
    page.locator('input[type="submit"]').click()
    page.locator('.messagelist a[href*="/bulkaction/"]').click()
    expect(page.locator("[data-pace]")).to_be_visible()
    # The bulk actions of earlier tests end first.
    site.manage(
        "shell",
        "-c",
        "from messaging.models import BulkAction; BulkAction.objects.update(claimed_until=None)",
    )
    site.manage("shell", "-c", CARRY_ON)
    expect(page.locator("[data-overview]")).to_contain_text("已完成。", timeout=LATER_MS)
    expect(page.locator('[data-part="all"] b')).to_have_text("1,201")
    look(screen, "finished")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(f"{site.url}/admin/messaging/bulkaction/")
    expect(page.locator("#result_list tbody tr").first).to_contain_text("丢弃")
    look(screen, "list")


def test_the_page_works_without_a_script(
    site: Site, open_screen: OpenScreen, demo: Demo, operator: Person
) -> None:
    key = site.manage("shell", "-c", CONFIRMED_AND_STARTED.format(id=operator.id)).split()[-1]
    screen = open_screen(operator, f"/admin/messaging/bulkaction/{key}/change/", java_script_enabled=False)
    page = screen.page
    expect(page.locator("[data-pause]")).to_be_hidden()
    expect(page.locator("[data-overview]")).to_contain_text("0 of 1 rows (0 %)")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("[data-overview]")).to_contain_text(f"Stopped by {operator.name}.")
