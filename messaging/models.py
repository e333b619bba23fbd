"""The database: rooms, memberships, dead letters with their notices, audit entries, and bulk actions of the staff.

Live messages are in the store, never here. A message that expired before everyone received it becomes a `DeadLetter`. Its text is kept
for the time that the policy sets; `reports` writes dead letters, `retention` deletes them. Columns with `_key` contain ids that are kept
after the rows to which they refer are deleted.

A membership is first written here and then to the store (`join`). To leave, the row is marked, the store's `leave` is called, and the
row is deleted. After a crash between two of these steps, the next `hello` or the sweep completes them. Knows nothing of Redis.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

PARTITIONS = 64  # fixed: a room's partition is part of its keys' names


def partition_of(room: str) -> int:
    """Return the partition of a new room, which never changes."""
    return zlib.crc32(room.encode()) % PARTITIONS


def new_room_id() -> str:
    """Return an id of 11 letters and digits (65 bits): short, because every Redis key of the room contains it."""
    return get_random_string(11)


class Room(models.Model):
    """A conversation. Its log and cursors are in the store."""

    class Kind(models.TextChoices):
        PUBLIC = "public", _("public")
        PRIVATE = "private", _("private")
        DIRECT = "direct", _("direct")

    id = models.CharField(primary_key=True, max_length=32, default=new_room_id, editable=False)
    name = models.CharField(_("name"), max_length=80)
    topic = models.CharField(_("topic"), max_length=200, blank=True)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind, default=Kind.PUBLIC)
    ttl_s = models.PositiveIntegerField(_("lifetime (s)"), default=3600, validators=[MinValueValidator(10)])
    ttl_max_s = models.PositiveIntegerField(
        _("longest lifetime (s)"), default=28 * 86400, validators=[MinValueValidator(10)]
    )
    tracked = models.BooleanField(
        _("tracked"),
        default=True,
        help_text=_("If off, acknowledgements are not expected, and missed messages are not reported."),
    )
    partition = models.PositiveSmallIntegerField(editable=False)
    # The user ids of a direct room's members, "low:high", so that each pair has only one room.
    pair = models.CharField(max_length=50, null=True, blank=True, unique=True, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        permissions = [("change_lifetime", "Can change the lifetimes of rooms from their list")]
        verbose_name = _("room")
        verbose_name_plural = _("rooms")
        ordering = [Lower("name"), "id"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        if self._state.adding:
            self.partition = partition_of(self.id)
        super().save(*args, **kwargs)  # type: ignore[arg-type]


class Membership(models.Model):
    """A user's role in a room. With `joining_at`, the store has not confirmed the member yet. A row with `leaving_at` is being removed."""

    class Role(models.TextChoices):
        OWNER = "owner", _("owner")
        MODERATOR = "moderator", _("moderator")
        MEMBER = "member", _("member")

    room = models.ForeignKey(Room, models.CASCADE, related_name="memberships", verbose_name=_("room"))
    # No constraint: a deleted user's rows are marked as leaving and stay until the store has removed the member (`signals`).
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.DO_NOTHING,
        db_constraint=False,
        related_name="memberships",
        verbose_name=_("user"),
    )
    role = models.CharField(_("role"), max_length=9, choices=Role, default=Role.MEMBER)
    # The user who put this one into the room. NULL: the user themselves, or the staff.
    added_by_key = models.BigIntegerField(null=True, editable=False)
    joined_at = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    joining_at = models.DateTimeField(_("joining since"), null=True, blank=True, editable=False)
    leaving_at = models.DateTimeField(_("leaving since"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [
            models.UniqueConstraint(fields=["room", "user"], name="one_membership_per_room_and_user")
        ]
        permissions = [("close_connections", "Can close a user's connections")]
        indexes = [
            models.Index(
                fields=["leaving_at"], name="membership_leaving", condition=models.Q(leaving_at__isnull=False)
            ),
            models.Index(
                fields=["joining_at"], name="membership_joining", condition=models.Q(joining_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        try:
            return f"{self.user} · {self.room}"
        except ObjectDoesNotExist:  # the user was deleted, and the store has not removed the member yet
            return f"{self.user_id} · {self.room}"

    @property
    def moderates(self) -> bool:
        return self.role in (self.Role.OWNER, self.Role.MODERATOR)


class LastDeparture(models.Model):
    """The end of a user's last membership of a room, which limits how they become a member again."""

    room = models.ForeignKey(Room, models.CASCADE, related_name="+", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    removed = models.BooleanField()  # False: they left
    # When another user last put this one back into the room after they had left it.
    put_back_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()
        verbose_name = _("last departure")
        verbose_name_plural = _("last departures")
        constraints = [
            models.UniqueConstraint(fields=["room", "user"], name="one_last_departure_per_room_and_user")
        ]

    def __str__(self) -> str:
        return f"{self.user_id} · {self.room_id}"


class Allowance(models.Model):
    """The tokens of a user that limit one kind of request over HTTP, as of `at`. `rooms.allowances` has the kinds."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False)
    kind = models.CharField(max_length=10)
    tokens = models.FloatField()
    at = models.DateTimeField()

    class Meta:
        default_permissions = ()
        verbose_name = _("allowance")
        verbose_name_plural = _("allowances")
        constraints = [
            models.UniqueConstraint(fields=["user", "kind"], name="one_allowance_per_user_and_kind")
        ]

    def __str__(self) -> str:
        return f"{self.user_id} · {self.kind}"


# ── Messages that expired before everyone received them ──


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ms: int) -> datetime:
    """Return the exact time of epoch ms of the store's clock. Raises OverflowError after the year 9999."""
    return EPOCH + timedelta(milliseconds=ms)


def epoch_ms(at: datetime) -> int:
    """Return a time in epoch ms."""
    return (at - EPOCH) // timedelta(milliseconds=1)


class FormerUser(models.Model):
    """The name of a deleted user, for the reports that name them."""

    user_key = models.BigIntegerField(_("user ID"), unique=True)
    name = models.CharField(_("user name"), max_length=150)
    deleted_at = models.DateTimeField(_("deleted"), db_index=True)

    class Meta:
        verbose_name = _("former user")
        verbose_name_plural = _("former users")

    def __str__(self) -> str:
        return self.name


class DeadLetter(models.Model):
    """A message that expired before every recipient acknowledged it. It contains the names, because its room and users may be deleted."""

    class State(models.TextChoices):
        OPEN = "open", _("open")
        REQUEUED = "requeued", _("sent again")
        DISCARDED = "discarded", _("discarded")

    # Derived from room, sender and message (`reports`), so that a second report writes the same row.
    id = models.UUIDField(primary_key=True, editable=False)
    room = models.ForeignKey(Room, models.SET_NULL, null=True, related_name="+", verbose_name=_("room"))
    room_key = models.CharField(_("room ID"), max_length=32)
    room_name = models.CharField(_("room name"), max_length=80, blank=True)
    epoch = models.CharField(_("log epoch"), max_length=64)
    seq = models.BigIntegerField(_("seq"))
    message_id = models.CharField(_("message ID"), max_length=64)
    sender = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("sender")
    )
    sender_key = models.BigIntegerField(_("sender's ID"))
    sender_name = models.CharField(_("sender's name"), max_length=150)
    body = models.TextField(_("text"), null=True)  # NULL: not kept, or scrubbed
    reply_to = models.BigIntegerField(_("in reply to seq"), null=True)
    resends = models.BigIntegerField(_("resend of seq"), null=True)
    sent_at = models.DateTimeField(_("sent"))
    expired_at = models.DateTimeField(_("expired"))
    processed_at = models.DateTimeField(_("reported"))
    delivered = models.PositiveIntegerField(_("reached"))
    total = models.PositiveIntegerField(_("recipients"))
    missing_total = models.PositiveIntegerField(_("missed by"))
    missing = models.TextField(_("who missed it, packed"), editable=False)  # `packing.pack`
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.OPEN)
    resolved_at = models.DateTimeField(_("resolved"), null=True)
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("resolved by")
    )
    resend_started_at = models.DateTimeField(_("resend started"), null=True)
    answer = models.JSONField(_("sent again as"), null=True)  # {epoch, seq, sent_at, expires_at}
    # The class of an exception, never its message.
    fault = models.CharField(_("quarantined because of"), max_length=100, blank=True)

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering = ["-expired_at", "id"]
        permissions = [
            ("requeue_deadletter", "Can send a dead letter again"),
            ("discard_deadletter", "Can discard a dead letter and take that back"),
            ("export_deadletter", "Can export dead letters"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["room_key", "sender_key", "message_id", "epoch", "seq"],
                name="one_dead_letter_per_message",
            )
        ]
        indexes = [
            models.Index(fields=["state", "expired_at"], name="dead_letter_state"),
            models.Index(fields=["expired_at"], name="dead_letter_expired"),
            models.Index(fields=["room_key", "seq"], name="dead_letter_seq"),
            models.Index(fields=["sender_key", "room_key", "expired_at"], name="dead_letter_holder"),
            models.Index(fields=["sender", "processed_at", "id"], name="dead_letter_sender"),
            models.Index(
                fields=["expired_at"], name="dead_letter_text", condition=models.Q(body__isnull=False)
            ),
            models.Index(
                fields=["resend_started_at"],
                name="dead_letter_resending",
                condition=models.Q(resend_started_at__isnull=False, answer__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.room_name or self.room_key} · {self.seq}"


class MissedRecipient(models.Model):
    """A person who missed a message. A dead letter has rows for the first 100; the others are in its `missing`."""

    class Reason(models.TextChoices):
        OFFLINE = "offline", _("offline")
        NO_ACK = "no_ack", _("no answer")
        LATE = "late", _("received it too late")
        CLIENT_REJECTED = "client_rejected", _("could not display it")
        LEFT_ROOM = "left_room", _("left the room")

    dead_letter = models.ForeignKey(
        DeadLetter, models.CASCADE, related_name="missed_recipients", verbose_name=_("dead letter")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    user_key = models.BigIntegerField(_("user ID"))
    name = models.CharField(_("user name"), max_length=150)
    reason = models.CharField(_("reason"), max_length=20, choices=Reason)
    attempts = models.PositiveIntegerField(_("attempts"))

    class Meta:
        verbose_name = _("missed recipient")
        verbose_name_plural = _("missed recipients")
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.name


class Notice(models.Model):
    """A notice that a user gets until they dismiss it. Contains no text of messages."""

    class Kind(models.TextChoices):
        UNDELIVERED = "undelivered", _("undelivered")
        SUMMARY = "summary", _("summary")

    id = models.CharField(primary_key=True, max_length=32, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False, verbose_name=_("user")
    )
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    at = models.DateTimeField(_("at"))
    room_key = models.CharField(_("room ID"), max_length=32, blank=True)
    dead_letter = models.OneToOneField(
        DeadLetter, models.SET_NULL, null=True, related_name="notice", verbose_name=_("dead letter")
    )
    # As in docs/protocol.md; for a summary {messages, from_at, to_at, rooms: {room: n}}.
    data = models.JSONField(_("data"))
    dismissed_at = models.DateTimeField(_("dismissed"), null=True)

    class Meta:
        verbose_name = _("notice")
        verbose_name_plural = _("notices")
        ordering = ["-at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["user"],
                name="one_summary_per_user",
                condition=models.Q(kind="summary", dismissed_at__isnull=True),
            )
        ]
        indexes = [
            models.Index(fields=["user", "dismissed_at", "at"], name="notice_user"),
            models.Index(
                fields=["at"], name="notice_dismissed", condition=models.Q(dismissed_at__isnull=False)
            ),
            models.Index(
                fields=["user", "at", "id"],
                name="notice_no_letter",
                condition=models.Q(dead_letter__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} · {self.at:%Y-%m-%d %H:%M}"


class AuditEntry(models.Model):
    """A change, its user, and times and numbers, never the text of a message."""

    class Verb(models.TextChoices):
        EDIT = "edit", _("edited a message")
        DELETE = "delete", _("deleted a message")
        EXTEND = "extend", _("extended a message's lifetime")
        SHORTEN = "shorten", _("shortened the lifetimes of a room's messages")
        LIFETIME = "lifetime", _("changed a room's lifetime")
        RESEND = "resend", _("sent a message again")
        REQUEUE = "requeue", _("sent a dead letter again")
        DISCARD = "discard", _("discarded a dead letter")
        UNDO_DISCARD = "undo_discard", _("undid a discard")
        PRUNE = "prune", _("dropped open dead letters because there were too many")

    at = models.DateTimeField(_("at"), db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    user_key = models.BigIntegerField(_("user ID"), null=True)
    user_name = models.CharField(_("user name"), max_length=150, blank=True)
    verb = models.CharField(_("action"), max_length=12, choices=Verb)
    room_key = models.CharField(_("room ID"), max_length=32, blank=True)
    seq = models.BigIntegerField(_("seq"), null=True)
    message_id = models.CharField(_("message ID"), max_length=64, blank=True)
    rev = models.BigIntegerField(_("rev"), null=True)
    detail = models.JSONField(_("details"), default=dict)

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        ordering = ["-at", "-pk"]
        indexes = [
            models.Index(fields=["room_key", "verb", "at"], name="audit_room"),
            models.Index(fields=["user_key", "room_key", "at"], name="audit_user"),
        ]

    def __str__(self) -> str:
        return f"{self.get_verb_display()} · {self.room_key}"


# ── Staff actions on more rows than one request can handle ──


class BulkAction(models.Model):
    """One action on many rows, processed in chunks by a job (`admin.bulk_rows`). Its portions hold the keys. Contains no text of messages."""

    class State(models.TextChoices):
        ASKED = "asked", _("not confirmed")  # its confirmation page was shown
        RUNNING = "running", _("running")
        DONE = "done", _("finished")
        STOPPED = "stopped", _("stopped")

    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    by_name = models.CharField(_("user name"), max_length=150)
    # The list and the action, by the name of the list's model and the name of the action.
    listed = models.CharField(_("list"), max_length=32)
    verb = models.CharField(_("action"), max_length=16)
    query = models.TextField(_("filter"), blank=True)  # the query of the list's address
    given = models.JSONField(_("form data"), default=dict)
    # The log entry of each row, in the language of the user who started the action.
    noted = models.CharField(max_length=200, blank=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.ASKED)
    # The reason why it is paused (`unavailable`, `backlog_full`, `database_away`) or was stopped (`by_hand`, `no_right`, `no_deed`).
    why = models.CharField(_("why"), max_length=20, blank=True)
    stopped_by = models.CharField(_("stopped by"), max_length=150, blank=True)
    total = models.PositiveIntegerField(_("rows"))
    # Rows before `at` have a result. Rows from `at` to `begun` - 1 are reserved by a worker; if it loses the claim, their result is
    # unknown.
    at = models.PositiveIntegerField(default=0)
    begun = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(_("done"), default=0)
    skipped = models.PositiveIntegerField(_("skipped"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    reasons = models.JSONField(_("reasons"), default=dict)  # {code: rows}
    left_out = models.JSONField(_("left out"), default=dict)  # {code: people}
    asked_at = models.DateTimeField(_("selected"))
    started_at = models.DateTimeField(_("started"), null=True)
    ended_at = models.DateTimeField(_("ended"), null=True)
    token = models.CharField(max_length=16, blank=True, editable=False)  # of the claim
    claimed_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        default_permissions = ("view",)
        verbose_name = _("bulk action")
        verbose_name_plural = _("bulk actions")
        ordering = ["-asked_at", "-pk"]
        indexes = [
            models.Index(fields=["state", "started_at"], name="bulk_state"),
            models.Index(fields=["asked_at"], name="bulk_asked"),
        ]

    def __str__(self) -> str:
        return f"{self.listed} · {self.verb} · {self.total}"

    @property
    def in_doubt(self) -> int:
        """The number of rows that may have been changed without a recorded result."""
        return self.begun - self.at


class BulkPortion(models.Model):
    """The keys of rows of a bulk action, starting with row `first`, separated by spaces. Deleted when the action has ended."""

    action = models.ForeignKey(BulkAction, models.CASCADE, related_name="portions")
    first = models.PositiveIntegerField()
    keys = models.TextField()

    class Meta:
        default_permissions = ()
        verbose_name = _("rows of a bulk action")
        verbose_name_plural = _("rows of bulk actions")
        constraints = [models.UniqueConstraint(fields=["action", "first"], name="one_portion_at_a_place")]

    def __str__(self) -> str:
        return f"{self.action_id} · {self.first}"


# ── Rows of the store on the staff's pages, without tables ──


class StoreMark(models.Model):
    """The last mark that was written to the store, with its counts at that time. One row."""

    number = models.PositiveBigIntegerField()
    accepted = models.JSONField()  # {day since 1970: messages}
    live = models.PositiveBigIntegerField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.number)


class StoreLoss(models.Model):
    """A loss of accepted messages by the store. `messages` is an estimate."""

    incident = models.CharField(max_length=80, unique=True)
    at = models.DateTimeField(db_index=True)  # when it was detected
    safe_until = models.DateTimeField(null=True)  # no message accepted before was lost; None: unknown
    messages = models.PositiveBigIntegerField(default=0)
    repaired_at = models.DateTimeField(null=True)  # when all rooms concerned had a new epoch

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.incident


class UndeliveredRoom(models.Model):
    """A room in which a member has not acknowledged everything."""

    room = models.CharField(_("room ID"), max_length=32, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = [("retry_undelivered", "Can retry undelivered messages")]
        verbose_name = pgettext_lazy("list", "undelivered")
        verbose_name_plural = pgettext_lazy("list", "undelivered")

    def __str__(self) -> str:
        return self.room


class UndeliveredMember(models.Model):
    """A member of a room who has not acknowledged everything."""

    place = models.CharField(_("room and user"), max_length=60, primary_key=True)  # ROOM:USER

    class Meta:
        managed = False
        default_permissions = ()
        verbose_name = _("undelivered member")
        verbose_name_plural = _("undelivered members")

    def __str__(self) -> str:
        return self.place


class StoredMessage(models.Model):
    """A live message, without its text."""

    place = models.CharField(_("message"), max_length=60, primary_key=True)  # ROOM:SEQ

    class Meta:
        managed = False
        default_permissions = ("view", "delete")
        permissions = [
            ("extend_storedmessage", "Can extend a message's life"),
            ("view_body", "Can show a message's text"),
        ]
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return self.place
