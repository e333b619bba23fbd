"""The state of an installation: its figures and its faults.

1. `status` counts messages that are stored, owed and parked.
2. `site_figures` collects the figures of the staff's front page and the account of all accepted messages.
3. `health` collects the facts of every component.
4. `faults` judges the facts: one list of faults for `manage.py doctor`, `serve` and the front page.

Reads only. Knows nothing of sockets and of pages.
"""
