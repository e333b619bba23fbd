"""Start a bulk action from a list: store its keys, read its rows for the confirmation page, and queue the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext

from messaging import jobs
from messaging.bridge import run_async
from messaging.models import BulkAction
from messaging.store import clock_ms

from . import bulk_rows
from .actions import Action, FormData, user_id_of


class BulkRows(Sequence[Any]):
    """The rows of a bulk action, read in portions. Deleted rows are counted, but not returned."""

    def __init__(self, bulk_action: BulkAction, rows_by_key: Callable[[Sequence[str]], list[Any]]) -> None:
        self._bulk_action, self._rows_by_key = bulk_action, rows_by_key

    def __len__(self) -> int:
        return self._bulk_action.total

    def __getitem__(self, part: Any) -> Any:
        start, stop, _step = part.indices(len(self))
        return self._rows_by_key(bulk_rows.keys_of(self._bulk_action, start, stop))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), bulk_rows.PORTION_KEYS):
            yield from self[start : start + bulk_rows.PORTION_KEYS]


def create(request: HttpRequest, list_name: str, action: Action, keys: Sequence[str]) -> BulkAction:
    """Store the keys of the rows that a confirmation page is about."""
    query, now_ms = request.GET.urlencode(), run_async(clock_ms)
    return bulk_rows.create(request.user, list_name, action.name, keys, query=query, now_ms=now_ms)


def find(request: HttpRequest, list_name: str, action: Action) -> BulkAction | None:
    """Return the bulk action that a confirmation page of this user posts; None if it expired or was replaced."""
    key = request.POST["bulk"]
    own = BulkAction.objects.filter(by=user_id_of(request), listed=list_name, verb=action.name)
    return own.filter(pk=int(key)).first() if key.isdecimal() and len(key) < 19 else None


def start(bulk_action: BulkAction, action: Action, form_data: FormData) -> str:
    """Start a bulk action and queue the job; return the message for the user, as HTML."""
    bulk_rows.start(bulk_action, form_data, str(action.log_text), run_async(clock_ms))
    jobs.run_soon("carry_on_bulk")
    message = ngettext(
        "Started: the worker is processing %(n)s row in batches.",
        "Started: the worker is processing %(n)s rows in batches.",
        bulk_action.total,
    ) % {"n": f"{bulk_action.total:,}"}
    page = reverse("admin:messaging_bulkaction_change", args=[bulk_action.pk])
    return format_html('{} <a href="{}">{}</a>', message, page, gettext("View progress or stop"))
