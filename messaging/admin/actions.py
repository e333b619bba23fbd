"""Describe a staff action, and the texts, forms and log entries that every action shares.

`letter_actions` and `store_actions` define the actions, `action_admin` shows them on a list, `bulk_job` runs them over many rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from messaging.expiry.requeue import Outcome

MAX_ROWS = 1_000  # in one request, because a user is waiting for the response

FormData = dict[str, Any]

REASON_TEXTS: dict[str, str | Promise] = {
    "open": _("not discarded"),
    "requeued": _("already sent again"),
    "discarded": _("discarded"),
    "resending": _("being sent again right now"),
    "too_late": _("discarded more than 10 minutes ago"),
    "text_gone": _("the text is no longer kept"),
    "room_gone": _("the room no longer exists"),
    "sender_left": _("the sender has left the room"),
    "nobody_left": _("no remaining recipient can be reached"),
    "unknown": _("no longer exists"),
    "unavailable": _("the store does not answer"),
    "backlog_full": _("the store is full"),
    "database_away": _("the database does not answer"),
    "left_room": _("left the room"),
    "deactivated": _("account deactivated"),
    "deleted": _("account deleted"),
    "nothing_due": _("nothing is due yet"),
    "caught_up": _("nothing left to deliver"),
    "away": _("not connected: messages are sent when the member reconnects"),
    "gave_up": _("gave up: reset the attempts first"),
    "no_attempts": _("no attempts counted"),
    "bad_ttl": _("outside the room's limits"),
    "not_connected": _("not connected"),
    "bad_row": _("unreadable row"),
    "cut_off": _("interrupted: outcome unknown"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action of the staff on rows of a list.

    `perform(user_id, keys, form_data)` returns an outcome for each row that it reached.
    `effect(rows, form_data)` returns sentences, with numbers, for the confirmation page; None: no confirmation.
    `summary_text` has placeholders for the numbers of done, skipped and failed rows. `log_text` is the entry in Django's admin log.

    For `bulk_job`: it records the results of `chunk_rows` rows at a time. `safe_to_repeat`: rows in doubt are processed again, and
    a row skipped for one of these reasons counts as done; None: they are never processed again. `transactional`: the action
    changes only the database, in one transaction with the record of its results.
    """

    name: str
    label: str | Promise
    permission: str
    perform: Callable[[int, Sequence[str], FormData], Sequence[Outcome]]
    summary_text: str | Promise
    log_text: str | Promise
    effect: Callable[[Sequence[Any], FormData], Sequence[str]] | None = None
    form: type[forms.Form] | None = None
    max_rows: int = MAX_ROWS
    chunk_rows: int = 1
    safe_to_repeat: frozenset[str] | None = None
    transactional: bool = False

    def is_allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perm(self.permission)

    def bind_form(self, request: HttpRequest) -> forms.Form | None:
        """Return the action's form, bound if the request has at least one of its fields; None without a form."""
        if self.form is None:
            return None
        is_sent = any(name in request.POST for name in self.form.base_fields)
        return self.form(request.POST) if is_sent else self.form()

    def is_confirmed(self, request: HttpRequest, form: forms.Form | None) -> bool:
        """Return whether the form is complete and the user has confirmed, where a confirmation is needed."""
        is_complete = form is None or form.is_valid()
        return is_complete and (self.effect is None or "confirmed" in request.POST)


def form_data_of(form: forms.Form | None) -> FormData:
    """Return the values of a valid form, else none."""
    return form.cleaned_data if form is not None and form.is_valid() else {}


def user_id_of(request: HttpRequest) -> int:
    """Return the id of the requesting user, who is always logged in here."""
    return int(request.user.pk or 0)


def log_each(request: HttpRequest, rows: Sequence[Any], text: str) -> None:
    """Write an entry for each row into Django's admin log. Never pass the text of a message."""
    if rows:
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, text)  # type: ignore[arg-type]


def reasons_text(counts: Mapping[str, int]) -> str:
    """Return {reason: rows} as readable text."""
    return gettext(", ").join(
        f"{REASON_TEXTS.get(code, code)} ({count:,})" for code, count in sorted(counts.items())
    )
