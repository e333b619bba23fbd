"""`manage.py doctor`: the state of every component of the installation, its faults and their remedies."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from messaging.monitoring import health
from messaging.monitoring.health import Component


class Command(BaseCommand):
    help = (
        "Check every component, and print each fault with its remedy. The exit code is 1 if there is a fault."
    )
    requires_system_checks: list[str] = []  # a wrong setting is a fault to report here, not an obstacle

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        components = health.components()
        healthy = not any(component.faults for component in components)
        if options["json"]:
            report = {"ok": healthy, "parts": [dataclasses.asdict(component) for component in components]}
            self.stdout.write(json.dumps(report, indent=2))
        else:
            for component in components:
                self._print(component)
        if not healthy:
            sys.exit(1)

    def _print(self, component: Component) -> None:
        facts = ", ".join(f"{name} {value}" for name, value in component.facts.items())
        state = "ok" if not component.faults else "FAULT" if component.reachable else "DOWN"
        details = " ".join(filter(None, [component.version, facts]))
        self.stdout.write(f"{component.name:<14}{state:<6}{details}".rstrip())
        for fault in component.faults:
            self.stdout.write(f"{'':<20}{fault.text}")
