"""Notes of the command: through `logging`, to stderr; of several ranks those of rank 0, and errors of all, with the rank.

stdout is for the answer: tables, what is done, what was asked for.
"""

import logging
import sys

from stages.runs.ranks import rank

ROOMS = ("stages", "datamodules", "models", "callbacks", "conf")


class ToStderr(logging.Handler):
    """Writes to what sys.stderr is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        number = rank()
        if number and record.levelno < logging.ERROR:
            return  # rank 0 notes the same
        prefix = f"rank {number}: " if number else ""
        sys.stdout.flush()  # what was printed before comes before it where both go to one file
        print(f"{prefix}{self.format(record)}", file=sys.stderr, flush=True)


HANDLER = ToStderr()  # the only one


def set_up() -> None:
    """For the loggers of this project; those of others are left as they are."""
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        if HANDLER not in logger.handlers:
            logger.addHandler(HANDLER)
