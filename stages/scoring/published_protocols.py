"""Scoring as the authors of LTU, MMAU, MMAR and MMSU do it, faults included, for numbers beside theirs. No torch here."""

import re
from collections.abc import Sequence


def cut(text: str, way: str) -> str:
    """What LTU (Gong et al. 2023, arXiv:2305.10790) keeps of an answer.

    colon: what follows the last colon, in lower case. colon_drop: the same without its first character (a blank, where
    the model wrote "Audio caption: ..."; else the first letter is lost), punctuation or case. caption: what follows
    "Audio caption" without two characters.
    """
    if way == "colon":
        return text.split(":")[-1].lstrip().lower()
    if way == "colon_drop":
        return re.sub(r"[^\w\s]", "", text.split(":")[-1][1:]).lower()
    if way == "caption":
        return text.replace('"', "").split("Audio caption")[-1][2:]
    return text


def mmau_official(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """MMAU's string match (Sakshi et al. 2024, arXiv:2410.19168), and MMAR's (Ma et al. 2025, arXiv:2505.13032), which is
    the same: all words of the answer, and none that only other choices have.

    Blind to order and to negation: "neutral, frustration" is right for "frustration, neutral", and "It is not X" for X.
    """
    predicted, right = _words(prediction), _words(answer)
    if not predicted:
        return False
    others = set().union(*(_words(choice) for choice in choices if _words(choice) != right)) - right
    return right <= predicted and not predicted & others


def mmsu_official(prediction: str, choices: int) -> int | None:
    """Number of the choice that MMSU's evaluation reads (Wang et al. 2025, arXiv:2506.04779; mmsu_evaluation.py at 321b276),
    and AIR-Bench's, which is the same: the first character where it is one of A to D, else the last but one ("The answer
    is A."); None where neither is, or it stands before no choice.

    Blind to words: "Apples" is A. Theirs leaves an answer of another form out of the denominator; here it is wrong.
    """
    text = prediction.strip().replace("\n", "")
    letter = next((one for one in (text[:1], text[-2:-1]) if one and one in "ABCD"), None)
    number = ord(letter) - ord("A") if letter else choices
    return number if number < choices else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))
