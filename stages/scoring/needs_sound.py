"""The share of an accuracy that needs the sound (after Foo et al. 2026, arXiv:2604.24401, where eight models keep 60 to 72 %
of their scores on three benchmarks with no sound at all).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stages.scoring.intervals import Interval, percentile_interval, resample_counts, wilson


def share_that_needs_sound(
    counted: Mapping[str, Sequence[tuple[str, bool]]], samples: int, seed: int, with_sound: str = "with_sound"
) -> Interval:
    """1 - accuracy without the clip's sound / accuracy with it; the higher one of no sound and of another clip's.

    counted: condition -> (source, right) of each answer; two conditions or more, one of them `with_sound`. 0 for a model
    that is as good without, chance included; below 0 for one that is better without; NaN where nothing is right. Its 95 %
    interval is by clip, the same clips drawn under all conditions; Wilson's where nothing is right without the sound.
    """
    sources = list(dict.fromkeys(source for answers in counted.values() for source, _ in answers))
    index = {source: number for number, source in enumerate(sources)}
    sums = torch.zeros(len(counted), 2, len(sources), dtype=torch.float64)  # right, answered
    for condition, answers in zip(sums, counted.values(), strict=True):
        for source, is_right in answers:
            condition[:, index[source]] += torch.tensor([float(is_right), 1.0], dtype=torch.float64)
    first = list(counted).index(with_sound)

    def share(times: Tensor) -> Tensor:
        """times (R, S): how often each source comes -> (R)."""
        right, answered = (times @ sums[:, part].T for part in (0, 1))  # (R, conditions)
        accuracies = right / answered.clamp(min=1)
        beside = torch.cat([accuracies[:, :first], accuracies[:, first + 1 :]], 1).amax(1)
        return torch.where(accuracies[:, first] > 0, 1 - beside / accuracies[:, first], 0.0)

    right = sums[:, 0].sum(1)
    count = len(counted[with_sound])
    if not right[first]:
        return Interval(float("nan"), float("nan"), float("nan"), count)
    value = float(share(torch.ones(1, len(sources), dtype=torch.float64)))
    if right.sum() == right[first]:
        margin = wilson(False, len(sources))[1] / (float(right[first]) / count)
        return Interval(value, max(0.0, 1 - margin), 1.0, count)
    return percentile_interval(value, share(resample_counts(sources, samples, seed)), count)
