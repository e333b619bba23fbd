"""The staff's pages in Django admin.

1. Lists show rows of the database, and rows of the store (`store_rows`). `lists` has their common parts.
2. An action (`actions`, `letter_actions`, `store_actions`) checks its permission, shows a confirmation page with the number of
   rows if it needs one, and changes the rows (`action_admin`, `operations`). Every action leaves a log entry; a changed message or
   room leaves an audit entry.
3. More rows than one request can handle become a bulk action (`bulk_start`, `bulk_rows`), which the worker processes in chunks
   (`bulk_job`).
4. `overview` is the front page.

Django finds the pages by importing this package. Never imports `messaging.live`: the staff reach sockets through the store and
control events.
"""

from . import (  # noqa: F401  (registers the pages)
    audit,
    bulk_pages,
    job_lists,
    letters,
    memberships,
    messages,
    notices,
    rooms,
    undelivered_members,
    undelivered_rooms,
)
