"""Notes of the command: through `logging`, to stderr, with the rank if several run. stdout is for the answer."""

import logging
import sys

from stages.runs.ranks import is_one_of_several, rank

ROOMS = ("stages", "datamodules", "models", "callbacks", "conf")


class ToStderr(logging.Handler):
    """A line a record, to what sys.stderr is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"rank {rank()}: " if is_one_of_several() else ""
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
