"""torchmetrics' BLEU-4 and ROUGE-L of captions: worked out by hand."""

import math

import pytest

from stages.scoring.captions.torchmetrics_scores import torchmetrics_scores


def test_captions_by_hand():
    """ROUGE-L: the longest common run in order, `dog barks` of 3 and of 2 words: 2 x 2 / (3 + 2). BLEU-4 needs four."""
    same = torchmetrics_scores(["A dog barks at night twice."], [["dog barks at night twice"]])
    assert same == pytest.approx({"torchmetrics_bleu4": 1.0, "torchmetrics_rouge_l": 1.0})
    part = torchmetrics_scores(["the dog now barks"], [["a cat", "dog barks"]])
    assert part == pytest.approx({"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.8})
    none = torchmetrics_scores(["rain"], [["dog barks"]])
    assert none == {"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.0}
    assert all(math.isnan(score) for score in torchmetrics_scores([], []).values())
