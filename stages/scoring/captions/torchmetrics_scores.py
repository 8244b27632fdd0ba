"""Caption scores that need neither Java nor a hub, under their own names: torchmetrics' BLEU-4 and ROUGE-L.

They are not COCO's (which breaks ties of the closest reference length and weighs ROUGE-L otherwise): compare them with
each other, not with a paper's.
"""

from collections.abc import Sequence

from torchmetrics.text import BLEUScore, ROUGEScore

from stages.scoring.english import label_key


def torchmetrics_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """predictions: one a clip; references: all captions of that clip. Shares of 1; NaN where there are no clips."""
    if not predictions:
        return {"torchmetrics_bleu4": float("nan"), "torchmetrics_rouge_l": float("nan")}
    cleaned = [label_key(text) for text in predictions]
    targets = [[label_key(text) for text in texts] for texts in references]
    rouge = ROUGEScore(rouge_keys="rougeL", accumulate="best")(cleaned, targets)
    return {
        "torchmetrics_bleu4": float(BLEUScore(n_gram=4)(cleaned, targets)),
        "torchmetrics_rouge_l": float(rouge["rougeL_fmeasure"]),
    }
