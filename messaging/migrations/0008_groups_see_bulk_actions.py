from importlib import import_module

from django.db import migrations

before = import_module("messaging.migrations.0006_groups_of_the_staff")

SEES = ("view_bulkaction",)
GROUPS = dict.fromkeys(before.GROUPS, SEES)


def widen_groups(apps, schema_editor):
    """Let the groups see bulk actions. Idempotent."""
    before.grant(apps, schema_editor, GROUPS)


class Migration(migrations.Migration):
    dependencies = [("messaging", "0007_bulk_actions")]

    operations = [migrations.RunPython(widen_groups, migrations.RunPython.noop)]
