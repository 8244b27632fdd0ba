"""The caption gap: NLL(codes | another clip's caption) - NLL(codes | the clip's caption), in nats a clip.

A caption explains a few hundredths of the loss of a clip's codes, so that the loss cannot show whether it is heeded; the
gap is 0 where it is not. The entropy of the kind, log(number of kinds) at most, is what the kind alone can save; a model
that is sure of itself can have a larger gap, since a wrong caption costs more than none.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language.caption_pairs import CaptionPair, CaptionPairs
from datamodules.language.conversations import Turn, sound_answer, sound_request
from datamodules.language.packing import Encode, LanguageBatch, collate, pack

# a batch on the CPU -> negative log-likelihood of all its sound tokens, in nats
Likelihood = Callable[[LanguageBatch], Tensor]


class GapBatch(NamedTuple):
    """The same clips twice."""

    own: LanguageBatch
    other: LanguageBatch  # under another clip's caption, and after its words


class CaptionGap:
    """Measures a model on the same clips at every validation.

    wording: with {caption}, and {seconds} where lengths are told. A clip that is longer than tokens_per_batch is left out.
    """

    def __init__(self, chosen: CaptionPairs, encode: Encode, wording: str, pad_id: int, tokens_per_batch: int) -> None:
        self.encode, self.wording, self.pad_id, self.tokens_per_batch = encode, wording, pad_id, tokens_per_batch
        self.pairs = [pair for pair in chosen.pairs if self._longest(pair) <= tokens_per_batch]
        self.ceiling = None if chosen.kinds is None else math.log(chosen.kinds)

    @torch.no_grad()
    def sums(self, likelihood: Likelihood, rank: int, world: int, device: torch.device) -> Tensor:
        """(2) float64, of this rank's clips: the sum of their gaps, and their number."""
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in self._batches(self.pairs[rank::world]):
            own, other = (likelihood(part) for part in batch)
            sums += torch.stack([(other - own).double(), torch.tensor(len(batch.own.ids), device=device).double()])
        return sums

    def _batches(self, pairs: Sequence[CaptionPair]) -> Iterator[GapBatch]:
        rows: list[CaptionPair] = []
        longest = 0
        for pair in pairs:
            longest = max(longest, self._longest(pair))
            if rows and longest * (len(rows) + 1) > self.tokens_per_batch:
                yield self._batch(rows)
                rows, longest = [], self._longest(pair)
            rows.append(pair)
        if rows:
            yield self._batch(rows)

    def _batch(self, rows: Sequence[CaptionPair]) -> GapBatch:
        parts = []
        for conversations in zip(*map(self._conversations, rows), strict=True):
            encoded = self.encode(list(conversations))
            parts.append(
                collate([(pair.id, pack([one])) for pair, one in zip(rows, encoded, strict=True)], self.pad_id)
            )
        return GapBatch(*parts)

    def _conversations(self, pair: CaptionPair) -> list[list[Turn]]:
        """Under the clip's own caption, and under the other."""
        return [
            [
                ("user", [sound_request(self.wording, caption, pair.seconds)]),
                ("assistant", sound_answer(words, pair.codes)),
            ]
            for caption, words in ((pair.caption, pair.words), (pair.other_caption, pair.other_words))
        ]

    def _longest(self, pair: CaptionPair) -> int:
        return max(len(one.input_ids) for one in self.encode(self._conversations(pair)))
