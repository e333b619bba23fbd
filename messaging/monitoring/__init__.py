"""The state of an installation: its figures and its faults.

1. `status` counts messages that are stored, owed and parked.
2. `site_figures` collects the figures of the staff's front page and the account of all accepted messages.
3. `health` collects the facts of every component.
4. `faults` derives the faults from the facts, for `manage.py doctor`, `serve`, `messaging_status` and the front page.

Never changes a message. Knows nothing of sockets and pages.
"""
