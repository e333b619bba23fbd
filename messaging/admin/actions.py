"""One way for whatever the staff do to rows: a right of its own, a page that asks and says the effect in numbers, what became of it.

    the list's action, or a form elsewhere -> may they? -> the page that asks (and its form) -> may they? -> the deed
    -> done, skipped and failed, counted, with the reasons -> a log entry for each row that it was done to, without a text

What was chosen goes from the page that asks to the deed by its keys: rows that come to fit a filter meanwhile are not touched.
More rows than one request does are a bulk action: its keys are kept when the page asks, the deed is `bulk_job`'s.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from messaging import jobs
from messaging.bridge import run_async
from messaging.expiry.requeue import Result
from messaging.models import BulkAction
from messaging.store import clock_ms

from . import bulk_rows
from .operations import Outcome

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
    "bad_row": _("a row that cannot be read"),
    "cut_off": _("cut off: nobody knows whether it was done"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What may be done to rows of a list.

    `do(by, keys, given)` returns an outcome for each row it reached; `by` is a user, `given` what its form gave. `effect(rows, given)`
    says in numbers what it would do; None: nobody is asked. `said` has places for done, skipped and failed. `noted` stands in the log.

    For `bulk_job`: `step` rows are done between two notes of how far it came, and rows that were cut off between deed and note are
    done once more, when it counts as done that they are skipped for a reason in `again`; None: they must not be done twice. `whole`:
    the deed is the database's alone and part of its note's transaction.
    """

    name: str
    label: str | Promise
    permission: str
    do: Callable[[int, Sequence[str], dict[str, Any]], Sequence[Outcome]]
    said: str | Promise
    noted: str | Promise
    effect: Callable[[Sequence[Any], dict[str, Any]], Sequence[str]] | None = None
    form: type[forms.Form] | None = None
    most: int = ROWS_MOST
    step: int = 1
    again: frozenset[str] | None = None
    whole: bool = False

    def allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.permission)


