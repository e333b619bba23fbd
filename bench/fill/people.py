"""Make the people and rooms of a measurement, as the demo makes them; prints {shape: [{id, members: [{id, cookie}]}]}.

Run as a separate command, with the environment of the site that it seeds: `python -m bench.fill.people 1x200 50x2`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def crowd(shape: str) -> list[dict[str, Any]]:
    """Make rooms of people, nobody in two of them: `50x2`; `1x100+10000` has 10,000 more members, who have no session."""
    from bench.fill.expired import talking_room
    from messaging import demo

    rooms, _, each = shape.partition("x")
    present, _, absent = each.partition("+")
    members = int(present)
    people = demo.seed_fresh(int(rooms) * members, 0, 1, sessions=True).users
    away = [one.id for one in demo.seed_fresh(int(absent or 0), 0, 1).users] if absent else []
    return [talking_room(people[at : at + members], away) for at in range(0, len(people), members)]


def main(shapes: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    json.dump({shape: crowd(shape) for shape in shapes}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
