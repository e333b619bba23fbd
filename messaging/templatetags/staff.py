"""What the staff's pages show beside what the stock ones do: the front page's overview, which rows a list has."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context
from django.utils.html import format_html
from django.utils.translation import gettext as _

from messaging.admin import overview as front_page
from messaging.admin.formatting import number

register = template.Library()


@register.inclusion_tag("admin/_overview.html", takes_context=True)
def overview(context: Context) -> dict[str, Any]:
    """Show how the site stands."""
    return front_page.context(context["request"])


@register.simple_tag
def staff_range(cl: Any) -> str:
    """Say which rows of how many this page has."""
    last = min(cl.page_num * cl.list_per_page, cl.result_count)
    first = (cl.page_num - 1) * cl.list_per_page + 1
    said = _("%(first)s–%(last)s of %(all)s")
    numbers = {"first": number(first), "last": number(last), "all": number(cl.result_count)}
    return format_html('<p class="ops-range">{}</p>', said % numbers) if cl.multi_page else ""
