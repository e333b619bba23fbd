"""Indexes by user: the records that each user holds, and their notices in order."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0013_store_losses"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["user_key", "room_key", "at"], name="audit_user"),
        ),
        migrations.AddIndex(
            model_name="deadletter",
            index=models.Index(fields=["sender_key", "room_key", "expired_at"], name="dead_letter_holder"),
        ),
        migrations.AddIndex(
            model_name="deadletter",
            index=models.Index(fields=["sender", "processed_at", "id"], name="dead_letter_sender"),
        ),
        migrations.AddIndex(
            model_name="notice",
            index=models.Index(
                condition=models.Q(("dead_letter__isnull", True)),
                fields=["user", "at", "id"],
                name="notice_no_letter",
            ),
        ),
    ]
