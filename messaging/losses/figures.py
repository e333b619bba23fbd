"""The losses of the last days, for `doctor`, the front page and the metrics."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

from django.db.models import Max, Min, Sum
from django.utils import timezone

from messaging.models import StoreLoss


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LossFigures:
    """The losses of a period. `since`: messages accepted before were not lost; None if that is unknown. `until`: the last detection."""

    losses: int
    messages: int
    since: datetime | None
    until: datetime | None


def recent(days: int) -> LossFigures:
    """Return the losses of the last days."""
    rows = StoreLoss.objects.filter(at__gte=timezone.now() - timedelta(days=days))
    sums = rows.aggregate(messages=Sum("messages", default=0), since=Min("safe_until"), until=Max("at"))
    unknown = rows.filter(safe_until=None).exists()
    return LossFigures(
        losses=rows.count(),
        messages=sums["messages"],
        since=None if unknown else sums["since"],
        until=sums["until"],
    )
