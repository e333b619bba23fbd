from django.contrib.auth.management import create_permissions
from django.db import migrations

SEES = (
    "view_auditentry",
    "view_deadletter",
    "view_formeruser",
    "view_membership",
    "view_missedrecipient",
    "view_notice",
    "view_room",
    "view_storedmessage",
    "view_undeliveredroom",
)
GROUPS = {
    "Operators": (
        *SEES,
        "discard_deadletter",
        "export_deadletter",
        "requeue_deadletter",
        "retry_undelivered",
    ),
    "Moderators": (*SEES, "delete_storedmessage", "view_body"),
}


def make_groups(apps, schema_editor):
    """Make the groups with their rights. Idempotent."""
    grant(apps, schema_editor, GROUPS)


def grant(apps, schema_editor, groups):
    """Give rights, {group: codenames}, which at the first migrate are not there yet: they follow it.

    Groups of these names that are there already keep what they may and get this as well.
    """
    using = schema_editor.connection.alias
    config = apps.get_app_config("messaging")
    # Of a migration's models it is not known that they are all of an application's.
    config.models_module = True
    create_permissions(config, apps=apps, using=using, verbosity=0)
    config.models_module = None
    permissions = apps.get_model("auth", "Permission").objects.using(using)
    for name, codenames in groups.items():
        group, _ = apps.get_model("auth", "Group").objects.using(using).get_or_create(name=name)
        found = permissions.filter(content_type__app_label="messaging", codename__in=codenames)
        group.permissions.add(*found)


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0005_rights_of_the_staff"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(make_groups, migrations.RunPython.noop)]
