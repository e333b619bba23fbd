"""The staff's front page: banners, cards, the account line and charts, all from the figures of `site_figures`.

The page is complete without a script. Every 5 s `static/js/admin/overview.js` requests the part that changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set
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
from messaging.monitoring import site_figures
from messaging.monitoring.site_figures import Account, DatabaseFigures, Figures, StoreFigures
from messaging.store.records import Counts

from .charts import Point, chart, stack
from .formatting import age, clock, number

BAR_WIDTH, BAR_GAP, MIN_BAR_WIDTH = 1_000, 3, 6

_UNDELIVERED = "admin:messaging_undeliveredroom_changelist", "", "messaging.view_undeliveredroom"
_LETTERS = "admin:messaging_deadletter_changelist", "", "messaging.view_deadletter"

# The list that a card links to: {card: (page, query, permission)}.
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
    """One figure. `at`: the exact moment of a relative time, shown as a tooltip."""

    key: str
    label: str
    value: str
    note: str = ""
    needs_attention: bool = False
    at: str = ""
    href: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class AccountPart:
    """A part of the account. `x`, `width`: its place in the bar, which is 1,000 units wide; with `width` 0 it is not in the bar."""

    key: str
    number: str
    label: str
    x: int = 0
    width: int = 0


@require_safe
@never_cache
def fragment(request: HttpRequest) -> HttpResponse:
    """Return the part of the page that changes, to staff only."""
    if not admin.site.has_permission(request):
        return HttpResponse(status=HTTPStatus.FORBIDDEN)
    return render(request, "admin/_overview.html", context(request))


def context(request: HttpRequest) -> dict[str, Any]:
    """Return the page's context. A card is a link if this member of staff may view its list."""
    figures = site_figures.figures()
    return {
        "clock": clock(figures.at),
        "faults": figures.faults(),
        "account": figures.account,
        "title": _title(figures.account) if figures.account else "",
        "parts": account_parts(figures.account) if figures.account else [],
        "cards": [_linked(card, request) for card in cards(figures)],
        "charts": charts(figures.store) if figures.store else [],
    }


def _linked(card: Card, request: HttpRequest) -> Card:
    page, query, permission = LISTS.get(card.key, ("", "", ""))
    if not page or not request.user.has_perm(permission):
        return card
    return dataclasses.replace(card, href=reverse(page) + query)


# ── The account ──


def _title(account: Account) -> str:
    return ngettext(
        "Current state of the %(n)s message accepted in the last %(days)s days",
        "Current state of the %(n)s messages accepted in the last %(days)s days",
        account.accepted,
    ) % {"n": number(account.accepted), "days": account.days}


def account_parts(account: Account) -> list[AccountPart]:
    """Return the parts of the account in their order. The last one must be 0, unless dead letters were dropped."""
    maximum = _("with nothing left to deliver (a maximum: some rooms were not counted)")
    minimum = _("on the way (a minimum: some rooms were not counted)")
    counted = [
        ("all", account.with_everyone, maximum if account.cut else _("with nothing left to deliver")),
        ("on_the_way", account.on_the_way, minimum if account.cut else _("on the way")),
        ("missed", account.missed, _("missed by someone, reported")),
        ("deleted", account.deleted, _("deleted by people")),
    ]
    counts = [count for _key, count, _label in counted]
    places = stack(counts, width=BAR_WIDTH, gap=BAR_GAP, min_width=MIN_BAR_WIDTH)
    parts = [
        AccountPart(key, number(count), label, x, width)
        for (key, count, label), (x, width) in zip(counted, places, strict=True)
    ]
    if account.unaccounted < 0:
        twice = _("being reported (counted twice for now)")
        parts.append(AccountPart("twice", number(-account.unaccounted), twice))
    dropped = _("unaccounted for (dropped dead letters may be among them)")
    label = dropped if account.dropped else _("unaccounted for")
    return [*parts, AccountPart("unaccounted", number(max(0, account.unaccounted)), label)]


# ── Cards ──


def cards(figures: Figures) -> list[Card]:
    """Return the cards in their order. Without the store there are other cards, from the database."""
    if figures.store is None:
        return _database_cards(figures.database)
    missed = _("%(n)s missed by someone") % {"n": number(figures.store.last_day.expired_missed)}
    return [
        *_debt_cards(figures.store),
        _letters(figures.database),
        Card("expired", _("Messages expired in 24 h"), number(figures.store.last_day.expired), missed),
        *_site_cards(figures.store, {fault.key for fault in figures.faults()}),
    ]


