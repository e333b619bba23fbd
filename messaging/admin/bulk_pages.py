"""Bulk actions for the staff: which there are, how far one is, and stopping it.

Whoever may view the list sees them all; whoever may do an action sees those of that action and may stop them.
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
from .actions import deed_of, reasons
from .formatting import clock, number
from .lists import ReadOnly

BAR = 1000  # units of the drawing

# What an action that runs waits for, and why one was stopped.
WAITS: dict[str, str | Promise] = {
    "unavailable": _(
        "Paused: the store does not answer. It goes on by itself within a minute of its return."
    ),
    "backlog_full": _("Paused: the store is full. It goes on by itself within a minute of there being room."),
    "database_away": _(
        "Paused: the database does not answer. It goes on by itself within a minute of its return."
    ),
}
STOPPED: dict[str, str | Promise] = {
    "by_hand": _("Stopped by %(name)s. What is done stays done; the rest is as it was."),
    "no_right": _(
        "Stopped: %(by)s may not do this any more. What is done stays done; the rest is as it was."
    ),
    "no_deed": _("Stopped: this version has no such action. What is done stays done; the rest is as it was."),
}
SIGNS = {"running": "waits", "done": "held", "stopped": "missed"}  # of `ops-state`

State = BulkAction.State


@admin.register(BulkAction)
class BulkActionAdmin(ReadOnly, admin.ModelAdmin[BulkAction]):
    empty_says = _("Nothing was done to more rows than one request does.")
    list_display = ("what", "how", "progress", "by_name", "started_at", "ended_at")
    list_filter = ("state", "started_at")
    search_fields = ("by_name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkAction]:
        return super().get_queryset(request).exclude(state=State.ASKED)

    def has_view_permission(self, request: HttpRequest, obj: BulkAction | None = None) -> bool:
        return super().has_view_permission(request) or (obj is not None and may(request, obj))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}

    @admin.display(description=_("what"))
    def what(self, action: BulkAction) -> str:
        return label(action)

    @admin.display(description=_("state"), ordering="state")
    def how(self, action: BulkAction) -> str:
        said = (
            gettext("paused") if action.state == State.RUNNING and action.why else action.get_state_display()
        )
        return format_html('<span class="ops-state" data-kind="{}">{}</span>', SIGNS[action.state], said)

    @admin.display(description=_("rows"))
    def progress(self, action: BulkAction) -> str:
        return gettext("%(n)s of %(all)s") % {"n": number(action.at), "all": number(action.total)}

    # One action

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
        """Show how far an action is."""
        action = self._seen(request, object_id)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": label(action),
            "action": action,
            **told(request, action),
        }
        return TemplateResponse(request, "admin/messaging/bulkaction/progress.html", context)

    def progress_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Return the part of the page that changes."""
        action = self._seen(request, str(key))
        return TemplateResponse(request, "admin/messaging/bulkaction/_progress.html", told(request, action))

    def stop_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Stop an action; who may do it may stop it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        action = self._seen(request, str(key))
        if not may(request, action):
            raise PermissionDenied
        name, now_ms = request.user.get_username(), run_async(clock_ms)
        if bulk_rows.stop(action, why="by_hand", name=name, now_ms=now_ms):
            bulk_rows.settle_stopped(now_ms)
            self.log_change(request, action, gettext("stopped at %(n)s") % {"n": number(action.at)})
        else:
            self.message_user(request, gettext("It had ended already."), messages.WARNING)
        return HttpResponseRedirect(page_of(action))

    def _seen(self, request: HttpRequest, key: str) -> BulkAction:
        """Return an action. Raises Http404, PermissionDenied for whoever may not see it."""
        action = self.get_object(request, key)
        if not self.has_view_permission(request, action):
            raise PermissionDenied
        if action is None:
            raise Http404
        return action


def may(request: HttpRequest, action: BulkAction) -> bool:
    """Say whether somebody may do what a bulk action does."""
    found = deed_of(action)
    return found is not None and found[0].may(request, found[1])


def label(action: BulkAction) -> str:
    """Return what a bulk action does, in words."""
    found = deed_of(action)
    if found is None:
        return str(action)
    page, verb = found
    return f"{page.opts.verbose_name_plural}: {verb.label}"


def page_of(action: BulkAction) -> str:
    return reverse("admin:messaging_bulkaction_change", args=[action.pk])


def told(request: HttpRequest, action: BulkAction) -> dict[str, Any]:
    """Return what the part that changes shows."""
    try:
        now_ms = run_async(_now_ms)
    except Unavailable:
        now_ms = None
    parts = [
        ("all", gettext("done"), action.done),
        ("way", gettext("skipped"), action.skipped),
        ("told", gettext("failed"), action.failed),
        ("deleted", gettext("as they were"), action.total - action.at),
    ]
    drawn, x = [], 0
    for key, said, count in parts:
        width = BAR * count // max(1, action.total)
        drawn.append({"key": key, "label": said, "number": number(count), "x": x, "width": width})
        x += width
    return {
        "action": action,
        "parts": drawn,
        "percent": 100 * action.at // max(1, action.total),
        "of": gettext("%(n)s of %(all)s rows") % {"n": number(action.at), "all": number(action.total)},
        "said": _said(action, now_ms),
        "kind": SIGNS[action.state],
        "why": reasons(action.reasons),
        "left_out": reasons(action.left_out),
        "started": clock(action.started_at) if action.started_at else "",
        "ended": clock(action.ended_at) if action.ended_at else "",
        "rows": _rows_of(request, action),
        "may_stop": action.state == State.RUNNING and may(request, action),
        "over": action.state != State.RUNNING,
    }


async def _now_ms() -> int:
    return await open_store().now_ms()


def _said(action: BulkAction, now_ms: int | None) -> str:
    """Return how an action stands, in a sentence. `now_ms` None: the store is away."""
    if action.state == State.DONE:
        return gettext("Finished.")
    if action.state == State.STOPPED:
        return str(STOPPED[action.why]) % {"name": action.stopped_by, "by": action.by_name}
    if action.why or now_ms is None:
        return str(WAITS[action.why or Unavailable.code])
    if action.claimed_until is not None and epoch_ms(action.claimed_until) > now_ms:
        return gettext("Under way.")
    return gettext("Waits for a worker or for another bulk action: looked at again each minute.")


def _rows_of(request: HttpRequest, action: BulkAction) -> str:
    """Return the address of the list as it was filtered, for whoever may see it."""
    found = deed_of(action)
    if found is None or not found[0].has_view_or_change_permission(request):
        return ""
    page = reverse(f"admin:messaging_{action.listed}_changelist")
    return f"{page}?{action.query}" if action.query else page
