"""How sure a score is: 95 % intervals by clip, by bootstrap (Efron and Tibshirani 1993, chapter 8) and by Wilson's
score interval (1927).

Questions on one clip are right and wrong together, so clips are resampled, not questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Z = 1.959964  # standard deviations: 95 % of a normal distribution lies within


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval, and the number of items behind it; NaN where there are none."""

    value: float
    low: float
    high: float
    count: int


def bootstrap(right: Sequence[bool], sources: Sequence[str], samples: int, seed: int) -> Interval:
    """Share of `right`, with the interval of `resampled`.

    Where every item is right, or every one wrong, all resamples are equal and say nothing of how sure that is: then the
    interval is Wilson's over the sources.
    """
    if right and len(set(right)) == 1:
        return Interval(float(right[0]), *wilson(bool(right[0]), len(set(sources))), len(right))
    return resampled(right, sources, samples, seed)


def resampled(values: Sequence[float], sources: Sequence[str], samples: int, seed: int) -> Interval:
    """Mean of `values`, and the 2.5th and 97.5th percentile of its means when whole sources (clips) are drawn with
    replacement.
    """
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    times, numbers = resample_counts(sources, samples, seed), torch.tensor(values, dtype=torch.float64)
    return percentile_interval(float(numbers.mean()), times @ numbers / times.sum(1), len(values))


def by_recording(
    right: Sequence[bool], queries: Sequence[str], shots: Sequence[Sequence[str]], samples: int, seed: int
) -> Interval:
    """Share of `right` episodes, with an interval that knows how many recordings there are, for episodes share them.

    queries, shots: of each episode the recording that is asked about, and those of its examples. All recordings are
    drawn with replacement; an episode counts as often as its query was drawn, times the mean of its examples (after
    Owen 2007, arXiv:0712.1111). Where all are right, or all wrong: Wilson's over the queries' recordings.
    """
    if right and len(set(right)) == 1:
        return Interval(float(right[0]), *wilson(bool(right[0]), len(set(queries))), len(right))
    names = sorted({*queries, *(name for some in shots for name in some)})
    index, times = {name: number for number, name in enumerate(names)}, resample_counts(names, samples, seed)
    of_shots = [times[:, [index[name] for name in some]].mean(1) for some in shots]
    weights = times[:, [index[name] for name in queries]] * torch.stack(of_shots, 1)
    total, values = weights.sum(1), torch.tensor(right, dtype=torch.float64)
    drawn = total > 0
    return percentile_interval(float(values.mean()), weights[drawn] @ values / total[drawn], len(right))


def wilson(right: bool, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `count` clips, one at least, are all right, or all wrong."""
    margin = Z**2 / (count + Z**2)
    return (1 - margin, 1.0) if right else (0.0, margin)


def resample_counts(sources: Sequence[str], samples: int, seed: int) -> Tensor:
    """How often each item comes (samples, items) float64 when as many whole sources as there are, are drawn with
    replacement.
    """
    index = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(index), (samples, len(index)), generator=generator)
    times = torch.zeros(samples, len(index), dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    return times[:, torch.tensor([index[source] for source in sources])]


def percentile_interval(value: float, resamples: Tensor, count: int) -> Interval:
    """value, and the 2.5th and 97.5th percentile of its resamples (samples)."""
    low, high = torch.quantile(resamples, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high, count)
