"""What this package raises on purpose. Messages have the facts: what came, and what is allowed.

A class of its own is for whoever can say more than the facts: the command says which key to type for it.
"""


class ModelError(ValueError):
    """A model, an input, or a combination of arguments that cannot be used."""


class UnsupportedLanguageModel(ModelError):
    """An LLM whose embedding, head or logits are built in a way that new tokens and the loss do not fit."""


class UnsupportedTokenizer(ModelError):
    """A tokenizer that gives no offsets, or has a token of the name that stands for a sound."""


class UnsupportedPromptFormat(ModelError):
    """A tokenizer without what a prompt format needs: a chat template that ends its turns, or an end-of-text token."""


class RefusedTurns(ModelError):
    """Turns that a chat template does not take: a system message, or two turns of one role."""


class RewrittenTurns(ModelError):
    """A chat template that changes earlier turns of a conversation when it goes on."""


class SharedPrefixUnsupported(ModelError):
    """An LLM whose attention cannot keep conversations of one sequence apart."""


class TimestampsOff(ModelError):
    """A time in a text, and a vocabulary without times."""


class TimestampTooLate(ModelError):
    """A time in a text beyond the last one of the vocabulary."""


class MissingProbe(ModelError):
    """The linear probe was asked for, and scikit-learn is not installed."""
