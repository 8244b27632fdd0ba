"""ModelError: the only error of this package that is raised on purpose."""


class ModelError(ValueError):
    """A model, an input, or a combination of arguments that cannot be used. The text has the facts: what came, what is allowed."""
