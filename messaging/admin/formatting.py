"""Numbers, times and states as the staff's pages show them: how long ago or ahead, the exact moment for whoever points at it."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _

from messaging.models import epoch_ms, moment

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


def lasting(seconds: int) -> str:
    """Return a length of time exactly, in the largest unit that says it whole."""
    for unit_s, said in ((86_400, _("%(n)s d")), (3_600, _("%(n)s h")), (60, _("%(n)s min"))):
        if seconds and seconds % unit_s == 0:
            return said % {"n": number(seconds // unit_s)}
    return _("%(n)s s") % {"n": number(seconds)}


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


def since(at: datetime) -> str:
    """Return how long ago a moment that the database keeps was, as HTML."""
    return ago(epoch_ms(at), epoch_ms(timezone.now()))


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


def signed(kind: str, said: str) -> str:
    """Return a state as a sign and a word, as HTML."""
    return format_html('<span class="ops-state" data-kind="{}">{}</span>', kind, said)
