"""The one error of this room that is the user's doing."""


class DataError(ValueError):
    """Recordings, tables or caches that cannot be read or used as they are. The command shows its text without a
    traceback.
    """
