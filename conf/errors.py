"""The one error that is the user's doing."""


class UsageError(ValueError):
    """What was typed, configured or prepared cannot be done. Its text says what came, what is allowed and what to type.

    The command shows it without a traceback. Anything else that is raised is a bug and keeps its traceback.
    """
