"""The mark of memberships that are not yet confirmed by the store."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0010_names_of_fields"),
    ]

    operations = [
        migrations.AddField(
            model_name="membership",
            name="joining_at",
            field=models.DateTimeField(blank=True, editable=False, null=True, verbose_name="joining since"),
        ),
        migrations.AddIndex(
            model_name="membership",
            index=models.Index(
                condition=models.Q(("joining_at__isnull", False)),
                fields=["joining_at"],
                name="membership_joining",
            ),
        ),
    ]
