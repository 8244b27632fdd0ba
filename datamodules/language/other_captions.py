"""The sounds of a batch once more, each under the caption of its neighbour in the batch.

caption 0 ► sound 0                   caption 1 ► sound 0
caption 1 ► sound 1      and then     caption 2 ► sound 1
caption 2 ► sound 2                   caption 0 ► sound 2
"""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language.packing import IGNORED, LanguageBatch


class Contrasted(NamedTuple):
    batch: LanguageBatch  # its B rows, then N that repeat the sound of one of them under another caption
    signs: Tensor  # (B + N) long: 1 an item from text to sound, -1 one that repeats its sound, 0 any other
    pairs: int  # N
    items: int  # from text to sound


def with_other_captions(batch: LanguageBatch, pad_id: int) -> Contrasted:
    """The neighbour is the next item of the batch, after the last the first, that has another caption.

    An item whose caption was dropped has no such row, nor has one without a neighbour: alone in its batch, or among
    equal captions. What a batch holds depends on its position in training alone, so the neighbours do too.
    """
    items = [row for row, caption in enumerate(batch.captions) if caption is not None]
    prompts = _prompt_lengths(batch)
    lengths = batch.attention_mask.sum(1).tolist()
    made: list[LanguageBatch] = []
    for number, row in enumerate(items):
        following = items[number + 1 :] + items[:number]
        own = batch.captions[row]
        other = next((one for one in following if own and batch.captions[one] not in ("", own)), None)
        if other is not None:
            made.append(_joined(batch, other, prompts[other], row, prompts[row], lengths[row]))
    widest = max(part.input_ids.shape[1] for part in (batch, *made))
    padded = [_padded(part, widest, pad_id) for part in (batch, *made)]
    columns = [torch.cat(parts) for parts in list(zip(*padded, strict=True))]
    signs = torch.tensor([int(caption is not None) for caption in batch.captions] + [-1] * len(made))
    ids = batch.ids + [name for part in made for name in part.ids]
    captions = [*batch.captions, *(None for _ in made)]
    return Contrasted(LanguageBatch(ids, *columns, captions), signs, len(made), len(items))


def _prompt_lengths(batch: LanguageBatch) -> list[int]:
    """Ids before the first label of each row."""
    return [int(row) for row in (batch.labels != IGNORED).int().argmax(1)]


def _joined(batch: LanguageBatch, asked: int, asked_ids: int, row: int, prompt_ids: int, length: int) -> LanguageBatch:
    """The prompt of the row `asked`, then the answer of `row`."""

    def joined(part: Tensor) -> Tensor:
        return torch.cat([part[asked, :asked_ids], part[row, prompt_ids:length]])[None]

    parts = [joined(part) for part in (batch.input_ids, batch.attention_mask, batch.labels, batch.kinds)]
    positions = torch.arange(parts[0].shape[1])[None]
    return LanguageBatch([batch.ids[row]], *parts, positions, torch.zeros_like(positions), [None])


def _padded(batch: LanguageBatch, width: int, pad_id: int) -> list[Tensor]:
    values = (pad_id, 0, IGNORED, 0, 0, 0)
    tensors = (part for part in batch if isinstance(part, Tensor))
    return [
        torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value)
        for part, value in zip(tensors, values, strict=True)
    ]
