"""One way for whatever the staff do to rows: a right of its own, a page that asks and says the effect in numbers, what became of it.

    the list's action, or a form elsewhere -> may they? -> the page that asks (and its form) -> may they? -> the deed
    -> done, skipped and failed, counted, with the reasons -> a log entry for each row that it was done to, without a text

What was chosen goes from the page that asks to the deed by its keys: rows that come to fit a filter meanwhile are not touched.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .requeue import Result
from .staff import Outcome

SHOWN_MOST = 100  # rows that the page names
ROWS_MOST = 1_000  # in one request, for somebody waits for the answer

WHY = {
    "open": _("not discarded"),
    "requeued": _("sent again already"),
    "discarded": _("discarded"),
    "resending": _("being sent again just now"),
    "too_late": _("10 minutes are over"),
    "text_gone": _("the text is not kept any more"),
    "room_gone": _("the room is gone"),
    "sender_left": _("the sender has left the room"),
    "nobody_left": _("nobody who missed it can be sent to any more"),
    "unknown": _("not there any more"),
    "unavailable": _("the store does not answer"),
    "backlog_full": _("the store is full"),
    "database_away": _("the database does not answer"),
    "left_room": _("left the room"),
    "deactivated": _("account deactivated"),
    "deleted": _("account deleted"),
    "nothing_due": _("nothing there has waited long enough"),
    "caught_up": _("nothing is owed any more"),
    "away": _("not connected: it is sent as soon as they are back"),
    "gave_up": _("given up: reset the attempts first"),
    "no_attempts": _("no attempt was counted"),
    "bad_ttl": _("outside the room's bounds"),
    "not_connected": _("not connected"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What may be done to rows of a list.

    `do(request, rows, given)` returns an outcome for each row it reached; `given` is what its form gave. `effect(rows, given)` says
    in numbers what it would do; None: nobody is asked. `said` has places for done, skipped and failed. `noted` stands in the log.
    """

    name: str
    label: str | Promise
    permission: str
    do: Callable[[HttpRequest, Sequence[Any], dict[str, Any]], Sequence[Outcome]]
    said: str | Promise
    noted: str | Promise
    effect: Callable[[Sequence[Any], dict[str, Any]], Sequence[str]] | None = None
    form: type[forms.Form] | None = None
    most: int = ROWS_MOST

    def allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.permission)


