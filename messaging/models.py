"""What the database keeps: rooms and who may be in them. Messages live in the store, never here.

A membership is written first here and then in the store (`join`); leaving marks the row, then the store's `leave`, then the
row goes. A crash between two of these is repaired at the next `hello` or by the sweep. Knows nothing of Redis.
"""

from __future__ import annotations

import zlib

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _

PARTITIONS = 64  # fixed: a room's partition is part of its keys' names


def partition_of(room: str) -> int:
    """Return the partition of a new room: fixed from then on."""
    return zlib.crc32(room.encode()) % PARTITIONS


def new_room_id() -> str:
    """Return an id of 11 letters and digits (65 bits): short, because each Redis key of the room repeats it."""
    return get_random_string(11)


class Room(models.Model):
    """A conversation; its log and cursors are the store's."""

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
        help_text=_("Off: nobody owes an acknowledgement and nobody is reported missing."),
    )
    partition = models.PositiveSmallIntegerField(editable=False)
    # The two members of a direct room, "low:high": one room a pair, whoever opens it first.
    pair = models.CharField(max_length=50, null=True, blank=True, unique=True, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
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
    """A user's right in a room. A row with `leaving_at` is on its way out and is never joined again."""

    class Role(models.TextChoices):
        OWNER = "owner", _("owner")
        MODERATOR = "moderator", _("moderator")
        MEMBER = "member", _("member")

    room = models.ForeignKey(Room, models.CASCADE, related_name="memberships", verbose_name=_("room"))
    # No constraint: a deleted user's rows are marked as leaving and stay until the store has been told (`signals`).
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.DO_NOTHING,
        db_constraint=False,
        related_name="memberships",
        verbose_name=_("user"),
    )
    role = models.CharField(_("role"), max_length=9, choices=Role, default=Role.MEMBER)
    joined_at = models.DateTimeField(_("joined"), default=timezone.now, editable=False)
    leaving_at = models.DateTimeField(_("leaving since"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [
            models.UniqueConstraint(fields=["room", "user"], name="one_membership_per_room_and_user")
        ]
        indexes = [
            models.Index(
                fields=["leaving_at"], name="membership_leaving", condition=models.Q(leaving_at__isnull=False)
            )
        ]

    def __str__(self) -> str:
        try:
            return f"{self.user} · {self.room}"
        except ObjectDoesNotExist:  # the user was deleted, and this row waits for the store
            return f"{self.user_id} · {self.room}"

    @property
    def moderates(self) -> bool:
        return self.role in (self.Role.OWNER, self.Role.MODERATOR)
