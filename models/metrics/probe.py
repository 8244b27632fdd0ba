"""How much of a label a representation holds in plain sight: a linear probe (Alain and Bengio 2016, arXiv:1610.01644), and the nearest counts of codes."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import ModelError


def linear_probe(
    features: Tensor, labels: Sequence[str], test_features: Tensor, test_labels: Sequence[str], penalty: float = 0.1
) -> float:
    """Accuracy on the test set of a logistic regression trained on the other; features (M, E) are standardised by the
    training set. penalty: weight of the squared norm (scikit-learn's 1 / C). Raises ModelError without scikit-learn.
    """
    found = probed(features, labels, test_features, penalty)
    return sum(one == label for one, label in zip(found, test_labels, strict=True)) / len(found)


def probed(features: Tensor, labels: Sequence[str], test_features: Tensor, penalty: float = 0.1) -> list[str]:
    """The labels that this classifier gives the test set."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ModelError("the linear probe needs scikit-learn: pip install scikit-learn, or --probe=false") from error
    mean, std = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    model = LogisticRegression(C=1 / penalty, max_iter=2000)
    model.fit(((features - mean) / std).numpy(), list(labels))
    return [str(label) for label in model.predict(((test_features - mean) / std).numpy())]


def histogram(codes: Sequence[int], codebook_size: int, levels: Sequence[int]) -> Tensor:
    """codes of a sound, code n of level levels[n % len(levels)] -> log(1 + count) of each code of each level (Q K)."""
    rows = [levels[n % len(levels)] * codebook_size + code for n, code in enumerate(codes)]
    return torch.bincount(torch.tensor(rows), minlength=(max(levels) + 1) * codebook_size).float().log1p()


def nearest_histogram(shots: Sequence[tuple[Sequence[int], str]], query: Sequence[int]) -> str:
    """The label of the shot whose counts of codes have the least angle to the query's; the first among equals. shots: (codes, label)."""

    def cosine(one: Counter[int], other: Counter[int]) -> float:
        dot = sum(count * other[code] for code, count in one.items())
        lengths = [sum(count * count for count in counts.values()) for counts in (one, other)]
        return dot / (lengths[0] * lengths[1]) ** 0.5 if all(lengths) else 0.0

    wanted = Counter(query)
    return max(shots, key=lambda shot: cosine(Counter(shot[0]), wanted))[1]