class ActionAdmin(admin.ModelAdmin[Any]):
    """A list with actions. Whoever may not do one is refused, whether he asks for the page or posts the deed itself."""

    verbs: tuple[Action, ...] = ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        mine = {verb.name: (_begin, verb.name, verb.label) for verb in self.verbs if verb.allowed(request)}
        return super().get_actions(request) | mine

    def in_order(self, queryset: Any) -> Any:
        """Return the same rows in the order in which they are done."""
        return queryset

    def keys(self, queryset: Any, most: int) -> list[str]:
        """Return the keys of the first rows, in this order."""
        keys = self.in_order(queryset).values_list("pk", flat=True)[:most]
        return [str(key) for key in dict.fromkeys(keys)]

    def named(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return rows by their keys, in their order, without those that are gone."""
        found = {str(row.pk): row for row in self.get_queryset(request).filter(pk__in=keys)}
        return [found[key] for key in keys if key in found]

    def logged(self, request: HttpRequest, keys: Sequence[str]) -> list[Any]:
        """Return rows as the log names them."""
        return self.named(request, keys) if keys else []

    def may(self, request: HttpRequest, verb: Action) -> bool:
        """Say whether a user may do this here, and be here at all."""
        inside = self.admin_site.has_permission(request) and self.has_view_or_change_permission(request)
        return inside and verb.allowed(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        verb = self._asked(request)
        if verb is not None and not (self.has_view_or_change_permission(request) and verb.allowed(request)):
            raise PermissionDenied
        if verb is not None and "bulk" in request.POST:
            return self._take_bulk(request, verb, self._asked_about(request, verb))
        if verb is not None and "chosen" in request.POST:
            return self._take(request, verb, *self._chosen(request, verb))
        return super().changelist_view(request, extra_context)

    def begin(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        """Go on from the list's own choice of an action and rows."""
        verb = self._asked(request)
        if verb is None or not verb.allowed(request):
            raise PermissionDenied
        if queryset.count() > verb.most:
            keys = self.keys(queryset, bulk_rows.MOST)
            if len(keys) > verb.most:
                left = queryset.count() - len(keys) if len(keys) == bulk_rows.MOST else 0
                return self._take_bulk(request, verb, self._fix(request, verb, keys), left)
            queryset = queryset.filter(pk__in=keys)
        return self._take(request, verb, list(self.in_order(queryset)), [], 0)

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
            rows = self.named(request, keys[: verb.most])
        except (ValidationError, ValueError, OverflowError) as fault:
            raise BadRequest("no such rows") from fault
        there = {str(row.pk) for row in rows}
        gone = [key for key in keys[: verb.most] if key not in there]
        return rows, gone, max(0, len(keys) - verb.most)

    def _take(
        self, request: HttpRequest, verb: Action, rows: Sequence[Any], gone: Sequence[str], left: int
    ) -> HttpResponse:
        form = _form(verb, request)
        if not _is_confirmed(request, verb, form):
            return self._ask(request, verb, rows, form, left=left)
        outcomes = list(verb.do(by_of(request), [str(row.pk) for row in rows], _given(form)))
        outcomes += [Outcome(key, Result.SKIPPED, "unknown") for key in gone]
        self._tell(request, verb, rows, outcomes, left + len(rows) + len(gone) - len(outcomes))
        return HttpResponseRedirect(request.get_full_path())

    # More than one request does

    def _fix(self, request: HttpRequest, verb: Action, keys: Sequence[str]) -> BulkAction:
        listed, query = str(self.opts.model_name), request.GET.urlencode()
        return bulk_rows.ask(request.user, listed, verb.name, keys, query=query, now_ms=run_async(clock_ms))

    def _asked_about(self, request: HttpRequest, verb: Action) -> BulkAction | None:
        """Return the bulk action that a page asked this user about; None: that is too long ago, or it was asked anew."""
        key = request.POST["bulk"]
        mine = BulkAction.objects.filter(by=by_of(request), listed=self.opts.model_name, verb=verb.name)
        return mine.filter(pk=int(key)).first() if key.isdecimal() and len(key) < 19 else None

    def _take_bulk(
        self, request: HttpRequest, verb: Action, action: BulkAction | None, left: int = 0
    ) -> HttpResponse:
        """Ask about a bulk action, or start it: the job does it."""
        if action is None:
            gone = gettext(
                "Nothing was done: that question is too old, or was asked again. Choose the rows anew."
            )
            self.message_user(request, gone, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        form = _form(verb, request)
        if not _is_confirmed(request, verb, form):
            return self._ask(request, verb, BulkRows(self, request, action), form, left=left, about=action.pk)
        bulk_rows.start(action, _given(form), str(verb.noted), run_async(clock_ms))
        jobs.run_soon("carry_on_bulk")
        said = ngettext(
            "It begins: %(n)s row, in steps, by the worker.",
            "It begins: %(n)s rows, in steps, by the worker.",
            action.total,
        ) % {"n": f"{action.total:,}"}
        page = reverse("admin:messaging_bulkaction_change", args=[action.pk])
        link = format_html('{} <a href="{}">{}</a>', said, page, gettext("See how far it is, or stop it"))
        self.message_user(request, link, messages.SUCCESS)
        return HttpResponseRedirect(request.get_full_path())

    def _ask(
        self,
        request: HttpRequest,
        verb: Action,
        rows: Sequence[Any],
        form: forms.Form | None,
        *,
        left: int,
        about: int | None = None,
    ) -> HttpResponse:
        """Return the page that asks: first for what is to be given, then whether it is to be done. `about`: a bulk action."""
        complete, given = form is None or form.is_valid(), _given(form)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": verb.label,
            "verb": verb,
            "rows": [self.describe(row) for row in rows[:SHOWN_MOST]],
            "count": len(rows),
            "unnamed": max(0, len(rows) - SHOWN_MOST),
            "left": left,
            "bulk": about,
            "chosen": "" if about else " ".join(str(row.pk) for row in rows),
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


class BulkRows(Sequence[Any]):
    """The rows of a bulk action, read in portions; those that are gone are counted, not returned."""

    def __init__(self, page: ActionAdmin, request: HttpRequest, action: BulkAction) -> None:
        self._page, self._request, self._action = page, request, action

    def __len__(self) -> int:
        return self._action.total

    def __getitem__(self, part: Any) -> Any:
        start, stop, _step = part.indices(len(self))
        return self._page.named(self._request, bulk_rows.keys_of(self._action, start, stop))

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), bulk_rows.PORTION):
            yield from self[start : start + bulk_rows.PORTION]


def deed_of(action: BulkAction) -> tuple[ActionAdmin, Action] | None:
    """Return the list and the action that a bulk action names; None where there is none of that name any more."""
    try:
        page = admin.site.get_model_admin(apps.get_model("messaging", action.listed))
    except (LookupError, NotRegistered):
        return None
    if not isinstance(page, ActionAdmin):
        return None
    return next(((page, verb) for verb in page.verbs if verb.name == action.verb), None)


def by_of(request: HttpRequest) -> int:
    """Return who asks: only whoever is logged in comes here."""
    return int(request.user.pk or 0)


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


def _given(form: forms.Form | None) -> dict[str, Any]:
    return form.cleaned_data if form is not None and form.is_valid() else {}


def _is_confirmed(request: HttpRequest, verb: Action, form: forms.Form | None) -> bool:
    """Say whether everything is given and, where somebody is asked, was said yes to."""
    return (form is None or form.is_valid()) and (verb.effect is None or "confirmed" in request.POST)


def _because(sentence: str, whys: Sequence[str]) -> list[str]:
    return [sentence % {"reasons": reasons(Counter(whys))}] if whys else []


def reasons(counts: Mapping[str, int]) -> str:
    """Return {code: how many} in words."""
    return gettext(", ").join(f"{WHY.get(why, why)} ({count:,})" for why, count in sorted(counts.items()))
