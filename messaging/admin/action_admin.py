"""The one path for every staff action on rows: permission, confirmation page with the effect in numbers, results.

    the list's action, or a form on another page -> permission? -> confirmation page (and form) -> permission? -> the action
    -> the numbers of done, skipped and failed rows with the reasons -> a log entry for each changed row, without any text

The confirmation page posts the keys of its rows, so rows that start to match a filter in the meantime are not changed. More rows
than one request can handle become a bulk action: their keys are stored for the confirmation page, and `bulk_job` does the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext

from messaging.expiry.requeue import Outcome, Result
from messaging.models import BulkAction

from . import bulk_rows, bulk_start
from .actions import Action, form_data_of, log_each, reasons_text, user_id_of
from .bulk_start import BulkRows

MAX_LISTED_ROWS = 100  # on the confirmation page


class ActionAdmin(admin.ModelAdmin[Any]):
    """A list with actions. Both the confirmation page and the action itself need the permission."""

    row_actions: tuple[Action, ...] = ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        allowed = [action for action in self.row_actions if action.is_allowed(request)]
        return super().get_actions(request) | {
            action.name: (_start_action, action.name, action.label) for action in allowed
        }

    # What a list may override

    def in_order(self, queryset: Any) -> Any:
        """Return the same rows in processing order."""
        return queryset

    def keys(self, queryset: Any, limit: int) -> list[str]:
        """Return the keys of the first rows in processing order."""
        keys = self.in_order(queryset).values_list("pk", flat=True)[:limit]
        return [str(key) for key in dict.fromkeys(keys)]

    def rows_by_key(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return existing rows by their keys, in the order of the keys."""
        rows = {str(row.pk): row for row in self.get_queryset(request).filter(pk__in=keys)}
        return [rows[key] for key in keys if key in rows]

    def rows_for_log(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return rows for log entries."""
        return self.rows_by_key(request, keys) if keys else []

    def describe(self, row: Any) -> str:
        """Return the text for a row on the confirmation page."""
        return str(row)

    # From the list to the action

    def is_allowed(self, request: HttpRequest, action: Action) -> bool:
        """Return whether the user may see this list and run an action on it."""
        may_see = self.admin_site.has_permission(request) and self.has_view_or_change_permission(request)
        return may_see and action.is_allowed(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        action = self._requested_action(request)
        if action is None:
            return super().changelist_view(request, extra_context)
        if not (self.has_view_or_change_permission(request) and action.is_allowed(request)):
            raise PermissionDenied
        if "bulk" in request.POST:
            return self._run_bulk(request, action, bulk_start.find(request, self._list_name, action))
        if "chosen" in request.POST:
            return self._run(request, action, *self._posted_rows(request, action))
        return super().changelist_view(request, extra_context)

    def start_action(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        """Continue from the choice of an action and rows on the list."""
        action = self._requested_action(request)
        if action is None or not action.is_allowed(request):
            raise PermissionDenied
        if queryset.count() > action.max_rows:
            keys = self.keys(queryset, bulk_rows.MAX_ROWS)
            if len(keys) > action.max_rows:
                left = queryset.count() - len(keys) if len(keys) == bulk_rows.MAX_ROWS else 0
                bulk_action = bulk_start.create(request, self._list_name, action, keys)
                return self._run_bulk(request, action, bulk_action, left)
            queryset = queryset.filter(pk__in=keys)
        return self._run(request, action, list(self.in_order(queryset)), [], 0)

    @property
    def _list_name(self) -> str:
        return str(self.opts.model_name)

    def _requested_action(self, request: HttpRequest) -> Action | None:
        if request.method != "POST":
            return None
        # The list has a choice above and below its rows; `index` tells which button was pressed.
        names = request.POST.getlist("action")
        index = request.POST.get("index", "0")
        position = int(index) if index.isdecimal() and int(index) < len(names) else 0
        return next((action for action in self.row_actions if names and action.name == names[position]), None)

    def _posted_rows(self, request: HttpRequest, action: Action) -> tuple[list[Any], list[str], int]:
        """Return the rows that a page posted, the keys of deleted ones, and the number of rows above the limit."""
        keys = list(dict.fromkeys(request.POST["chosen"].split()))
        try:
            rows = self.rows_by_key(request, keys[: action.max_rows])
        except (ValidationError, ValueError, OverflowError) as error:
            raise BadRequest("no such rows") from error
        existing = {str(row.pk) for row in rows}
        deleted = [key for key in keys[: action.max_rows] if key not in existing]
        return rows, deleted, max(0, len(keys) - action.max_rows)

    def _run(
        self, request: HttpRequest, action: Action, rows: Sequence[Any], deleted: Sequence[str], left: int
    ) -> HttpResponse:
        """Run an action on rows, or ask for confirmation first. `left`: selected rows above the limit."""
        form = action.bind_form(request)
        if not action.is_confirmed(request, form):
            return self._confirmation_page(request, action, rows, form, left=left)
        keys = [str(row.pk) for row in rows]
        outcomes = list(action.perform(user_id_of(request), keys, form_data_of(form)))
        outcomes += [Outcome(key, Result.SKIPPED, "unknown") for key in deleted]
        self._report(request, action, rows, outcomes, left + len(rows) + len(deleted) - len(outcomes))
        return HttpResponseRedirect(request.get_full_path())

    def _run_bulk(
        self, request: HttpRequest, action: Action, bulk_action: BulkAction | None, left: int = 0
    ) -> HttpResponse:
        """Start a bulk action, or ask for confirmation first."""
        if bulk_action is None:
            expired = gettext(
                "Nothing was done: this confirmation page has expired or was opened again. Select the rows again."
            )
            self.message_user(request, expired, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        form = action.bind_form(request)
        if not action.is_confirmed(request, form):
            rows = BulkRows(bulk_action, lambda keys: self.rows_by_key(request, keys))
            return self._confirmation_page(request, action, rows, form, left=left, bulk=bulk_action.pk)
        message = bulk_start.start(bulk_action, action, form_data_of(form))
        self.message_user(request, message, messages.SUCCESS)
        return HttpResponseRedirect(request.get_full_path())

    def _confirmation_page(
        self,
        request: HttpRequest,
        action: Action,
        rows: Sequence[Any],
        form: forms.Form | None,
        *,
        left: int,
        bulk: int | None = None,
    ) -> HttpResponse:
        """Return the page that shows the form until it is complete, then the effect. `bulk`: key of a bulk action."""
        is_complete, form_data = form is None or form.is_valid(), form_data_of(form)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": action.label,
            "action": action,
            "rows": [self.describe(row) for row in rows[:MAX_LISTED_ROWS]],
            "count": len(rows),
            "unlisted": max(0, len(rows) - MAX_LISTED_ROWS),
            "left": left,
            "bulk": bulk,
            "chosen": "" if bulk else " ".join(str(row.pk) for row in rows),
            "effect": action.effect(rows, form_data) if action.effect is not None and is_complete else [],
            "form": form,
            "values": [(name, form[name].value()) for name in form_data] if form is not None else [],
            "is_complete": is_complete,
            "back": request.get_full_path(),
        }
        return TemplateResponse(request, "admin/messaging/confirm.html", context)

    def _report(
        self,
        request: HttpRequest,
        action: Action,
        rows: Sequence[Any],
        outcomes: Sequence[Outcome],
        left: int,
    ) -> None:
        """Show the numbers of results and their reasons, and log each changed row."""
        done = {outcome.key for outcome in outcomes if outcome.result == Result.DONE}
        log_each(request, [row for row in rows if str(row.pk) in done], str(action.log_text))
        counts = Counter(outcome.result for outcome in outcomes)
        sentences = [str(action.summary_text % {result.value: counts[result] for result in Result})]
        reasons = Counter(outcome.why for outcome in outcomes if outcome.why)
        if reasons:
            sentences.append(gettext("Why: %(reasons)s.") % {"reasons": reasons_text(reasons)})
        left_out = Counter(why for outcome in outcomes for _user, why in outcome.left_out)
        if left_out:
            sentences.append(gettext("Left out: %(reasons)s.") % {"reasons": reasons_text(left_out)})
        if left:
            sentences.append(gettext("Unchanged: %(left)d.") % {"left": left})
        level = messages.SUCCESS if len(done) == len(outcomes) else messages.WARNING
        level = messages.ERROR if counts[Result.FAILED] else level
        self.message_user(request, " ".join(sentences), level)


def _start_action(model_admin: ActionAdmin, request: HttpRequest, queryset: Any) -> HttpResponse:
    return model_admin.start_action(request, queryset)


def find_action(bulk_action: BulkAction) -> tuple[ActionAdmin, Action] | None:
    """Return the list and the action of a bulk action; None if this version does not have them."""
    try:
        page = admin.site.get_model_admin(apps.get_model("messaging", bulk_action.listed))
    except (LookupError, NotRegistered):
        return None
    if not isinstance(page, ActionAdmin):
        return None
    return next(((page, action) for action in page.row_actions if action.name == bulk_action.verb), None)
