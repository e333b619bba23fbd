"""Numbers and times as the staff's pages show them: how long ago or ahead, the exact moment for whoever points at it."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _

from .models import moment

SOON_MS = 10 * 60_000


def age(seconds: float) -> str:
    """Return a length of time in its largest unit."""
    whole = int(seconds)
    if whole < 60:
        return _("%(n)s s") % {"n": whole}
    if whole < 3_600:
        return _("%(n)s min") % {"n": whole // 60}
    if whole < 86_400:
        return _("%(n)s h") % {"n": whole // 3_600}
    return _("%(n)s d") % {"n": whole // 86_400}


def clock(at: datetime) -> str:
    """Return the time of day, with its date when that is another one; always in UTC, and it says so."""
    form = "H:i:s" if at.date() == datetime.now(UTC).date() else "Y-m-d H:i:s"
    return f"{date_format(at, form, use_l10n=False)} UTC"


def number(count: int) -> str:
    """Return a count with its thousands set off."""
    return f"{count:,}"


def ago(at_ms: int, now_ms: int) -> str:
    """Return how long ago something was, as HTML."""
    return timed(at_ms, _("%(age)s ago") % {"age": age(max(0, now_ms - at_ms) / 1000)})


def ahead(at_ms: int, now_ms: int) -> str:
    """Return in how long something will be, as HTML; `now` once it is due."""
    left_s = (at_ms - now_ms) / 1000
    return timed(at_ms, _("in %(age)s") % {"age": age(left_s)} if left_s >= 1 else _("now"))


def ends(at_ms: int, now_ms: int) -> str:
    """Return in how long a life ends, as HTML; soon looks like it."""
    said = ahead(at_ms, now_ms)
    return format_html('<span class="ops-soon">{}</span>', said) if at_ms - now_ms < SOON_MS else said


def timed(at_ms: int, said: str) -> str:
    """Return words that mean a moment, which they tell to whoever points at them, as HTML."""
    return format_html('<time title="{}">{}</time>', clock(moment(at_ms)), said)
