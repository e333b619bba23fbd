"""Tags of the staff's pages: the overview of the front page, the range of rows of a list, commands in a text."""

from __future__ import annotations

import re
from typing import Any

from django import template
from django.template import Context
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from messaging.admin import overview as front_page
from messaging.admin.formatting import number

register = template.Library()


@register.inclusion_tag("admin/_overview.html", takes_context=True)
def overview(context: Context) -> dict[str, Any]:
    """Show the state of the site."""
    return front_page.context(context["request"])


@register.simple_tag
def staff_range(cl: Any) -> str:
    """Show the range of rows on this page, and the number of all rows."""
    if not cl.multi_page:
        return ""
    last = min(cl.page_num * cl.list_per_page, cl.result_count)
    first = (cl.page_num - 1) * cl.list_per_page + 1
    numbers = {"first": number(first), "last": number(last), "all": number(cl.result_count)}
    return format_html('<p class="ops-range">{}</p>', _("%(first)s–%(last)s of %(all)s") % numbers)


@register.filter
def code(text: str) -> SafeString:
    """Show the text between backquotes as code."""
    return mark_safe(re.sub("`([^`]+)`", r"<code>\1</code>", escape(text)))  # noqa: S308 - escaped
