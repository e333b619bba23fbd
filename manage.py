#!/usr/bin/env python
"""Run a management command of the site."""

import os
import sys

from chatsite import environment


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    from django.conf import settings
    from django.core.management import execute_from_command_line

    try:
        environment.prepare_command(command)
        _ = settings.SECRET_KEY  # loads them
    except environment.BadEnvironment as error:
        sys.exit(str(error))
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
