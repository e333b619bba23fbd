"""The staff's front page in words: cards, banners, the account line and charts over the figures of `overview`.

The page comes whole, with no script at all; `static/js/admin/overview.js` asks for the part that changes every 5 s.
"""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from messaging import policy as policies
from messaging.models import moment
from messaging.monitoring import health, site_figures
from messaging.monitoring.site_figures import Account, Figures, Recorded, Told
from messaging.store.records import Counts

from .charts import Chart, Point, chart, stack
from .formatting import age, clock, number

SILENT_S = 150.0  # two looks of the worker missed, and a half
BAR_WIDTH, BAR_GAP, BAR_LEAST = 1_000, 3, 6

_UNDELIVERED = "admin:messaging_undeliveredroom_changelist", "", "messaging.view_undeliveredroom"
_LETTERS = "admin:messaging_deadletter_changelist", "", "messaging.view_deadletter"

# Where a card leads: {card: (page, query, permission)}. One whose list does not exist stands here once it does.
LISTS: dict[str, tuple[str, str, str]] = {
    "stored": ("admin:messaging_storedmessage_changelist", "", "messaging.view_storedmessage"),
    "lagging": _UNDELIVERED,
    "parked": _UNDELIVERED,
    "retrying": _UNDELIVERED,
    "gave_up": _UNDELIVERED,
    "oldest": _UNDELIVERED,
    "letters": (_LETTERS[0], "?state__exact=open", _LETTERS[2]),
    "expired": _LETTERS,
    "missed": _LETTERS,
    "workers": ("admin:django_q_schedule_changelist", "", "django_q.view_schedule"),
    "rooms": ("admin:messaging_room_changelist", "", "messaging.view_room"),
    "memberships": ("admin:messaging_membership_changelist", "", "messaging.view_membership"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """One figure. `look`: somebody should. `at` is the moment that a relative time means, for whoever points at it."""

    key: str
    label: str
    value: str
    note: str = ""
    look: bool = False
    at: str = ""
    href: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Banner:
    """What is wrong, what it means, what to do, and the words to type for it. No running ages: a screen reader says what changes."""

    key: str
    fact: str
    meaning: str
    remedy: str
    command: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of the account line. `x` and `width` in its bar of 1,000; `width` 0: not in the bar."""

    key: str
    number: str
    label: str
    x: int = 0
    width: int = 0


@require_safe
@never_cache
def fragment(request: HttpRequest) -> HttpResponse:
    """Return what changes of the page, to staff."""
    if not admin.site.has_permission(request):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    return render(request, "admin/_overview.html", context(request))


def context(request: HttpRequest) -> dict[str, Any]:
    """Return what the page shows to this member of the staff."""
    found = site_figures.figures()
    return {
        "at": found.at,
        "clock": clock(found.at),
        "banners": banners(found),
        "account": found.account,
        "title": _title(found.account) if found.account else "",
        "parts": parts(found.account) if found.account else [],
        "cards": [_linked(card, request) for card in cards(found)],
        "charts": charts(found.told) if found.told else [],
    }


def _linked(card: Card, request: HttpRequest) -> Card:
    page, query, permission = LISTS.get(card.key, ("", "", ""))
    if not page or not request.user.has_perm(permission):
        return card
    return dataclasses.replace(card, href=reverse(page) + query)


# ── Banners ──


def banners(found: Figures) -> list[Banner]:
    """Say what the staff must know before anything else, the worst first."""
    told = found.told
    if told is None:
        return [
            Banner(
                "away",
                _("The store cannot be reached."),
                _(
                    "Nothing can be sent or retried; browsers keep what is written and send it later. Below is what the database knows."
                ),
                _("Start the store. What is wrong with it says:"),
                "manage.py doctor",
            )
        ]
    listed = [
        _silent(told),
        _unlogged(told),
        _unwritten(told),
        _evicting(told),
        _full(told),
        _late(told),
        _unaccounted(found.account),
    ]
    return [banner for banner in listed if banner is not None]


def _silent(told: Told) -> Banner | None:
    if told.beat_at is not None and told.now_ms - told.beat_at <= SILENT_S * 1000:
        return None
    fact = _("No job has ever run.")
    if told.beat_at is not None:
        fact = _("No worker has beaten since %(clock)s.") % {"clock": clock(moment(told.beat_at))}
    meaning = _("Retries and expiry stand still; nothing is lost meanwhile.")
    return Banner("silent", fact, meaning, _("Start one:"), "manage.py worker")


def _unlogged(told: Told) -> Banner | None:
    if told.memory.logged:
        return None
    return Banner(
        "unlogged",
        _("The store keeps nothing on disk."),
        _("appendonly is off: a crash of the store loses every message on its way."),
        _("Run this in the store, and write it into its file:"),
        "CONFIG SET appendonly yes",
    )


def _unwritten(told: Told) -> Banner | None:
    if told.memory.written:
        return None
    return Banner(
        "unwritten",
        _("The store could not write to its disk."),
        _("What it accepts now may be lost when it stops."),
        _("Make room on its disk, and read its log."),
    )


def _evicting(told: Told) -> Banner | None:
    if told.memory.policy == "noeviction":
        return None
    return Banner(
        "evicting",
        _("The store throws messages away when it is full."),
        _("maxmemory-policy is %(policy)s; messages would disappear in silence.")
        % {"policy": told.memory.policy},
        _("Run this in the store, and write it into its file:"),
        "CONFIG SET maxmemory-policy noeviction",
    )


def _full(told: Told) -> Banner | None:
    used, limit = told.memory.used, told.memory.limit
    if not limit or used <= health.MEMORY_SHARE * limit:
        return None
    return Banner(
        "full",
        _("The store uses %(percent)s %% of its memory.") % {"percent": 100 * used // limit},
        _("When it is full, sending stops; what it holds is not lost."),
        _("Raise maxmemory, or shorten the rooms' lifetimes."),
    )


def _late(told: Told) -> Banner | None:
    oldest_s = told.overdue.oldest_s
    if oldest_s is None or oldest_s <= health.LATE_EXPIRY_S:
        return None
    since = clock(moment(told.now_ms - int(oldest_s * 1000)))
    return Banner(
        "late",
        _("Senders do not hear who missed what expired since %(clock)s.") % {"clock": since},
        _("The job that reports expired messages is late; nothing is lost meanwhile."),
        _("See that a worker runs, or report them now:"),
        "manage.py process_expired --once",
    )


def _unaccounted(account: Account | None) -> Banner | None:
    if account is None or account.unaccounted <= 0 or account.dropped:
        return None
    fact = ngettext(
        "%(n)s accepted message is unaccounted for.",
        "%(n)s accepted messages are unaccounted for.",
        account.unaccounted,
    )
    return Banner(
        "unaccounted",
        fact % {"n": number(account.unaccounted)},
        _("Nobody was told that they are missing, and the store has them no more."),
        _(
            "Was the store emptied, or put back from an older copy? Keep its files and logs, and see what this says:"
        ),
        "manage.py doctor",
    )


# ── The account ──


def _title(account: Account) -> str:
    return ngettext(
        "%(n)s message accepted in the last %(days)s days. Where it is now",
        "%(n)s messages accepted in the last %(days)s days. Where they are now",
        account.accepted,
    ) % {"n": number(account.accepted), "days": account.days}


def parts(account: Account) -> list[Part]:
    """Return the parts of the account in their order, the one that must be 0 last."""
    way = _("on the way, or more: some rooms were not looked at") if account.cut else _("on the way")
    counted = [
        ("all", account.with_everyone, _("with everyone")),
        ("way", account.on_the_way, way),
        ("told", account.missed, _("missed somebody, sender told")),
        ("deleted", account.deleted, _("deleted by people")),
    ]
    places = stack([count for _key, count, _label in counted], width=BAR_WIDTH, gap=BAR_GAP, least=BAR_LEAST)
    found = [
        Part(key, number(count), label, x, width)
        for (key, count, label), (x, width) in zip(counted, places, strict=True)
    ]
    if account.unaccounted < 0:
        twice = _("being reported, and so counted twice")
        found.append(Part("twice", number(-account.unaccounted), twice))
    open_end = _("unaccounted for")
    if account.dropped:
        open_end = _("unaccounted for, old dead letters having been dropped")
    found.append(Part("lost", number(max(0, account.unaccounted)), open_end))
    return found


# ── Cards ──


def cards(found: Figures) -> list[Card]:
    """Return the figures in their order; of the store's none while it is away."""
    if found.told is None:
        return _kept_cards(found.recorded)
    return [*_owed_cards(found.told), *_ended_cards(found.told, found.recorded), *_site_cards(found.told)]


def _owed_cards(told: Told) -> list[Card]:
    owed = told.owed
    cut = _("at least: %(n)s rooms not looked at") % {"n": number(owed.rooms_left_out)}
    cut = cut if owed.rooms_left_out else ""
    tries = _("after %(n)s tries") % {"n": policies.current().attempts_max}
    soon = _("when they are back") if owed.retrying else _("none waits")
    if owed.next_at:
        soon = _("next in %(age)s") % {"age": age(max(0, owed.next_at - told.now_ms) / 1000)}
    oldest, at = "–", ""
    if owed.oldest_at:
        oldest, at = age((told.now_ms - owed.oldest_at) / 1000), clock(moment(owed.oldest_at))
    return [
        Card("stored", _("Stored"), number(told.fates.live), _("live messages")),
        Card("lagging", _("Lagging"), number(owed.lagging), cut or _("connected and behind")),
        Card("parked", _("Parked"), number(owed.parked), cut or _("until they are back")),
        Card("retrying", _("Retrying"), number(owed.retrying), cut or soon),
        Card("gave_up", _("Gave up"), number(owed.gave_up), cut or tries, look=owed.gave_up > 0),
        Card("oldest", _("Oldest undelivered"), oldest, cut or _("since it was accepted"), at=at),
    ]


def _ended_cards(told: Told, recorded: Recorded) -> list[Card]:
    missed = _("%(n)s missed by somebody") % {"n": number(told.last_day.expired_missed)}
    return [
        _letters(recorded),
        Card("expired", _("Expired in 24 h"), number(told.last_day.expired), missed),
    ]


def _site_cards(told: Told) -> list[Card]:
    processes = ngettext("on %(n)s server process", "on %(n)s server processes", told.processes)
    beat, at = _("never"), ""
    if told.beat_at is not None:
        beat = age((told.now_ms - told.beat_at) / 1000)
        at = clock(moment(told.beat_at))
    memory = told.memory
    limit = (
        _("of %(size)s, %(policy)s") % {"size": filesizeformat(memory.limit), "policy": memory.policy}
        if memory.limit
        else _("no limit, %(policy)s") % {"policy": memory.policy}
    )
    silent, full = _silent(told) is not None, _full(told) is not None
    return [
        Card("connections", _("Users connected"), number(told.online), processes % {"n": told.processes}),
        Card("workers", _("Worker's last beat"), beat, _("ago; one is due each minute"), look=silent, at=at),
        Card("memory", _("Store memory"), filesizeformat(memory.used), limit, look=full),
    ]


def _letters(recorded: Recorded) -> Card:
    count = recorded.letters_open
    return Card("letters", _("Dead letters open"), number(count), _("senders told"), look=count > 0)


def _kept_cards(recorded: Recorded) -> list[Card]:
    return [
        _letters(recorded),
        Card("missed", _("Missed in 24 h"), number(recorded.missed_last_day), _("senders told")),
        Card("rooms", _("Rooms"), number(recorded.rooms)),
        Card("memberships", _("Memberships"), number(recorded.memberships)),
    ]


# ── Charts ──


def charts(told: Told) -> list[dict[str, Any]]:
    """Return the last hour and the last days, drawn and in words."""
    return [
        _chart("hour", _("Last hour, each minute"), _("Minute"), told.minutes, "H:i"),
        _chart("days", _("Last %(n)s days") % {"n": len(told.days)}, _("Day"), told.days, "m-d"),
    ]


def _chart(key: str, title: str, unit: str, counts: list[Counts], form: str) -> dict[str, Any]:
    points = [
        Point(
            date_format(moment(one.at), form, use_l10n=False),
            one.accepted,
            one.delivered,
            one.expired_missed,
        )
        for one in counts
    ]
    drawn: Chart = chart(points)
    said = _(
        "%(accepted)s accepted, %(delivered)s deliveries, %(missed)s expired before everybody had them."
    ) % {
        "accepted": number(sum(point.line for point in points)),
        "delivered": number(sum(point.bars for point in points)),
        "missed": number(sum(point.below for point in points)),
    }
    rows = [
        (point.label, number(point.line), number(point.bars), number(point.below))
        for point in reversed(points)
    ]
    return {"key": key, "title": title, "unit": unit, "chart": drawn, "said": said, "rows": rows}
