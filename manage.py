#!/usr/bin/env python
"""Run a management command of the site."""

import io
import os
import sys

from chatsite import environment


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a reader of a pipe gets each line at once
        sys.stdout.reconfigure(line_buffering=True)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    import django
    from django.conf import settings
    from django.core.management import ManagementUtility

    try:
        environment.prepare_command(command)
        _ = settings.SECRET_KEY  # loads the settings
    except environment.BadEnvironment as error:
        sys.exit(str(error))
    utility = ManagementUtility(sys.argv)
    if command == "version":  # `execute` would print the version of Django
        django.setup()
        utility.fetch_command(command).run_from_argv(sys.argv)
    else:
        utility.execute()


if __name__ == "__main__":
    main()
