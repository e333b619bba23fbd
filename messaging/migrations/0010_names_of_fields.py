"""New names of fields and choices on the staff's pages. No column changes."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0009_letters_of_an_id_used_again"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="undeliveredmember",
            options={
                "default_permissions": (),
                "managed": False,
                "verbose_name": "undelivered member",
                "verbose_name_plural": "undelivered members",
            },
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="message_id",
            field=models.CharField(blank=True, max_length=64, verbose_name="message ID"),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="room_key",
            field=models.CharField(blank=True, max_length=32, verbose_name="room ID"),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="user_key",
            field=models.BigIntegerField(null=True, verbose_name="user ID"),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="verb",
            field=models.CharField(
                choices=[
                    ("edit", "edited a message"),
                    ("delete", "deleted a message"),
                    ("extend", "extended a message's lifetime"),
                    ("shorten", "shortened the lifetimes of a room's messages"),
                    ("lifetime", "changed a room's lifetime"),
                    ("resend", "sent a message again"),
                    ("requeue", "sent a dead letter again"),
                    ("discard", "discarded a dead letter"),
                    ("undo_discard", "undid a discard"),
                    ("prune", "dropped open dead letters because there were too many"),
                ],
                max_length=12,
                verbose_name="action",
            ),
        ),
        migrations.AlterField(
            model_name="bulkaction",
            name="asked_at",
            field=models.DateTimeField(verbose_name="selected"),
        ),
        migrations.AlterField(
            model_name="bulkaction",
            name="given",
            field=models.JSONField(default=dict, verbose_name="form data"),
        ),
        migrations.AlterField(
            model_name="bulkaction",
            name="verb",
            field=models.CharField(max_length=16, verbose_name="action"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="epoch",
            field=models.CharField(max_length=64, verbose_name="log epoch"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="fault",
            field=models.CharField(blank=True, max_length=100, verbose_name="quarantined because of"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="message_id",
            field=models.CharField(max_length=64, verbose_name="message ID"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="resend_started_at",
            field=models.DateTimeField(null=True, verbose_name="resend started"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="resends",
            field=models.BigIntegerField(null=True, verbose_name="resend of seq"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="room_key",
            field=models.CharField(max_length=32, verbose_name="room ID"),
        ),
        migrations.AlterField(
            model_name="deadletter",
            name="sender_key",
            field=models.BigIntegerField(verbose_name="sender's ID"),
        ),
        migrations.AlterField(
            model_name="formeruser",
            name="user_key",
            field=models.BigIntegerField(unique=True, verbose_name="user ID"),
        ),
        migrations.AlterField(
            model_name="missedrecipient",
            name="reason",
            field=models.CharField(
                choices=[
                    ("offline", "offline"),
                    ("no_ack", "no answer"),
                    ("client_rejected", "could not display it"),
                    ("left_room", "left the room"),
                ],
                max_length=20,
                verbose_name="reason",
            ),
        ),
        migrations.AlterField(
            model_name="missedrecipient",
            name="user_key",
            field=models.BigIntegerField(verbose_name="user ID"),
        ),
        migrations.AlterField(
            model_name="notice",
            name="room_key",
            field=models.CharField(blank=True, max_length=32, verbose_name="room ID"),
        ),
        migrations.AlterField(
            model_name="room",
            name="tracked",
            field=models.BooleanField(
                default=True,
                help_text="If off, acknowledgements are not expected, and missed messages are not reported.",
                verbose_name="tracked",
            ),
        ),
    ]
