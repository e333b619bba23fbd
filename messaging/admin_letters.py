"""Dead letters, notices and the audit trail for the staff: to be read, and what may be done about a dead letter.

Nothing here shows a text. Who may do what is a permission of its own (`requeue_deadletter`, `discard_deadletter`): nobody changes
or deletes these rows by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters, get_content_type_for_model
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import formats, timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from . import admin_export, letters, policy, requeue, rooms
from .admin_actions import Action, ActionAdmin
from .admin_rows import ReadOnly
from .crossing import run_verb
from .models import AuditEntry, DeadLetter, MissedRecipient, Notice
from .requeue import Result
from .staff import Outcome

RESOLVED_STEP = 200  # letters in one transaction of a bulk action: the server's own writes wait for it
SENT_MOST = 200  # letters in one request, for somebody waits for the answer: sending one takes 15 to 65 ms


class MissedRecipientInline(ReadOnly, admin.TabularInline[MissedRecipient, DeadLetter]):
    model = MissedRecipient
    fields = ("name", "user_key", "reason", "attempts")
    extra = 0


def _send_again(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    outcomes = run_verb(requeue.requeue, [UUID(key) for key in keys], by=by)
    return [
        Outcome(str(one.letter), one.result, one.why, [why for _user, why in one.left_out])
        for one in outcomes
    ]


def _discard(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    return _resolved(by, keys, letters.discard)


def _take_back(by: int, keys: Sequence[str], given: dict[str, Any]) -> list[Outcome]:
    return _resolved(by, keys, letters.undo_discard)


def _resolved(
    by: int,
    keys: Sequence[str],
    resolve: Callable[[Collection[UUID], int | None, int], letters.Resolved],
) -> list[Outcome]:
    resolved = resolve([UUID(key) for key in keys], by, run_verb(rooms.clock_ms))
    outcomes = [Outcome(str(key), Result.DONE) for key in resolved.done]
    return outcomes + [Outcome(str(key), Result.SKIPPED, why) for key, why in resolved.skipped]


def _sending(rows: Sequence[Any], given: dict[str, Any]) -> list[str]:
    missed_by = [row.missing_total for row in rows if row.state == DeadLetter.State.OPEN and row.has_text]
    ready, people = len(missed_by), sum(missed_by)
    said = ngettext(
        "%(n)s message is sent again, in its sender's name, to those who missed it: %(people)s in all.",
        "%(n)s messages are sent again, in their senders' names, to those who missed them: %(people)s in all.",
        ready,
    ) % {"n": f"{ready:,}", "people": f"{people:,}"}
    others = gettext("%(n)s cannot be sent again: no longer open, or the text is not kept any more.")
    left_out = gettext("Who has left the room, or whose account is gone, is left out.")
    return [
        said,
        *([others % {"n": f"{len(rows) - ready:,}"}] if ready < len(rows) else []),
        left_out,
    ]


def _discarding(rows: Sequence[DeadLetter], given: dict[str, Any]) -> list[str]:
    ready = sum(row.state == DeadLetter.State.OPEN for row in rows)
    said = ngettext(
        "%(n)s dead letter is discarded: nobody sends it again. This may be taken back for 10 minutes.",
        "%(n)s dead letters are discarded: nobody sends them again. This may be taken back for 10 minutes.",
        ready,
    ) % {"n": f"{ready:,}"}
    others = gettext("%(n)s are not open and stay as they are.") % {"n": f"{len(rows) - ready:,}"}
    return [said, *([others] if ready < len(rows) else [])]


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, ActionAdmin):
    empty_says = _("No dead letters. Whatever expired had reached everybody.")
    list_display = ("state", "where", "seq", "sender_name", "expired_at", "missed_by")
    list_filter = (
        "state",
        "missed_recipients__reason",
        ("room", admin.RelatedOnlyFieldListFilter),
        "expired_at",
        ("fault", admin.EmptyFieldListFilter),
    )
    search_fields = ("sender_name", "room_name", "=room_key", "=message_id", "=seq")
    verbs = (
        Action(
            name="send_again",
            label=_("Send again to those who missed it"),
            permission="messaging.requeue_deadletter",
            do=_send_again,
            effect=_sending,
            said=_("Sent again: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.REQUEUE.label,
            most=SENT_MOST,
            again=frozenset({DeadLetter.State.REQUEUED.value}),
        ),
        Action(
            name="discard",
            label=_("Discard: nobody sends it again"),
            permission="messaging.discard_deadletter",
            do=_discard,
            effect=_discarding,
            said=_("Discarded: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.DISCARD.label,
            step=RESOLVED_STEP,
            whole=True,
        ),
        Action(
            name="take_back",
            label=_("Take back a discard of the last 10 minutes"),
            permission="messaging.discard_deadletter",
            do=_take_back,
            said=_("Taken back: %(done)d, skipped: %(skipped)d, failed: %(failed)d."),
            noted=AuditEntry.Verb.UNDO_DISCARD.label,
            step=RESOLVED_STEP,
            whole=True,
        ),
    )
    inlines = (MissedRecipientInline,)
    fields = (
        *("id", "state", "room", "room_key", "room_name", "epoch", "seq", "message_id"),
        *("sender", "sender_key", "sender_name", "sent_at", "expired_at", "processed_at", "text"),
        *("reply_to", "resends", "delivered", "total", "missing_total"),
        *("resend_started_at", "answer", "resolved_at", "resolved_by", "fault"),
    )
    readonly_fields = ("text",)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Refuse to filter by what is not shown: how many rows begin with a letter says the letter."""
        hidden = lookup.split("__")[0] in ("body", "missing")
        return not hidden and super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        found: QuerySet[DeadLetter] = super().get_queryset(request).defer("body", "missing")
        return found.annotate(has_text=Q(body__isnull=False))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name="messaging_deadletter_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Say how many letters the filters leave; posted, return them as CSV."""
        if not (self.has_view_permission(request) and request.user.has_perm("messaging.export_deadletter")):
            raise PermissionDenied
        try:
            found = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters as fault:
            raise BadRequest("no such filter") from fault
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Export as CSV"),
                "count": found.count(),
                "back": f"{reverse('admin:messaging_deadletter_changelist')}?{request.GET.urlencode()}",
            }
            return TemplateResponse(request, "admin/messaging/deadletter/export.html", context)
        LogEntry.objects.create(
            user_id=request.user.pk or 0,
            content_type=get_content_type_for_model(DeadLetter),
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=gettext("exported: %(n)s") % {"n": f"{found.count():,}"},
        )
        return StreamingHttpResponse(
            admin_export.lines(found),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="dead-letters.csv"'},
        )

    def in_order(self, queryset: Any) -> Any:
        return queryset.order_by("expired_at", "seq")

    def describe(self, row: Any) -> str:
        place = {"room": row.room_name or row.room_key, "seq": row.seq, "sender": row.sender_name}
        said = gettext("%(room)s, seq %(seq)s, from %(sender)s, missed by %(n)s")
        return said % (place | {"n": f"{row.missing_total:,}"})

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


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin[Notice]):
    empty_says = _("No notices. Nobody had to be told that a message missed somebody.")
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
    empty_says = _("Nothing was changed yet.")
    list_display = ("at", "verb", "user_name", "room_key", "seq")
    list_filter = ("verb", "at")
    search_fields = ("user_name", "room_key", "message_id")
    fields = ("at", "verb", "user", "user_name", "room_key", "seq", "message_id", "rev", "detail")
