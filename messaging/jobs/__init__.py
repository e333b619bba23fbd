"""The jobs that the worker runs on a schedule.

1. `schedules` installs the django-q2 schedules. Each names a function of this package.
2. Every minute `retry_undelivered` runs the sweep (`sweeps`): it claims rooms with undelivered messages and sends control events.
3. Every minute `process_expired` processes expired messages (`messaging.expiry`).
4. Every hour `rewrite_log` removes expired text from the store's file on disk.
5. Each run is recorded in the store as a heartbeat.

Knows nothing of sockets: jobs and server processes meet in the store and in control events.
"""

from .schedules import (
    SCHEDULES,
    heartbeat_age_s,
    install_schedules,
    process_expired,
    repair_schedules,
    retry_undelivered,
    rewrite_log,
    run_soon,
)
from .sweeps import SweepOptions, lagging_rooms, sweep

__all__ = [
    "SCHEDULES",
    "SweepOptions",
    "heartbeat_age_s",
    "install_schedules",
    "lagging_rooms",
    "process_expired",
    "repair_schedules",
    "retry_undelivered",
    "rewrite_log",
    "run_soon",
    "sweep",
]
