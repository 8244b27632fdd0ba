"""The one error of this room that is the user's doing."""


class ModelError(ValueError):
    """A model, or a combination of its arguments, that cannot be built or used. The command shows its text without a traceback."""
