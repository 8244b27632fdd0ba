"""The items of an epoch and their lengths, measured once and stored: three numbers an item, memory-mapped. The item
itself is made when it is asked for.

<folder>/rows.npy          (I, 3) int32: entry, which of its conversations, ids of its packed sequence; (I, 4) where
                           some are longer than max_tokens: codes without which they fit (sound_windows.py), 0 of others
<folder>/too_long.jsonl    what is above max_tokens whatever window of its sound is taken: id, kind, tokens
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.language.conversation_sources import ConversationSource
from datamodules.language.conversations import Conversation
from datamodules.language.sound_windows import codes_to_remove, window
from datamodules.sampler import unchanged

BLOCK = 256  # entries in one call of the tokenizer
FEW_BLOCKS = 16  # that one process measures as fast as several

Lengths = Callable[[Sequence[Conversation]], Sequence[int]]


class TooLong(NamedTuple):
    id: str
    kind: str
    tokens: int


class MeasuredItems:
    """The conversations of a source that fit, made when they are asked for, and the others by name."""

    def __init__(self, source: ConversationSource, rows: np.ndarray, too_long: Sequence[TooLong]) -> None:
        self.source, self.rows, self.too_long = source, rows, too_long
        digest = hashlib.sha256(np.ascontiguousarray(rows).data)
        digest.update(source.digest().encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Conversation:
        return self.of_epoch(index, 0, 0, 1)

    def of_epoch(self, index: int, epoch: int, seed: int, frame: int) -> Conversation:
        """An item, or the window of a long one in that epoch. frame: codes of a frame."""
        entry, number, _, *removed = map(int, self.rows[index])
        item = self.source[entry][number]
        return window(item, removed[0], frame, seed, epoch) if removed and removed[0] else item

    @property
    def num_windows(self) -> int:
        """Items that give a window of their sound."""
        return int(np.count_nonzero(self.rows[:, 3])) if self.rows.shape[1] > 3 else 0

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(I) int32."""
        return self.rows[:, 2]


def measure(
    source: ConversationSource,
    max_tokens: int,
    lengths: Lengths,
    num_workers: int,
    folder: Path | None,
    progress: Callable[[int], None] = lambda done: None,
    frame: int = 1,
) -> MeasuredItems:
    """folder: named by all that the lengths depend on; what it holds is taken, None stores nothing. progress: called
    with the number of entries that are measured. frame: codes of a frame, of which windows are made.
    """
    if folder is not None and (folder / "rows.npy").is_file():
        lines = (folder / "too_long.jsonl").read_text().splitlines()
        rows = np.load(folder / "rows.npy", mmap_mode="r")
        return MeasuredItems(source, rows, [TooLong(**json.loads(line)) for line in lines])
    blocks = _Blocks(source, max_tokens, lengths, frame)
    loader: Iterable[tuple[np.ndarray, list[TooLong]]] = blocks
    if num_workers and len(blocks) > FEW_BLOCKS:
        loader = DataLoader(blocks, batch_size=None, num_workers=num_workers, collate_fn=unchanged)
    parts, too_long = [np.empty((0, 4), np.int32)], []
    for number, (rows, left_out) in enumerate(loader, 1):
        parts.append(rows)
        too_long += left_out
        progress(min(number * BLOCK, len(source)))
    rows = np.concatenate(parts)
    rows = rows if rows[:, 3].any() else rows[:, :3]
    if folder is not None:
        store(folder, rows, too_long)
        rows = np.load(folder / "rows.npy", mmap_mode="r")
    return MeasuredItems(source, rows, too_long)


def store(folder: Path, rows: np.ndarray, too_long: Sequence[TooLong]) -> None:
    """Whole or not at all; what another process has stored there meanwhile stays."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "rows.npy", rows)
    (part / "too_long.jsonl").write_text("".join(json.dumps(item._asdict()) + "\n" for item in too_long))
    try:
        part.rename(folder)
    except OSError:  # another process was first, and has the same
        if not (folder / "rows.npy").is_file():
            raise
        shutil.rmtree(part)


class _Blocks(torch.utils.data.Dataset[tuple[np.ndarray, list[TooLong]]]):
    """Block of entries -> rows (n, 4) of its conversations that fit, or a window of them, and the others."""

    def __init__(self, source: ConversationSource, max_tokens: int, lengths: Lengths, frame: int) -> None:
        self.source, self.max_tokens, self.lengths, self.frame = source, max_tokens, lengths, frame

    def __len__(self) -> int:
        return -(-len(self.source) // BLOCK)

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[TooLong]]]:
        return (self[block] for block in range(len(self)))

    def __getitem__(self, block: int) -> tuple[np.ndarray, list[TooLong]]:
        entries = range(block * BLOCK, min((block + 1) * BLOCK, len(self.source)))
        items = [(entry, number, item) for entry in entries for number, item in enumerate(self.source[entry])]
        rows, too_long = [], []
        tokens = self.lengths([item for _, _, item in items]) if items else []
        for (entry, number, item), length in zip(items, tokens, strict=True):
            removed = codes_to_remove(item, length - self.max_tokens, self.frame) if length > self.max_tokens else 0
            if length - removed > self.max_tokens:
                too_long.append(TooLong(item.id, item.kind, length))
            else:
                rows.append((entry, number, length - removed, removed))
        return np.array(rows, np.int32).reshape(-1, 4), too_long
