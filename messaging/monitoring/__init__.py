"""The state of an installation, in numbers and in sentences.

1. `status` counts what is stored, owed and parked.
2. `health` checks each part of the installation. `manage.py doctor` prints its findings.
3. `site_figures` collects the figures of the staff's front page and the account of all accepted messages.

Reads only. Knows nothing of sockets and of pages.
"""
