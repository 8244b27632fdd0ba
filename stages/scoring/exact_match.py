"""Short answers compared word for word, but for case, articles and punctuation. No torch here."""

import re


def normalise(answer: str) -> str:
    """Lower case, without article, punctuation and doubled spaces: what counts when two answers are compared."""
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return " ".join(words[1:] if words[:1] and words[0] in ("a", "an", "the") else words)


def is_right(prediction: str, answer: str) -> bool:
    """Exact match after `normalise`; an empty prediction is wrong."""
    return bool(normalise(prediction)) and normalise(prediction) == normalise(answer)
