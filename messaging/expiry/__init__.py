"""The end of a message: the members who missed it, and the records of them.

1. The job claims expired messages from the store (`job`).
2. The store returns the members who missed each message. `reports` writes the dead letter, the missed recipients (`packing`) and the
   sender's notice (`notices`) in one transaction.
3. After that, the job clears the message in the store and informs open sockets.
4. A dead letter is resent or discarded (`letters`, `resend`, `requeue`).
5. Texts and records are deleted when their retention ends (`retention`).

Knows nothing of sockets and pages.
"""

from .job import ExpiryOptions, Processed, preview, process

__all__ = ["ExpiryOptions", "Processed", "preview", "process"]