def _debt_cards(store: StoreFigures) -> list[Card]:
    debt = store.debt
    minimum = _("a minimum: %(n)s rooms not counted") % {"n": number(debt.rooms_left_out)}
    minimum = minimum if debt.rooms_left_out else ""
    attempts = _("after %(n)s attempts") % {"n": policies.current().attempts_max}
    next_attempt = _("next attempt when they reconnect") if debt.retrying else _("nothing to retry")
    if debt.next_at:
        next_attempt = _("next in %(age)s") % {"age": age(max(0, debt.next_at - store.now_ms) / 1000)}
    oldest, at = _ago(store, debt.oldest_at) if debt.oldest_at else ("–", "")
    return [
        Card("stored", _("Messages stored"), number(store.totals.live), _("not expired yet")),
        Card(
            "lagging",
            _("Members lagging"),
            number(debt.lagging),
            minimum or _("connected, but without some messages"),
        ),
        Card(
            "parked",
            _("Members parked"),
            number(debt.parked),
            minimum or _("offline: sent when they reconnect"),
        ),
        Card("retrying", _("Members with retries pending"), number(debt.retrying), minimum or next_attempt),
        Card(
            "gave_up",
            _("Members given up"),
            number(debt.gave_up),
            minimum or attempts,
            needs_attention=debt.gave_up > 0,
        ),
        Card("oldest", _("Oldest undelivered message"), oldest, minimum or _("since it was accepted"), at=at),
    ]


def _site_cards(store: StoreFigures, wrong: Set[str]) -> list[Card]:
    processes = ngettext("on %(n)s server process", "on %(n)s server processes", store.processes)
    last_run, at, expected = _("never"), "", _("expected every minute")
    if store.last_run_at is not None:
        last_run, at = _ago(store, store.last_run_at)
        expected = _("ago (expected every minute)")
    memory = store.memory
    limit = _("of %(size)s (%(policy)s)") if memory.limit else _("no limit (%(policy)s)")
    limit %= {"size": filesizeformat(memory.limit), "policy": memory.policy}
    silent, full = not wrong.isdisjoint({"worker_never", "worker_silent"}), "store_full" in wrong
    return [
        Card("connections", _("Users connected"), number(store.online), processes % {"n": store.processes}),
        Card("workers", _("Worker heartbeat"), last_run, expected, needs_attention=silent, at=at),
        Card("memory", _("Store memory"), filesizeformat(memory.used), limit, needs_attention=full),
    ]


def _ago(store: StoreFigures, at_ms: int) -> tuple[str, str]:
    """Return how long ago a moment was, and the moment."""
    return age((store.now_ms - at_ms) / 1000), clock(moment(at_ms))


def _letters(database: DatabaseFigures) -> Card:
    count = database.letters_open
    note = _("neither sent again nor discarded")
    return Card("letters", _("Dead letters open"), number(count), note, needs_attention=count > 0)


def _database_cards(database: DatabaseFigures) -> list[Card]:
    return [
        _letters(database),
        Card(
            "missed",
            _("Messages missed in 24 h"),
            number(database.missed_last_day),
            _("missed by someone, reported"),
        ),
        Card("rooms", _("Rooms"), number(database.rooms)),
        Card("memberships", _("Memberships"), number(database.memberships)),
    ]


# ── Charts ──


def charts(store: StoreFigures) -> list[dict[str, Any]]:
    """Return the last hour and the last days, each as a drawing and in words."""
    return [
        _chart("hour", _("Last hour, by minute"), _("Minute"), store.minutes, "H:i"),
        _chart("days", _("Last %(n)s days") % {"n": len(store.days)}, _("Day"), store.days, "m-d"),
    ]


def _chart(key: str, title: str, unit: str, counts: list[Counts], date_form: str) -> dict[str, Any]:
    points = [
        Point(
            date_format(moment(row.at), date_form, use_l10n=False),
            row.accepted,
            row.delivered,
            row.expired_missed,
        )
        for row in counts
    ]
    summary = _(
        "%(accepted)s messages accepted, %(delivered)s deliveries, %(missed)s messages missed by someone."
    ) % {
        "accepted": number(sum(point.line for point in points)),
        "delivered": number(sum(point.bars for point in points)),
        "missed": number(sum(point.below for point in points)),
    }
    rows = [
        (point.label, number(point.line), number(point.bars), number(point.below))
        for point in reversed(points)
    ]
    return {
        "key": key,
        "title": title,
        "unit": unit,
        "chart": chart(points),
        "summary": summary,
        "rows": rows,
    }
