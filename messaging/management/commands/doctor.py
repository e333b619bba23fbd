"""`manage.py doctor`: how each part of the installation is, and what to do about what is wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from messaging.monitoring import health


class Command(BaseCommand):
    help = "Say of each part whether it is well; for each fault a sentence and its remedy. Exit code 1 if there is any."
    requires_system_checks: list[str] = []  # a wrong setting is a finding here, not an obstacle

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        parts = health.parts()
        faults = [fault for part in parts for fault in part.faults]
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {"ok": not faults, "parts": [dataclasses.asdict(part) for part in parts]}, indent=2
                )
            )
        else:
            for part in parts:
                self._print(part)
        if faults:
            sys.exit(1)

    def _print(self, part: health.Part) -> None:
        facts = ", ".join(f"{name} {value}" for name, value in part.facts.items())
        state = "ok" if not part.faults else "FAULT" if part.reachable else "AWAY"
        self.stdout.write(
            f"{part.name:<14}{state:<6}{' '.join(filter(None, [part.version, facts]))}".rstrip()
        )
        for fault in part.faults:
            self.stdout.write(f"{'':<20}{fault.sentence} {fault.remedy}")
