"""The sounds of a batch once more, each under the caption of its neighbour in the batch.

caption 0 ► sound 0                   caption 1 ► sound 0
caption 1 ► sound 1      and then     caption 2 ► sound 1
caption 2 ► sound 2                   caption 0 ► sound 2

Words that stand before a sound go with their caption: an LLM that reads another caption writes that one's words. Before the
sound's own words it would unlearn to write what they name.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.language.packing import IGNORED, LanguageBatch


class Contrasted(NamedTuple):
    batch: LanguageBatch  # its B rows, then N that repeat the sound of one of them under another caption
    signs: Tensor  # (B + N) long: 1 an item from text to sound, -1 one that repeats its sound, 0 any other
    pairs: int  # N
    items: int  # from text to sound


def with_other_captions(batch: LanguageBatch, pad_id: int, sound_kind: int) -> Contrasted:
    """The neighbour is the next item of the batch, after the last the first, that has another caption.

    An item whose caption was dropped has no such row, nor has one without a neighbour: alone in its batch, or among
    equal captions. sound_kind: of a label that is sound. What a batch holds depends on its position in training alone, so the neighbours do too.
    """
    items = [row for row, caption in enumerate(batch.captions) if caption is not None]
    before = _ids_before_sound(batch, sound_kind)
    lengths = batch.attention_mask.sum(1).tolist()
    made: list[LanguageBatch] = []
    for number, row in enumerate(items):
        following = items[number + 1 :] + items[:number]
        own = batch.captions[row]
        other = next((one for one in following if own and batch.captions[one] not in ("", own)), None)
        if other is not None:
            made.append(_joined(batch, other, before[other], row, before[row], lengths[row]))
    signs = torch.tensor([int(caption is not None) for caption in batch.captions] + [-1] * len(made))
    return Contrasted(_stacked([batch, *made], pad_id), signs, len(made), len(items))


def _ids_before_sound(batch: LanguageBatch, sound_kind: int) -> list[int]:
    """Ids before the first label of each row that is sound."""
    return [int(row) for row in ((batch.labels != IGNORED) & (batch.kinds == sound_kind)).int().argmax(1)]


def _joined(batch: LanguageBatch, asked: int, asked_ids: int, row: int, own_ids: int, length: int) -> LanguageBatch:
    """What stands before the sound of the row `asked`, then the sound of `row`."""

    def joined(part: Tensor) -> Tensor:
        return torch.cat([part[asked, :asked_ids], part[row, own_ids:length]])[None]

    ids = joined(batch.input_ids)
    positions = torch.arange(ids.shape[1])[None]
    return LanguageBatch(
        [batch.ids[row]], ids, joined(batch.attention_mask), joined(batch.labels), joined(batch.kinds), positions,
        torch.zeros_like(positions), [None],
    )  # fmt: skip


def _stacked(batches: Sequence[LanguageBatch], pad_id: int) -> LanguageBatch:
    widest = max(part.input_ids.shape[1] for part in batches)

    def stacked(tensors: Iterable[Tensor], value: int = 0) -> Tensor:
        return torch.cat([F.pad(one, (0, widest - one.shape[1]), value=value) for one in tensors])

    return LanguageBatch(
        [name for part in batches for name in part.ids],
        stacked((part.input_ids for part in batches), pad_id),
        stacked(part.attention_mask for part in batches),
        stacked((part.labels for part in batches), IGNORED),
        stacked(part.kinds for part in batches),
        stacked(part.positions for part in batches),
        stacked(part.branches for part in batches),
        [caption for part in batches for caption in part.captions],
    )
