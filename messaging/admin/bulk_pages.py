"""Bulk actions for the staff: a list, the progress of one, and its Stop button.

Staff who may view the list see every bulk action. Staff who may run an action see its bulk actions and may stop them.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from messaging.bridge import run_async
from messaging.errors import Unavailable
from messaging.models import BulkAction, epoch_ms
from messaging.store import clock_ms, open_store

from . import bulk_rows
from .action_admin import find_action
from .actions import reasons_text
from .formatting import clock, number
from .lists import ReadOnly

BAR_WIDTH = 1000  # units of the drawing

# Why a running bulk action waits, and why one was stopped (`BulkAction.why`).
PAUSED_TEXTS: dict[str, str | Promise] = {
    "unavailable": _(
        "Paused: the store does not answer. The action continues automatically within a minute after the store is back."
    ),
    "backlog_full": _(
        "Paused: the store is full. The action continues automatically within a minute after there is space again."
    ),
    "database_away": _(
        "Paused: the database does not answer. The action continues automatically within a minute after the database is back."
    ),
}
STOPPED_TEXTS: dict[str, str | Promise] = {
    "by_hand": _("Stopped by %(name)s. Finished rows stay changed; the others are unchanged."),
    "no_right": _(
        "Stopped: %(by)s no longer has the permission for this. Finished rows stay changed; the others are unchanged."
    ),
    "no_deed": _(
        "Stopped: this version does not have this action. Finished rows stay changed; the others are unchanged."
    ),
}
STATE_KINDS = {"running": "waits", "done": "held", "stopped": "missed"}  # of `ops-state`

State = BulkAction.State


@admin.register(BulkAction)
class BulkActionAdmin(ReadOnly, admin.ModelAdmin[BulkAction]):
    empty_text = _("No bulk actions yet.")
    list_display = ("action_label", "state_sign", "progress", "by_name", "started_at", "ended_at")
    list_filter = ("state", "started_at")
    search_fields = ("by_name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkAction]:
        return super().get_queryset(request).exclude(state=State.ASKED)

    def has_view_permission(self, request: HttpRequest, obj: BulkAction | None = None) -> bool:
        return super().has_view_permission(request) or (obj is not None and _is_allowed(request, obj))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}

    @admin.display(description=_("action"))
    def action_label(self, bulk_action: BulkAction) -> str:
        return _label(bulk_action)

    @admin.display(description=_("state"), ordering="state")
    def state_sign(self, bulk_action: BulkAction) -> str:
        is_paused = bulk_action.state == State.RUNNING and bulk_action.why
        text = gettext("paused") if is_paused else bulk_action.get_state_display()
        kind = STATE_KINDS[bulk_action.state]
        return format_html('<span class="ops-state" data-kind="{}">{}</span>', kind, text)

    @admin.display(description=_("rows"))
    def progress(self, bulk_action: BulkAction) -> str:
        counts = {"n": number(bulk_action.at), "all": number(bulk_action.total)}
        return gettext("%(n)s of %(all)s") % counts

    # One bulk action

    def get_urls(self) -> list[Any]:
        return [
            path(f"<int:key>/{name}/", self.admin_site.admin_view(view), name=f"messaging_bulkaction_{name}")
            for name, view in (("progress", self.progress_view), ("stop", self.stop_view))
        ] + super().get_urls()

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show the progress of a bulk action."""
        bulk_action = self._viewable(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _label(bulk_action),
            **_progress_context(request, bulk_action),
        }
        return TemplateResponse(request, "admin/messaging/bulkaction/progress.html", context)

    def progress_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Return the part of the page that changes."""
        context = _progress_context(request, self._viewable(request, str(key)))
        return TemplateResponse(request, "admin/messaging/bulkaction/_progress.html", context)

    def stop_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Stop a bulk action. Needs the permission for its action."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        bulk_action = self._viewable(request, str(key))
        if not _is_allowed(request, bulk_action):
            raise PermissionDenied
        name, now_ms = request.user.get_username(), run_async(clock_ms)
        if bulk_rows.stop(bulk_action, reason="by_hand", name=name, now_ms=now_ms):
            bulk_rows.finish_stopped(now_ms)
            entry = gettext("stopped after %(n)s rows") % {"n": number(bulk_action.at)}
            self.log_change(request, bulk_action, entry)
        else:
            self.message_user(request, gettext("This action has already ended."), messages.WARNING)
        return HttpResponseRedirect(reverse("admin:messaging_bulkaction_change", args=[bulk_action.pk]))

    def _viewable(self, request: HttpRequest, key: str) -> BulkAction:
        """Return a bulk action. Raises PermissionDenied, Http404."""
        bulk_action = self.get_object(request, key)
        if not self.has_view_permission(request, bulk_action):
            raise PermissionDenied
        if bulk_action is None:
            raise Http404
        return bulk_action


def _is_allowed(request: HttpRequest, bulk_action: BulkAction) -> bool:
    """Return whether the user may run the action of a bulk action."""
    page_and_action = find_action(bulk_action)
    if page_and_action is None:
        return False
    page, action = page_and_action
    return page.is_allowed(request, action)


def _label(bulk_action: BulkAction) -> str:
    """Return the list and the action, as text."""
    page_and_action = find_action(bulk_action)
    if page_and_action is None:
        return str(bulk_action)
    page, action = page_and_action
    return f"{page.opts.verbose_name_plural}: {action.label}"


def _progress_context(request: HttpRequest, bulk_action: BulkAction) -> dict[str, Any]:
    """Return the template context of the part of the page that changes."""
    try:
        now_ms = run_async(_now_ms)
    except Unavailable:
        now_ms = None
    counts = {"n": number(bulk_action.at), "all": number(bulk_action.total)}
    return {
        "action": bulk_action,
        "parts": _bar_parts(bulk_action),
        "percent": 100 * bulk_action.at // max(1, bulk_action.total),
        "rows_text": gettext("%(n)s of %(all)s rows") % counts,
        "state_text": _state_text(bulk_action, now_ms),
        "kind": STATE_KINDS[bulk_action.state],
        "reasons": reasons_text(bulk_action.reasons),
        "left_out": reasons_text(bulk_action.left_out),
        "started": clock(bulk_action.started_at) if bulk_action.started_at else "",
        "ended": clock(bulk_action.ended_at) if bulk_action.ended_at else "",
        "list_address": _list_address(request, bulk_action),
        "may_stop": bulk_action.state == State.RUNNING and _is_allowed(request, bulk_action),
        "is_over": bulk_action.state != State.RUNNING,
    }


def _bar_parts(bulk_action: BulkAction) -> list[dict[str, Any]]:
    parts, x = [], 0
    for key, label, count in (
        ("all", gettext("done"), bulk_action.done),
        ("on_the_way", gettext("skipped"), bulk_action.skipped),
        ("missed", gettext("failed"), bulk_action.failed),
        ("deleted", gettext("not processed"), bulk_action.total - bulk_action.at),
    ):
        width = BAR_WIDTH * count // max(1, bulk_action.total)
        parts.append({"key": key, "label": label, "number": number(count), "x": x, "width": width})
        x += width
    return parts


async def _now_ms() -> int:
    return await open_store().now_ms()


def _state_text(bulk_action: BulkAction, now_ms: int | None) -> str:
    """Return the state of a bulk action as one sentence. `now_ms` None: the store is away."""
    if bulk_action.state == State.DONE:
        return gettext("Finished.")
    if bulk_action.state == State.STOPPED:
        names = {"name": bulk_action.stopped_by, "by": bulk_action.by_name}
        return str(STOPPED_TEXTS[bulk_action.why]) % names
    if bulk_action.why or now_ms is None:
        return str(PAUSED_TEXTS[bulk_action.why or Unavailable.code])
    if bulk_action.claimed_until is not None and epoch_ms(bulk_action.claimed_until) > now_ms:
        return gettext("Running.")
    return gettext("Waiting for a worker or for another bulk action. Checked every minute.")


def _list_address(request: HttpRequest, bulk_action: BulkAction) -> str:
    """Return the address of the list with its filters; '' without the permission to see it."""
    page_and_action = find_action(bulk_action)
    if page_and_action is None or not page_and_action[0].has_view_or_change_permission(request):
        return ""
    address = reverse(f"admin:messaging_{bulk_action.listed}_changelist")
    return f"{address}?{bulk_action.query}" if bulk_action.query else address
