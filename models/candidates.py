"""How likely a causal LM finds each of several answers, their common beginning read once; and what counting the codes says instead.

prefix ──read once──► keys and values ─┬─► candidate 0     log p(candidate | prefix)
                                       └─► candidate 1     ...
"""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Beginning(NamedTuple):
    """What an LM keeps of the ids that it has read."""

    cache: Any  # transformers' keys and values, of a batch of 1
    logits: Tensor  # (V) of the id that comes next
    length: int


@torch.no_grad()
def read(lm: Any, ids: Sequence[int], after: Beginning | None = None) -> Beginning:
    """ids: one or more, of any causal LM of transformers with a cache of keys and values. `after` stays as it is."""
    assert ids, "nothing to read"
    cache = copy.deepcopy(after.cache) if after else None
    batch = torch.tensor([list(ids)], device=lm.device)
    found = lm(input_ids=batch, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Beginning(found.past_key_values, found.logits[0, -1], (after.length if after else 0) + len(ids))


@torch.no_grad()
def log_likelihoods(lm: Any, after: Beginning, candidates: Sequence[Sequence[int]]) -> list[float]:
    """Of each candidate (one id or more) the sum over its ids of log p(id | what came before), in nats. One pass for all."""
    found = after.logits.float().log_softmax(-1)
    sums = found[[candidate[0] for candidate in candidates]]
    longest = max(len(candidate) for candidate in candidates)
    if longest > 1:
        rows = pad_sequence([torch.tensor(list(candidate)) for candidate in candidates], batch_first=True).to(lm.device)
        kept = torch.tensor(
            [[n < len(candidate) for n in range(longest)] for candidate in candidates], device=lm.device
        )
        cache = copy.deepcopy(after.cache)
        cache.batch_repeat_interleave(len(candidates))
        past = torch.ones(len(candidates), after.length, dtype=torch.bool, device=lm.device)
        mask = torch.cat([past, kept[:, :-1]], 1).long()
        logits = lm(input_ids=rows[:, :-1], past_key_values=cache, attention_mask=mask, use_cache=True).logits
        told = logits.float().log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]
        sums = sums + (told * kept[:, 1:]).sum(1)
    return sums.tolist()


def nearest_histogram(shots: Sequence[tuple[Sequence[int], str]], query: Sequence[int]) -> str:
    """The label of the shot whose counts of codes have the least angle to the query's; the first among equals. shots: (codes, label)."""

    def cosine(one: Counter[int], other: Counter[int]) -> float:
        dot = sum(count * other[code] for code, count in one.items())
        lengths = [sum(count * count for count in counts.values()) for counts in (one, other)]
        return dot / (lengths[0] * lengths[1]) ** 0.5 if all(lengths) else 0.0

    wanted = Counter(query)
    return max(shots, key=lambda shot: cosine(Counter(shot[0]), wanted))[1]
