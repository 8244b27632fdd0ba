"""Short answers compared word for word, but for case, articles and punctuation. No torch here."""

from stages.scoring.english import label_key


def is_right(prediction: str, answer: str) -> bool:
    """Whether two answers are the same label; an empty prediction is wrong."""
    return bool(label_key(prediction)) and label_key(prediction) == label_key(answer)
