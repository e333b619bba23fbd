"""Named places between two writes of a job. In production they have no effect.

A test replaces `reach` to stop or kill a worker at such a place.
"""


def reach(checkpoint: str) -> None:
    """Do nothing. `checkpoint` names the job and the place: `expiry.recorded`."""
