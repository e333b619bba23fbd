"""Numbers, times and states as the staff's pages show them: relative times, with the exact time as a tooltip."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _

from messaging.models import epoch_ms, moment

SOON_MS = 10 * 60_000
MAX_NAMES = 3  # people listed in a row


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    whole = int(seconds)
    if whole < 60:
        return _("%(n)s s") % {"n": whole}
    if whole < 3_600:
        return _("%(n)s min") % {"n": whole // 60}
    if whole < 86_400:
        return _("%(n)s h") % {"n": whole // 3_600}
    return _("%(n)s d") % {"n": whole // 86_400}


def lasting(seconds: int) -> str:
    """Return a duration exactly, in the largest unit without a remainder."""
    for unit_s, text in ((86_400, _("%(n)s d")), (3_600, _("%(n)s h")), (60, _("%(n)s min"))):
        if seconds and seconds % unit_s == 0:
            return text % {"n": number(seconds // unit_s)}
    return _("%(n)s s") % {"n": number(seconds)}


def clock(at: datetime) -> str:
    """Return the time in UTC, with its date unless it is today."""
    form = "H:i:s" if at.date() == datetime.now(UTC).date() else "Y-m-d H:i:s"
    return f"{date_format(at, form, use_l10n=False)} UTC"


def number(count: int) -> str:
    """Return a number with separated thousands."""
    return f"{count:,}"


def ago(at_ms: int, now_ms: int) -> str:
    """Return how long ago a time was, as HTML."""
    return timed(at_ms, _("%(age)s ago") % {"age": age(max(0, now_ms - at_ms) / 1000)})


def since(at: datetime) -> str:
    """Return how long ago a time of the database was, as HTML."""
    return ago(epoch_ms(at), epoch_ms(timezone.now()))


def ahead(at_ms: int, now_ms: int) -> str:
    """Return the time left until a time, as HTML; `now` when it is due."""
    left_s = (at_ms - now_ms) / 1000
    return timed(at_ms, _("in %(age)s") % {"age": age(left_s)} if left_s >= 1 else _("now"))


def ends(at_ms: int, now_ms: int) -> str:
    """Return the time left until an expiry, as HTML; the last 10 minutes are highlighted."""
    text = ahead(at_ms, now_ms)
    return format_html('<span class="ops-soon">{}</span>', text) if at_ms - now_ms < SOON_MS else text


def timed(at_ms: int, text: str) -> str:
    """Return a text with an exact time as its tooltip, as HTML."""
    return format_html('<time title="{}">{}</time>', clock(moment(at_ms)), text)


def signed(kind: str, text: str) -> str:
    """Return a state as a symbol and a text, as HTML."""
    return format_html('<span class="ops-state" data-kind="{}">{}</span>', kind, text)


def with_names(text: str, names: Sequence[str], total: int) -> str:
    """Return a text with the first of `total` names below it, as HTML."""
    others = total - len(names)
    shown = [*names, f"+{number(others)}"] if others > 0 else names
    return format_html("{}<small>{}</small>", text, _(", ").join(shown))


def missed_by(text: str, people: Sequence[tuple[str, str]], total: int) -> str:
    """Return a text with the first people who missed a message below it, [(name, reason)] of `total`, as HTML."""
    return with_names(
        text, [_("%(name)s (%(why)s)") % {"name": name, "why": why} for name, why in people], total
    )