class ActionAdmin(admin.ModelAdmin[Any]):
    """A list with actions. Whoever may not do one is refused, whether he asks for the page or posts the deed itself."""

    verbs: tuple[Action, ...] = ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        mine = {verb.name: (_begin, verb.name, verb.label) for verb in self.verbs if verb.allowed(request)}
        return super().get_actions(request) | mine

    def first(self, queryset: Any, most: int) -> list[Any]:
        """Return the rows that are done first, where there are more than `most`."""
        return list(queryset[:most])

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        verb = self._asked(request)
        if verb is not None and not (self.has_view_or_change_permission(request) and verb.allowed(request)):
            raise PermissionDenied
        if verb is not None and "chosen" in request.POST:
            return self._take(request, verb, *self._chosen(request, verb))
        return super().changelist_view(request, extra_context)

    def begin(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        """Go on from the list's own choice of an action and rows."""
        verb = self._asked(request)
        if verb is None or not verb.allowed(request):
            raise PermissionDenied
        rows = self.first(queryset, verb.most)
        return self._take(request, verb, rows, [], max(0, queryset.count() - len(rows)))

    def _asked(self, request: HttpRequest) -> Action | None:
        if request.method != "POST":
            return None
        # The list has a choice above and one below its rows; `index` says which button was pressed.
        names = request.POST.getlist("action")
        index = request.POST.get("index", "0")
        at = int(index) if index.isdecimal() and int(index) < len(names) else 0
        return next((verb for verb in self.verbs if names and verb.name == names[at]), None)

    def _chosen(self, request: HttpRequest, verb: Action) -> tuple[list[Any], list[str], int]:
        """Return the rows that a page named, the keys of those that are gone, and how many are too many."""
        keys = list(dict.fromkeys(request.POST["chosen"].split()))
        try:
            rows = list(self.get_queryset(request).filter(pk__in=keys[: verb.most]))
        except (ValidationError, ValueError, OverflowError) as fault:
            raise BadRequest("no such rows") from fault
        by_key = {str(row.pk): row for row in rows}
        gone = [key for key in keys[: verb.most] if key not in by_key]
        in_order = [by_key[key] for key in keys[: verb.most] if key in by_key]
        return in_order, gone, max(0, len(keys) - verb.most)

    def _take(
        self, request: HttpRequest, verb: Action, rows: Sequence[Any], gone: Sequence[str], left: int
    ) -> HttpResponse:
        form = _form(verb, request)
        given = form.cleaned_data if form is not None and form.is_valid() else {}
        complete = form is None or form.is_valid()
        if not complete or (verb.effect is not None and "confirmed" not in request.POST):
            return self._ask(request, verb, rows, left, form, given, complete=complete)
        outcomes = list(verb.do(request, rows, given))
        outcomes += [Outcome(key, Result.SKIPPED, "unknown") for key in gone]
        self._tell(request, verb, rows, outcomes, left + len(rows) + len(gone) - len(outcomes))
        return HttpResponseRedirect(request.get_full_path())

    def _ask(
        self,
        request: HttpRequest,
        verb: Action,
        rows: Sequence[Any],
        left: int,
        form: forms.Form | None,
        given: dict[str, Any],
        *,
        complete: bool,
    ) -> HttpResponse:
        """Return the page that asks: first for what is to be given, then whether it is to be done."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": verb.label,
            "verb": verb,
            "rows": [self.describe(row) for row in rows[:SHOWN_MOST]],
            "count": len(rows),
            "unnamed": max(0, len(rows) - SHOWN_MOST),
            "left": left,
            "chosen": " ".join(str(row.pk) for row in rows),
            "effect": verb.effect(rows, given) if verb.effect is not None and complete else [],
            "form": form,
            "given": [(name, form[name].value()) for name in given] if form is not None and complete else [],
            "complete": complete,
            "back": request.get_full_path(),
        }
        return TemplateResponse(request, "admin/messaging/confirm.html", context)

    def describe(self, row: Any) -> str:
        """Return what a row is called on the page that asks."""
        return str(row)

    def _tell(
        self,
        request: HttpRequest,
        verb: Action,
        rows: Sequence[Any],
        outcomes: Sequence[Outcome],
        left: int,
    ) -> None:
        """Count what became of them and why, and write down what was done."""
        done = {one.key for one in outcomes if one.result == Result.DONE}
        log_each(request, [row for row in rows if str(row.pk) in done], str(verb.noted))
        counts = Counter(one.result for one in outcomes)
        said = [verb.said % {result.value: counts[result] for result in Result}]
        said += _because(gettext("Why: %(reasons)s."), [one.why for one in outcomes if one.why])
        said += _because(gettext("Left out: %(reasons)s."), [why for one in outcomes for why in one.left_out])
        if left:
            said.append(gettext("Left as they were: %(left)d.") % {"left": left})
        level = messages.SUCCESS if len(done) == len(outcomes) else messages.WARNING
        level = messages.ERROR if counts[Result.FAILED] else level
        self.message_user(request, " ".join(map(str, said)), level)


def log_each(request: HttpRequest, rows: Sequence[Any], what: str) -> None:
    """Write into Django's log of the staff's doings what was done to each row: never a text of a message."""
    if rows:
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, what)  # type: ignore[arg-type]


def _begin(model_admin: ActionAdmin, request: HttpRequest, queryset: Any) -> HttpResponse:
    return model_admin.begin(request, queryset)


def _form(verb: Action, request: HttpRequest) -> forms.Form | None:
    """Return the form of an action, bound once any of it was sent."""
    if verb.form is None:
        return None
    sent = any(name in request.POST for name in verb.form.base_fields)
    return verb.form(request.POST) if sent else verb.form()


def _because(sentence: str, whys: Sequence[str]) -> list[str]:
    counts = sorted(Counter(whys).items())
    reasons = gettext(", ").join(f"{WHY.get(why, why)} ({count})" for why, count in counts)
    return [sentence % {"reasons": reasons}] if counts else []
