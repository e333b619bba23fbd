"""Dead letters, notices and the audit trail for the staff: to be read, and what may be done about a dead letter.

Nothing here shows a text. Who may do what is a permission of its own (`requeue_deadletter`, `discard_deadletter`): nobody changes
or deletes these rows by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import formats, timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from . import letters, policy, requeue, rooms
from .crossing import run_verb
from .models import AuditEntry, DeadLetter, MissedRecipient, Notice
from .requeue import Outcome, Result

# Letters in one request, for somebody waits for the answer: sending one takes 15 to 65 ms, the others go by 500 in a statement.
SENT_MOST = 200
RESOLVED_MOST = 5_000

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
}


class ReadOnly:
    """Rows that are looked at."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MissedRecipientInline(ReadOnly, admin.TabularInline[MissedRecipient, DeadLetter]):
    model = MissedRecipient
    fields = ("name", "user_key", "reason", "attempts")
    extra = 0


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, admin.ModelAdmin[DeadLetter]):
    list_display = ("state", "where", "seq", "sender_name", "expired_at", "missed_by")
    list_filter = (
        "state",
        "missed_recipients__reason",
        ("room", admin.RelatedOnlyFieldListFilter),
        "expired_at",
        ("fault", admin.EmptyFieldListFilter),
    )
    search_fields = ("sender_name", "room_name", "=room_key", "=message_id", "=seq")
    actions = ("send_again", "discard", "take_back")
    inlines = (MissedRecipientInline,)
    fields = (
        *("id", "state", "room", "room_key", "room_name", "epoch", "seq", "message_id"),
        *("sender", "sender_key", "sender_name", "sent_at", "expired_at", "processed_at", "text"),
        *("reply_to", "resends", "delivered", "total", "missing_total"),
        *("resend_started_at", "answer", "resolved_at", "resolved_by", "fault"),
    )
    readonly_fields = ("text",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        found = super().get_queryset(request).defer("body", "missing")
        return found.annotate(has_text=Q(body__isnull=False))

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("messaging.requeue_deadletter")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("messaging.discard_deadletter")

    @admin.display(description=_("room"), ordering="room_name")
    def where(self, letter: DeadLetter) -> str:
        return letter.room_name or letter.room_key

    @admin.display(description=_("missed by"), ordering="missing_total")
    def missed_by(self, letter: DeadLetter) -> str:
        return gettext("%(missing)d of %(total)d") % {
            "missing": letter.missing_total,
            "total": letter.total,
        }

    @admin.display(description=_("text"))
    def text(self, letter: Any) -> str:
        if not letter.has_text:
            return gettext("not kept any more")
        until = letter.expired_at + timedelta(seconds=policy.current().dead_letter_retention_s)
        shown = formats.date_format(timezone.localtime(until), "DATETIME_FORMAT")
        return gettext("kept until %(until)s; not shown here") % {"until": shown}

    @admin.action(description=_("Send again to those who missed it"), permissions=["requeue"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        chosen, left = _chosen(queryset, SENT_MOST)
        outcomes = run_verb(requeue.requeue, chosen, by=request.user.pk)
        self._tell(request, AuditEntry.Verb.REQUEUE, outcomes, left=left + len(chosen) - len(outcomes))

    @admin.action(description=_("Discard: nobody sends it again"), permissions=["discard"])
    def discard(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        self._resolve(request, queryset, AuditEntry.Verb.DISCARD, letters.discard)

    @admin.action(description=_("Take back a discard of the last 10 minutes"), permissions=["discard"])
    def take_back(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        self._resolve(request, queryset, AuditEntry.Verb.UNDO_DISCARD, letters.undo_discard)

    def _resolve(
        self,
        request: HttpRequest,
        queryset: QuerySet[DeadLetter],
        verb: AuditEntry.Verb,
        resolve: Callable[[Collection[UUID], int | None, int], letters.Resolved],
    ) -> None:
        chosen, left = _chosen(queryset, RESOLVED_MOST)
        resolved = resolve(chosen, request.user.pk, run_verb(rooms.clock_ms))
        outcomes = [Outcome(key, Result.DONE) for key in resolved.done]
        outcomes += [Outcome(key, Result.SKIPPED, why) for key, why in resolved.skipped]
        self._tell(request, verb, outcomes, left=left)

    def _tell(
        self, request: HttpRequest, verb: AuditEntry.Verb, outcomes: Sequence[Outcome], *, left: int
    ) -> None:
        """Count what became of them and why, and write down what was done."""
        done = [outcome.letter for outcome in outcomes if outcome.result == Result.DONE]
        rows = DeadLetter.objects.defer("body", "missing").filter(pk__in=done)
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, str(verb.label))  # type: ignore[arg-type]
        counts = Counter(outcome.result for outcome in outcomes)
        said = [_DONE[verb] % {name: counts[result] for name, result in _COUNTED}]
        said += _because(gettext("Why: %(reasons)s."), [one.why for one in outcomes if one.why])
        said += _because(
            gettext("Left out: %(reasons)s."), [why for one in outcomes for _user, why in one.left_out]
        )
        if left:
            said.append(gettext("Left as they were: %(left)d.") % {"left": left})
        level = messages.SUCCESS if len(done) == len(outcomes) else messages.WARNING
        level = messages.ERROR if counts[Result.FAILED] else level
        self.message_user(request, " ".join(map(str, said)), level)


_COUNTED = (("done", Result.DONE), ("skipped", Result.SKIPPED), ("failed", Result.FAILED))
_DONE = {
    AuditEntry.Verb.REQUEUE: _("Sent again: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    AuditEntry.Verb.DISCARD: _("Discarded: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
    AuditEntry.Verb.UNDO_DISCARD: _("Taken back: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
}


def _chosen(queryset: QuerySet[DeadLetter], most: int) -> tuple[list[UUID], int]:
    """Return the oldest of what was selected, and how many are too many for one request."""
    oldest_first = queryset.order_by("expired_at", "seq").values_list("pk", flat=True)
    return list(oldest_first[:most]), max(0, queryset.count() - most)


def _because(sentence: str, whys: Sequence[str]) -> list[str]:
    counts = sorted(Counter(whys).items())
    reasons = gettext(", ").join(f"{WHY.get(why, why)} ({count})" for why, count in counts)
    return [sentence % {"reasons": reasons}] if counts else []


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin[Notice]):
    list_display = ("at", "user", "kind", "room_key", "dismissed_at")
    list_filter = ("kind", ("dismissed_at", admin.EmptyFieldListFilter), "at")
    list_select_related = ("user",)
    search_fields = ("user__username", "room_key", "id")
    fields = ("id", "user", "kind", "at", "room_key", "dead_letter", "data", "dismissed_at")

    # A user's notices go with him, and then this is asked as well; by itself none is deleted: it is a promise to be told.

    def has_delete_permission(self, request: HttpRequest, obj: Notice | None = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        raise PermissionDenied

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "show_delete": False}
        )


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly, admin.ModelAdmin[AuditEntry]):
    list_display = ("at", "verb", "user_name", "room_key", "seq")
    list_filter = ("verb", "at")
    search_fields = ("user_name", "room_key", "message_id")
    fields = ("at", "verb", "user", "user_name", "room_key", "seq", "message_id", "rev", "detail")
