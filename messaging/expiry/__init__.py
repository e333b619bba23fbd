"""The end of a message: who missed it, and what is kept of that.

1. The job claims expired messages from the store (`job`).
2. The store reports who missed each one. `reports` writes the dead letter, the missed recipients (`packing`) and the sender's notice
   (`notices`) in one transaction.
3. Only then the job clears the message in the store, and tells open sockets.
4. A dead letter is resent or discarded (`letters`, `resend`, `requeue`).
5. Texts and records are deleted when their retention ends (`retention`).

Knows nothing of sockets and of pages.
"""

from .job import Expiring, Processed, preview, process

__all__ = ["Expiring", "Processed", "preview", "process"]
