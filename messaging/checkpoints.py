"""Named places between two writes of a job. Nothing happens there in production.

A test replaces `reach` to stop or kill a worker at one of them.
"""


def reach(checkpoint: str) -> None:
    """Do nothing. `checkpoint` names the job and the place: `expiry.recorded`."""
