"""The jobs that the worker runs on a schedule.

1. `schedules` installs the django-q2 schedules. Each has the name of a function.
2. `retry_undelivered` runs the sweep every minute (`sweeps`): it claims rooms with undelivered messages and sends control events.
3. `process_expired` processes expired messages every minute (`messaging.expiry.job`).
4. `carry_on_bulk` continues bulk actions of the staff every minute (`messaging.admin.bulk_job`).
5. `mark_store` detects every minute whether the store has lost data (`messaging.losses`).
6. `rewrite_log` removes expired text from the store's log on disk every hour (`schedules`).
7. `clear_sessions` deletes ended web sessions every hour (`sessions`).
8. Each run of `retry_undelivered`, `process_expired` and `rewrite_log` is recorded in the store as a heartbeat.

Knows nothing of sockets. Jobs reach server processes only through the store and control events.
"""

from .schedules import (
    SCHEDULES,
    heartbeat_age_s,
    install_schedules,
    mark_store,
    missing_schedules,
    process_expired,
    repair_schedules,
    retry_undelivered,
    rewrite_log,
    run_soon,
)
from .sessions import clear_sessions
from .sweeps import SweepOptions, lagging_rooms, sweep

__all__ = [
    "SCHEDULES",
    "SweepOptions",
    "clear_sessions",
    "heartbeat_age_s",
    "install_schedules",
    "lagging_rooms",
    "mark_store",
    "missing_schedules",
    "process_expired",
    "repair_schedules",
    "retry_undelivered",
    "rewrite_log",
    "run_soon",
    "sweep",
]
