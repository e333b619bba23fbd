"""The staff's pages in Django admin.

1. `lists` shows rows of the database (read-only) and of the store (`store_rows`) as admin lists.
2. An action asks for its permission, shows a page with the number of rows, and does the work (`actions`, `store_actions`,
   `operations`). Each leaves an audit entry.
3. More rows than one request can handle become a bulk action (`bulk_rows`), which the worker processes in batches (`bulk_job`).
4. `overview` is the front page.

Django finds the pages by importing this package. Never imports `messaging.live`: the staff reach sockets through the store and
control events.
"""

from . import bulk_pages, letters, messages, rooms, undelivered  # noqa: F401  (registers the pages)
