"""The one error of this room that no traceback explains."""


class TrainingError(ValueError):
    """A training that cannot go on: values that are not finite, checkpoints that are damaged. The command shows its text without a traceback."""
