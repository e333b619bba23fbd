import django.db.models.functions.text
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0004_staff_rows"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="deadletter",
            options={
                "ordering": ["-expired_at", "id"],
                "permissions": [
                    ("requeue_deadletter", "Can send a dead letter again"),
                    ("discard_deadletter", "Can discard a dead letter and take that back"),
                    ("export_deadletter", "Can export dead letters"),
                ],
                "verbose_name": "dead letter",
                "verbose_name_plural": "dead letters",
            },
        ),
        migrations.AlterModelOptions(
            name="membership",
            options={
                "permissions": [("close_connections", "Can close a user's connections")],
                "verbose_name": "membership",
                "verbose_name_plural": "memberships",
            },
        ),
        migrations.AlterModelOptions(
            name="room",
            options={
                "ordering": [django.db.models.functions.text.Lower("name"), "id"],
                "permissions": [("change_lifetime", "Can change the lifetimes of rooms from their list")],
                "verbose_name": "room",
                "verbose_name_plural": "rooms",
            },
        ),
    ]
