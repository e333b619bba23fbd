"""Make the people and rooms of a measurement, as `seed_demo` makes them; prints {shape: [{id, members: [{id, cookie}]}]}.

Run as a command of its own, with the environment of the site that it seeds: `python -m bench.seeding 1x200 50x2`.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any


def crowd(rooms: int, members: int) -> list[dict[str, Any]]:
    """Make `rooms` rooms of `members` people each; nobody is in two of them."""
    from django.core.management import call_command

    made = []
    for _ in range(rooms):
        written = io.StringIO()
        call_command(
            "seed_demo",
            users=members,
            rooms=1,
            members=members,
            sessions=True,
            json=True,
            force=True,
            stdout=written,
        )
        seeded = json.loads(written.getvalue())
        cookies = {user["id"]: user["session"] for user in seeded["users"]}
        [room] = seeded["rooms"]
        made.append(
            {"id": room["id"], "members": [{"id": user, "cookie": cookies[user]} for user in room["members"]]}
        )
    return made


def main(shapes: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    json.dump({shape: crowd(*map(int, shape.split("x"))) for shape in shapes}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
