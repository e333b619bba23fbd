"""A letter for each message, also for two that one client gave the same id a day apart."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("messaging", "0008_groups_see_bulk_actions")]

    operations = [
        migrations.RemoveConstraint(model_name="deadletter", name="one_dead_letter_per_message"),
        migrations.AddConstraint(
            model_name="deadletter",
            constraint=models.UniqueConstraint(
                fields=["room_key", "sender_key", "message_id", "epoch", "seq"],
                name="one_dead_letter_per_message",
            ),
        ),
    ]
