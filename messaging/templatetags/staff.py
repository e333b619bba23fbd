"""What the staff's front page shows on top of the list of what there is."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context

from messaging import admin_overview

register = template.Library()


@register.inclusion_tag("admin/_overview.html", takes_context=True)
def overview(context: Context) -> dict[str, Any]:
    """Show how the site stands."""
    return admin_overview.context(context["request"])
