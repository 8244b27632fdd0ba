"""What simple classifiers read from a representation: a linear probe, and the nearest histogram of codes.

Linear probe: Alain and Bengio 2016, arXiv:1610.01644.
"""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from models.errors import MissingProbe


def linear_probe(
    features: Tensor, labels: Sequence[str], test_features: Tensor, test_labels: Sequence[str], penalty: float = 0.1
) -> float:
    """Accuracy of `linear_probe_labels` on the test set, in [0, 1]. Raises ModelError without scikit-learn."""
    predicted = linear_probe_labels(features, labels, test_features, penalty)
    return sum(one == label for one, label in zip(predicted, test_labels, strict=True)) / len(predicted)


def linear_probe_labels(
    features: Tensor, labels: Sequence[str], test_features: Tensor, penalty: float = 0.1
) -> list[str]:
    """Labels that a logistic regression, trained on features (M, E) and their labels, gives test_features (N, E).

    Features are standardised by the training set. penalty: weight of the squared norm (scikit-learn's 1 / C). Raises
    ModelError without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingProbe("the linear probe needs scikit-learn: pip install scikit-learn") from error
    mean, std = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
    model = LogisticRegression(C=1 / penalty, max_iter=2000)
    model.fit(((features - mean) / std).numpy(), list(labels))
    return [str(label) for label in model.predict(((test_features - mean) / std).numpy())]


def nearest_histogram(shots: Sequence[tuple[Sequence[int], str]], query: Sequence[int]) -> str:
    """The label of the shot whose counts of codes have the least angle to the query's; the first of equals.

    shots: codes and label of each.
    """

    def cosine(one: Counter[int], other: Counter[int]) -> float:
        dot = sum(count * other[code] for code, count in one.items())
        lengths = [sum(count * count for count in counts.values()) for counts in (one, other)]
        return dot / (lengths[0] * lengths[1]) ** 0.5 if all(lengths) else 0.0

    query_counts = Counter(query)
    return max(shots, key=lambda shot: cosine(Counter(shot[0]), query_counts))[1]
