"""The end of a message: its missed recipients, and the records of them.

1. The job claims expired messages from the store (`job`).
2. The store returns the members who missed each one. `reports` writes the dead letter, the missed recipients (`packing`) and the
   sender's notice (`notices`) in one transaction.
3. Only then the job clears the message in the store and tells open sockets.
4. A dead letter is resent or discarded (`letters`, `resend`, `requeue`).
5. Texts and records are deleted when their retention ends (`retention`).

Knows nothing of sockets and pages.
"""

from .job import ExpiryOptions, Processed, preview, process

__all__ = ["ExpiryOptions", "Processed", "preview", "process"]
