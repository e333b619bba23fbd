"""Losses of the store: detect that it has lost accepted messages, and tell everybody who is concerned.

1. Every minute the worker writes a mark to the store, then the same number to the database (`detection.mark`). After a restart of the store it
   also lets the store rewrite its log.
2. Every process compares them (`detection.check`). If the store has a lower number, it was emptied or restored from an older copy.
3. A server process also compares the rooms of its sockets. If a log ends before a message that the process received, the store has lost
   messages, for example at a failover (`detection.record_rooms`).
4. A loss is written to the database, for `doctor`, the front page and the metrics. The account counts its messages as unaccounted for.
5. Every room concerned gets a new epoch: its clients read it again, show the period in doubt, and offer their own messages again, with
   the same ids. The store accepts those that it does not know.
6. If the database was restored from an older copy, members whom only the store knows are removed (`members`).

Knows nothing of sockets.
"""

from .detection import check, mark, record_rooms
from .figures import LossFigures, recent

__all__ = ["LossFigures", "check", "mark", "recent", "record_rooms"]
