"""The settings of the processes of a scenario: with a mutation, an app takes a rule of the code away when the process starts."""

import os

from tests.support.server_settings import *  # noqa: F403
from tests.support.server_settings import INSTALLED_APPS  # type: ignore[attr-defined]

if os.environ.get("MUTATION_FOR_TESTS"):
    INSTALLED_APPS = [*INSTALLED_APPS, "tests.faults.mutations.Mutation"]
