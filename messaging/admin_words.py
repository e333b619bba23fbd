"""Times as the staff's lists show them: how long ago or ahead, the exact moment for whoever points at it."""

from __future__ import annotations

from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _

from .models import moment


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


def clock(at_ms: int) -> str:
    """Return a moment, always in UTC, and saying so."""
    return f"{date_format(moment(at_ms), 'Y-m-d H:i:s', use_l10n=False)} UTC"


def ago(at_ms: int, now_ms: int) -> str:
    """Return how long ago something was, as HTML."""
    said = _("%(age)s ago") % {"age": age(max(0, now_ms - at_ms) / 1000)}
    return format_html('<time title="{}">{}</time>', clock(at_ms), said)


def ahead(at_ms: int, now_ms: int) -> str:
    """Return in how long something will be, as HTML; `now` once it is due."""
    left_s = (at_ms - now_ms) / 1000
    said = _("in %(age)s") % {"age": age(left_s)} if left_s >= 1 else _("now")
    return format_html('<time title="{}">{}</time>', clock(at_ms), said)
