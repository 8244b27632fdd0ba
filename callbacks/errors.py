"""The error of a training that cannot go on."""


class TrainingError(ValueError):
    """Values that are not finite, checkpoints that are damaged. The command shows its text without a traceback."""
